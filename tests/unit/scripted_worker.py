"""A worker that does what a test tells it to: hold, refuse, die, fail."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from vlm2vec_service.errors import AdapterError
from vlm2vec_service.scheduling.batch import BatchInput, BatchResult
from vlm2vec_service.versions.wanted import WantedAdapter


class ScriptedWorker:
    """Answers an input with the vector ``[number]``, its first token, or what ``vectors`` has.

    ``behave`` may hold a batch up or raise; adapters named in ``unloadable`` are refused, and
    loading waits for ``gate``, if there is one.
    """

    def __init__(self, token_budget: int = 4, name: str = "scripted") -> None:
        self.name = name
        self.token_budget = token_budget
        self.ready = True
        self.dimension = 1
        self.batches: list[list[int]] = []
        self.batch_timeout = 300.0
        self.shared = False
        self.hangs = 0
        self.seconds = 0.0
        self.running = 0
        self.most_running = 0
        self.vectors: dict[int, float] = {}
        self.behave: Callable[[list[int]], Awaitable[None]] | None = None
        self.holds: list[str] = []
        self.loads: list[str] = []
        self.unloadable: set[str] = set()
        self.refused: dict[str, str] = {}
        self.wanted: dict[str, WantedAdapter] = {}
        self.gate: asyncio.Event | None = None

    async def run(
        self,
        inputs: Sequence[BatchInput],
        interactive: bool,
        callers: Mapping[str, int] = MappingProxyType({}),
        begun: Callable[[], None] = lambda: None,
    ) -> BatchResult:
        batch = [int(item.prepared.token_ids[0]) for item in inputs]
        assert all(not item.adapter or item.adapter in self.holds for item in inputs)
        self.batches.append(batch)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(0)
            begun()
            if self.behave is not None:
                await self.behave(batch)
        finally:
            self.running -= 1
        vectors = np.array([[self.vectors.get(number, number)] for number in batch], np.float32)
        if any(item.normalize for item in inputs):
            finite = np.isfinite(vectors) & (vectors != 0)
            vectors = np.where(finite, np.sign(vectors), vectors)
        return BatchResult(vectors, self.seconds)

    def hung(self) -> None:
        self.hangs += 1

    async def load_adapter(self, name: str, adapter: WantedAdapter) -> None:
        version = name.partition("@")[0]
        self.wanted[name] = adapter
        self.loads.append(version)
        self.refused.pop(name, None)
        await adapter.find()
        if self.gate:
            await self.gate.wait()
        try:
            if version in self.unloadable:
                raise AdapterError("no")
            self.holds.append(name)
            adapter.check(await self.run([adapter.probe], True))
        except AdapterError as error:
            self.refused[name] = str(error)
            if name in self.holds:
                self.holds.remove(name)
            raise

    async def unload_adapter(self, name: str) -> None:
        self.refused.pop(name, None)
        if name in self.holds:
            self.holds.remove(name)

    @property
    def held(self) -> list[str]:
        """Names of the versions that it holds, in the order of loading."""
        return [name.partition("@")[0] for name in self.holds]
