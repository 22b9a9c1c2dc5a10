"""A worker whose front end gave a batch up: what hangs ends the process, and nothing else does."""

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from tests.e2e.server import wait_until
from vlm2vec.worker.v1 import worker_pb2
from vlm2vec_service.engine import Engine
from vlm2vec_service.engine.engine import Launched
from vlm2vec_service.worker import servicer


class BlockedEngine:
    """An engine whose batches take until ``gate`` is open."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.begun = 0
        self.cache = self.merged = self
        self.hits = self.misses = self.nbytes = 0
        self.names: list[str] = []
        self.path_tokens: Counter[str] = Counter()

    def pack(self, items: list[Any]) -> list[Any]:
        return items

    def launch(self, items: list[Any]) -> Launched:
        self.begun += 1
        self.gate.wait()
        return Launched(range(len(items)), torch.zeros(len(items), 2))

    def merge_step(self) -> bool:
        return False


class FrontEnd:
    """A call of RunBatch by a front end, which can give it up."""

    def __init__(self, worker: servicer.WorkerServicer, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.began = threading.Event()
        item = worker_pb2.Item(token_ids=np.zeros(1, np.int32).tobytes())
        request = worker_pb2.RunBatchRequest(items=[item])
        call = worker.RunBatch(request, cast(Any, self))
        self.result: Future[Any] = asyncio.run_coroutine_threadsafe(call, loop)

    async def send_initial_metadata(self, metadata: object) -> None:
        self.began.set()

    def give_up(self) -> None:
        self.result.cancel()
        for _ in range(3):  # the loop has to hear of it
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self.loop).result(10)


Scene = tuple[BlockedEngine, Callable[[], FrontEnd], list[int]]


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """An engine, how to call a worker on it, and the statuses with which the process would have
    ended."""
    ends: list[int] = []
    monkeypatch.setattr(servicer, "GIVEN_UP_SECONDS", 0.5)
    monkeypatch.setattr(os, "_exit", ends.append)
    engine, stopped = BlockedEngine(), threading.Event()
    with ThreadPoolExecutor() as threads:
        worker = servicer.WorkerServicer(cast(Engine, engine), Path(), Future(), threads)
        device = threading.Thread(target=worker.device.run_until, args=(stopped.is_set,))
        device.start()
        loop = asyncio.new_event_loop()
        calls = threading.Thread(target=loop.run_forever)
        calls.start()
        yield engine, lambda: FrontEnd(worker, loop), ends
        engine.gate.set()
        stopped.set()
        device.join()
        loop.call_soon_threadsafe(loop.stop)
        calls.join()
        loop.close()


def test_a_batch_that_hangs_ends_the_process(scene: Scene) -> None:
    engine, call, ends = scene
    running = call()
    wait_until(lambda: engine.begun)
    assert running.began.wait(10)
    running.give_up()
    wait_until(lambda: ends == [1])


def test_one_that_ends_in_time_and_one_that_has_not_begun_end_nothing(scene: Scene) -> None:
    engine, call, ends = scene
    running = call()
    wait_until(lambda: engine.begun)
    waiting = call()
    waiting.give_up()
    with pytest.raises(CancelledError):
        waiting.result.result(10)
    assert not waiting.began.is_set()
    running.give_up()
    engine.gate.set()
    answered = call()
    assert answered.result.result(10)
    answered.give_up()
    threading.Event().wait(0.8)
    assert ends == []
    assert engine.begun == 2
