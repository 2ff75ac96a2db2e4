"""Objects through obstore. The module loads it, so it is imported when a bucket is opened and not before."""

from collections.abc import Sequence

from obstore.store import GCSStore


class Objects(GCSStore):
    """A store whose deletes succeed for what is not there, as those of the other clouds do."""

    def delete(self, paths: str | Sequence[str]) -> None:
        """Delete one object or many."""
        try:
            super().delete(paths)
        except FileNotFoundError:
            for path in () if isinstance(paths, str) else paths:  # which of them were deleted is not said
                self.delete(path)

    async def delete_async(self, paths: str | Sequence[str]) -> None:
        """Delete one object or many."""
        try:
            await super().delete_async(paths)
        except FileNotFoundError:
            for path in () if isinstance(paths, str) else paths:
                await self.delete_async(path)
