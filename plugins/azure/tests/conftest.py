from plugins.azure.tests.azure_world import world

__all__ = ["world"]
