"""The thread of a worker's device: batches in their order, loading in the gaps between them."""

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import cast

import pytest
import torch

from vlm2vec_service.engine import Engine
from vlm2vec_service.engine.engine import Launched
from vlm2vec_service.engine.low_rank import LowRank
from vlm2vec_service.engine.packing import Item
from vlm2vec_service.worker.device import DeviceQueue

BATCH = cast(list[Item], [])
LAYER = LowRank(torch.zeros(1, 1), torch.zeros(1, 1))


class SlowEngine:
    """Notes what it runs; ``gate`` holds a batch up, and one of its own takes 20 ms.

    There are ``to_merge`` steps of merging to do, and ``copies`` that are in the way of a batch.
    """

    def __init__(self, to_merge: int = 0, copies: int = 0) -> None:
        self.gate = threading.Event()
        self.order: list[str] = []
        self.to_merge = to_merge
        self.copies = copies
        self.most_items = 1000
        self.path_tokens: collections.Counter[str] = collections.Counter()
        self.merged = self

    def pack(self, items: list[Item]) -> list[Item]:
        return items

    def launch(self, items: list[Item]) -> Launched:
        self.gate.wait(10)
        if self.copies or len(items) > self.most_items:
            self.order.append("failed")
            raise torch.OutOfMemoryError("no memory")
        time.sleep(0.02)
        self.order.append("batch")
        self.path_tokens["merged"] += len(items)
        count = max(1, len(items))
        return Launched(range(count), torch.zeros(count, 1))

    def merge_step(self) -> bool:
        if not self.to_merge:
            return False
        self.to_merge -= 1
        time.sleep(0.01)
        self.order.append("merge")
        return True

    def free_one(self) -> bool:
        self.order.append("free")
        if not self.copies:
            return False
        self.copies -= 1
        return True

    def step(self, seconds: float = 0.0) -> Callable[[], LowRank]:
        def step() -> LowRank:
            time.sleep(seconds)
            self.order.append("step")
            return LAYER

        return step


@contextlib.contextmanager
def running(engine: SlowEngine) -> Iterator[DeviceQueue]:
    device = DeviceQueue(cast(Engine, engine))
    over = threading.Event()
    thread = threading.Thread(target=device.run_until, args=(over.is_set,))
    thread.start()
    try:
        yield device
    finally:
        engine.gate.set()
        over.set()
        thread.join()


def test_steps_run_at_once_while_no_batch_waits() -> None:
    engine = SlowEngine()
    with running(engine) as device:
        assert device.spread([engine.step() for _ in range(100)]) == [LAYER] * 100


def run_at_once(
    device: DeviceQueue, engine: SlowEngine, interactive: tuple[bool, ...], steps: int
) -> None:
    """Runs batches, and ``steps`` of 0.1 s that were all queued before the second of them began."""
    batches = [device.submit(BATCH, each, {}) for each in interactive]
    loading = threading.Thread(target=device.spread, args=([engine.step(0.1)] * steps,))
    loading.start()
    while len(device._steps) < steps:
        time.sleep(0.001)
    engine.gate.set()
    for batch in batches:
        batch.result(10)
    loading.join(10)


def test_batches_go_first_and_steps_get_a_share_after_each() -> None:
    engine = SlowEngine()
    with running(engine) as device:
        run_at_once(device, engine, (True, False, True), 5)
    # A step takes longer than the share of a batch: one fits after each, the rest when it is quiet.
    # The first batch began before there were steps, and may have ended so.
    assert "".join(name[0] for name in engine.order) in ("bsbsbsss", "bbsbssss")


def test_what_a_step_raises_is_raised_and_the_device_goes_on() -> None:
    engine = SlowEngine()
    engine.gate.set()

    def fail() -> LowRank:
        raise ValueError("broken")

    with running(engine) as device:
        with pytest.raises(ValueError, match="broken"):
            device.spread([engine.step(), fail, engine.step()])
        assert device.submit(BATCH, True, {}).result(10).vectors.shape == (1, 1)
    # Who comes when it is over does not wait for ever.
    assert device.spread([engine.step()]) == [LAYER]


def letters(engine: SlowEngine) -> str:
    return "".join(name[0] for name in engine.order)


def test_merging_is_for_when_no_batch_waits_and_nothing_loads() -> None:
    engine = SlowEngine(to_merge=6)
    with running(engine) as device:
        run_at_once(device, engine, (True, True, True), 2)
        while engine.to_merge:
            time.sleep(0.001)
    # After a batch there is time for one step, of loading as long as there is something to load.
    # What is left is merged when it is quiet; before the first batch there may have been a step.
    assert letters(engine).lstrip("m").rstrip("m") in ("bsbsb", "bbsbs")
    assert letters(engine).count("m") == 6


def test_batch_waits_for_one_step_of_merging_at_most() -> None:
    engine = SlowEngine(to_merge=1000)
    engine.gate.set()
    with running(engine) as device:
        for _ in range(5):
            while "merge" not in engine.order[-1:]:
                time.sleep(0.001)
            device.submit(BATCH, True, {}).result(10)
        engine.to_merge = 0
    # It goes on between two batches, and a batch goes before all that is left of it.
    assert letters(engine).count("b") == 5
    assert "bb" not in letters(engine)


def test_batches_that_wait_leave_a_share_to_merging() -> None:
    engine = SlowEngine(to_merge=1000)
    with running(engine) as device:
        batches = [device.submit(BATCH, True, {}) for _ in range(5)]
        engine.gate.set()
        for batch in batches:
            batch.result(10)
        engine.to_merge = 0
    assert letters(engine).lstrip("m").startswith("bmbmbmbmb")


def test_tokens_by_path_are_the_batchs_own() -> None:
    engine = SlowEngine()
    engine.path_tokens["low_rank"] = 7
    engine.gate.set()
    with running(engine) as device:
        for count in (3, 5):
            items = cast(list[Item], [None] * count)
            assert device.submit(items, True, {}).result(10).path_tokens == {"merged": count}


def test_copies_leave_before_a_batch_is_split() -> None:
    engine = SlowEngine(copies=2)
    engine.most_items = 2
    engine.gate.set()
    with running(engine) as device:
        items = cast(list[Item], [None] * 4)
        ran = device.submit(items, True, {}).result(10)
        assert len(ran.vectors) == 4
        engine.most_items = 0
        with pytest.raises(torch.OutOfMemoryError, match="no memory"):
            device.submit(items[:1], True, {}).result(10)
    assert letters(engine) == "ff" * 3 + "bb" + "ff"
