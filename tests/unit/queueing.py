"""Inputs as the queue holds them, and a scheduler with a scripted worker."""

import asyncio
import time

import numpy as np
from prometheus_client import CollectorRegistry

from tests.unit.scripted_worker import ScriptedWorker
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.preprocess import Prepared
from vlm2vec_service.scheduling.batch import BatchInput
from vlm2vec_service.scheduling.fair_queue import Embedded, QueuedInput
from vlm2vec_service.scheduling.lane import Lane
from vlm2vec_service.scheduling.scheduler import Scheduler

FOREVER = time.monotonic() + 1e6


def work(
    number: int = 0,
    tokens: int = 1,
    caller: str = "a",
    interactive: bool = True,
    deadline: float = FOREVER,
    adapter: str = "",
) -> QueuedInput:
    """Input ``number``, which is also its first token."""
    ids = np.full(tokens, number, np.int32)
    positions = np.broadcast_to(np.arange(tokens, dtype=np.int32), (3, tokens))
    future: asyncio.Future[Embedded] = asyncio.get_running_loop().create_future()
    item = BatchInput(Prepared(ids, positions), adapter)
    return QueuedInput(item, interactive, caller, deadline, future)


def numbers(inputs: list[QueuedInput]) -> list[int]:
    return [int(queued.input.prepared.token_ids[0]) for queued in inputs]


def start(
    worker: ScriptedWorker, max_requests: int = 1000, max_tokens: int = 1000
) -> tuple[Scheduler, Lane]:
    scheduler = Scheduler("m", max_requests, max_tokens, Metrics(CollectorRegistry()))
    return scheduler, scheduler.add_worker(worker)
