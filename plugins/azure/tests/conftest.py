from anyscale_azure.testing import world

__all__ = ["world"]
