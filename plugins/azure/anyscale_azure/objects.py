"""The objects of a container, opened with obstore; loaded by the first call that needs it."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from anyscale_azure.client import Azure
from anyscale_core.errors import CloudError, Transient
from anyscale_core.models.storage import UrlMethod

RETRY: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}


def open_store(azure: Azure, container: str, prefix: str = "") -> Any:
    """Return the store of a container below a prefix, with the control plane's own rights. No call is made."""
    from obstore.store import AzureStore

    class Objects(AzureStore):
        """A container whose deletes succeed for what is not there."""

        def delete(self, paths: Any) -> None:
            """Delete one object or many; there may be none."""
            for path in _each(paths):
                try:
                    super().delete(path)
                except FileNotFoundError:
                    continue

        async def delete_async(self, paths: Any) -> None:
            """Delete one object or many; there may be none."""
            for path in _each(paths):
                try:
                    await super().delete_async(path)
                except FileNotFoundError:
                    continue

    def credential() -> Any:
        token, ends = azure.token()
        return {"token": token, "expires_at": datetime.fromtimestamp(ends, UTC)}

    settings = azure.settings
    options: Any = {"timeout": "60 seconds"}
    if settings.ca_file:
        options["root_certificate"] = Path(settings.ca_file).read_bytes()
    where: Any = {"account_name": settings.storage_account, "endpoint": azure.blob_url(settings.storage_account)}
    return Objects(
        container, prefix=prefix.rstrip("/") or None, **where, credential_provider=credential, client_options=options,
        retry_config=RETRY,
    )  # fmt: skip


def signed(azure: Azure, container: str, key: str, method: UrlMethod, expires_in: timedelta) -> str:
    """Return a URL that a user delegation key signs. Raises Transient when the account gives none."""
    import obstore
    from obstore.exceptions import BaseError

    try:
        return str(obstore.sign(open_store(azure, container), method.value, key, expires_in))
    except CloudError:
        raise
    except (BaseError, OSError) as error:
        hint = "the control plane needs Storage Blob Delegator (generateUserDelegationKey) on the account"
        raise Transient(f"no URL could be signed: {error}", reason="SERVER", hint=hint) from error


def _each(paths: Any) -> Iterable[str]:
    return [paths] if isinstance(paths, str) else paths
