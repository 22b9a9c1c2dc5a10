"""The files of versions, on this host's disk: fetched from the registry, and verified."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

from vlm2vec_registry import artifact
from vlm2vec_registry.cache import Cache
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.snapshot import PublishedVersion
from vlm2vec_registry.space import space_of, spaces_of
from vlm2vec_service.errors import AdapterError
from vlm2vec_service.tasks import in_daemon_thread
from vlm2vec_service.versions.catalog import Version

FETCHES = 4
"""Versions that are fetched and verified at once."""
FETCHING_NICENESS = 10
"""Of the threads that do it, on Linux: requests get nine tenths of a core that both want."""

Fetch = Callable[[PublishedVersion, Path], None]
"""Puts a version's files into an empty folder."""


class VersionFiles:
    """Finds the files of one model's versions. ``base_digest`` is that of the model's base;
    ``cache`` and ``fetch`` are needed only for versions that are published in a registry."""

    def __init__(
        self, base_digest: bytes, cache: Cache | None = None, fetch: Fetch | None = None
    ) -> None:
        self.base_digest = base_digest
        self._cache = cache
        self._fetch = fetch
        self._places = asyncio.Semaphore(FETCHES)

    async def find(self, version: Version) -> tuple[Path, int]:
        """Returns the version's folder, verified, and the bytes of its weights; it stays where it
        is until `release`. Raises `AdapterError`, `ArtifactError` and `OutageError`."""
        async with self._places:
            return await in_daemon_thread(lambda: self._find_slowly(version))

    def release(self, version: Version) -> None:
        """Lets the version's files go when space is needed."""
        if version.published is not None and self._cache is not None:
            self._cache.release(version.published.digests)

    def _find_slowly(self, version: Version) -> tuple[Path, int]:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), FETCHING_NICENESS)
        return self._find(version)

    def _find(self, version: Version) -> tuple[Path, int]:
        folder = self._fetched(version.published) if version.published else version.folder
        assert folder is not None
        try:
            spaces: tuple[str, ...] = (space_of(self.base_digest, folder),)
            if version.space not in spaces:  # by an earlier rule, which reads the weights again
                spaces = spaces_of(self.base_digest, folder)
            config = EmbeddingConfig.read(folder)
            nbytes = (folder / artifact.WEIGHTS).stat().st_size
        except (OSError, ValueError) as error:
            raise AdapterError(str(error)) from error
        if version.space not in spaces:
            said = "as its tag says" if version.published else "as when the server started"
            raise AdapterError(
                f"its files make vectors of space {spaces[0]}, not {version.space} {said}"
            )
        if config != version.config:
            raise AdapterError("its embedding.json is not what its tag vlm2vec.embedding says")
        return folder, nbytes

    def _fetched(self, published: PublishedVersion) -> Path:
        assert self._cache is not None
        assert self._fetch is not None
        fetch = self._fetch
        if published.base != self.base_digest.hex():
            raise AdapterError(
                f"made for another base (digest {published.base[:12]}, "
                f"served is {self.base_digest.hex()[:12]}); serve that one, or train on this"
            )
        return self._cache.get(published.digests, lambda place: fetch(published, place))
