"""A worker that does what a test tells it to: hold, refuse, die, fail."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np

from vlm2vec_service.errors import AdapterError
from vlm2vec_service.scheduling.batch import BatchInput, BatchResult


class ScriptedWorker:
    """Answers an input with the vector ``[number]``, its first token, or what ``vectors`` has.

    ``behave`` may hold a batch up or raise; adapters named in ``unloadable`` are refused, and
    loading waits for ``gate``, if there is one.
    """

    def __init__(self, token_budget: int = 4, name: str = "scripted") -> None:
        self.name = name
        self.token_budget = token_budget
        self.ready = True
        self.device = "cuda:0"
        self.dimension = 1
        self.batches: list[list[int]] = []
        self.running = 0
        self.most_running = 0
        self.vectors: dict[int, float] = {}
        self.behave: Callable[[list[int]], Awaitable[None]] | None = None
        self.holds: list[str] = []
        self.loads: list[str] = []
        self.unloadable: set[str] = set()
        self.refused: dict[str, str] = {}
        self.gate: asyncio.Event | None = None

    async def run(self, inputs: Sequence[BatchInput], interactive: bool) -> BatchResult:
        batch = [int(item.prepared.token_ids[0]) for item in inputs]
        assert all(not item.adapter or item.adapter in self.holds for item in inputs)
        self.batches.append(batch)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(0)
            if self.behave is not None:
                await self.behave(batch)
        finally:
            self.running -= 1
        vectors = [[self.vectors.get(number, number)] for number in batch]
        return BatchResult(np.array(vectors, np.float32), seconds=0.0)

    async def load_adapter(self, name: str, folder: Path) -> None:
        self.loads.append(name)
        self.refused.pop(name, None)
        if self.gate:
            await self.gate.wait()
        if name in self.unloadable:
            self.refused[name] = "no"
            raise AdapterError("no")
        self.holds.append(name)

    async def refuse_adapter(self, name: str, reason: str) -> None:
        self.holds.remove(name)
        self.refused[name] = reason

    async def unload_adapter(self, name: str) -> None:
        self.refused.pop(name, None)
        if name in self.holds:
            self.holds.remove(name)
