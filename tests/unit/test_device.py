"""The thread of a worker's device: batches in their order, loading in the gaps between them."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import pytest
import torch

from vlm2vec_service.engine import Engine
from vlm2vec_service.engine.low_rank import LowRank
from vlm2vec_service.engine.packing import Item
from vlm2vec_service.worker.device import DeviceQueue

BATCH = cast(list[Item], [])
LAYER = LowRank(torch.zeros(1, 1), torch.zeros(1, 1))


class SlowEngine:
    """Notes what it runs; ``gate`` holds a batch up, and one of its own takes 20 ms."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.order: list[str] = []

    def run(self, items: list[Item]) -> np.ndarray:
        self.gate.wait(10)
        time.sleep(0.02)
        self.order.append("batch")
        return np.zeros((1, 1), np.float32)

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


def test_batches_go_first_and_steps_get_a_share_after_each() -> None:
    engine = SlowEngine()
    with running(engine) as device:
        batches = [device.submit(BATCH, interactive) for interactive in (True, False, True)]
        steps = threading.Thread(target=device.spread, args=([engine.step(0.1)] * 5,))
        steps.start()
        while len(device._steps) < 5:
            time.sleep(0.001)
        engine.gate.set()
        for batch in batches:
            batch.result(10)
        steps.join(10)
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
        assert device.submit(BATCH, True).result(10)[0].shape == (1, 1)
    # Who comes when it is over does not wait for ever.
    assert device.spread([engine.step()]) == [LAYER]
