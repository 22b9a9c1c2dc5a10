"""A worker whose front end gave a batch up: what hangs ends the process, and nothing else does."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from tests.e2e.server import wait_until
from vlm2vec.worker.v1 import worker_pb2
from vlm2vec_service.engine import Engine
from vlm2vec_service.engine.engine import Launched
from vlm2vec_service.preprocess import Prepared
from vlm2vec_service.worker import servicer
from vlm2vec_service.worker.codec import encode_item


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
    """A call of RunBatch, and the context by which it can be given up."""

    def __init__(self, worker: servicer.WorkerServicer) -> None:
        self.give_up: Callable[[], None] = lambda: None
        self.added = threading.Event()
        self.result: object = None
        self.thread = threading.Thread(target=self._call, args=(worker,), daemon=True)
        self.thread.start()
        assert self.added.wait(10)

    def add_callback(self, callback: Callable[[], None]) -> None:
        self.give_up = callback
        self.added.set()

    def _call(self, worker: servicer.WorkerServicer) -> None:
        tokens = np.zeros(1, np.int32)
        item = encode_item(Prepared(tokens, np.zeros((3, 1), np.int32)), "", None)
        try:
            request = worker_pb2.RunBatchRequest(items=[item])
            self.result = worker.RunBatch(request, cast(Any, self))
        except CancelledError as error:
            self.result = error


Scene = tuple[BlockedEngine, servicer.WorkerServicer, list[int]]


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """An engine, a worker on it, and the statuses with which the process would have ended."""
    ends: list[int] = []
    monkeypatch.setattr(servicer, "GIVEN_UP_SECONDS", 0.5)
    monkeypatch.setattr(os, "_exit", ends.append)
    engine, stopped = BlockedEngine(), threading.Event()
    worker = servicer.WorkerServicer(cast(Engine, engine), Path(), Future())
    thread = threading.Thread(target=worker.device.run_until, args=(stopped.is_set,))
    thread.start()
    yield engine, worker, ends
    engine.gate.set()
    stopped.set()
    thread.join()


def test_a_batch_that_hangs_ends_the_process(scene: Scene) -> None:
    engine, worker, ends = scene
    call = FrontEnd(worker)
    wait_until(lambda: engine.begun)
    call.give_up()
    wait_until(lambda: ends == [1])


def test_one_that_ends_in_time_and_one_that_has_not_begun_end_nothing(scene: Scene) -> None:
    engine, worker, ends = scene
    running = FrontEnd(worker)
    wait_until(lambda: engine.begun)
    waiting = FrontEnd(worker)
    waiting.give_up()
    waiting.thread.join(10)
    assert isinstance(waiting.result, CancelledError)
    running.give_up()
    engine.gate.set()
    running.thread.join(10)
    answered = FrontEnd(worker)
    answered.thread.join(10)
    answered.give_up()
    threading.Event().wait(0.8)
    assert ends == []
    assert engine.begun == 2
