"""Many front ends on one worker: what interactive callers wait while bulk streams fill the device.

``python -m benchmarks.many_front_ends``: a simulated device does 80,000 tokens a second behind the
real worker's queue and gRPC. Each front end, with the real scheduler, has two bulk callers that
always wait, and one interactive caller at a time. Prints the interactive p50 and p95 by number of
front ends, and how long a probe takes meanwhile.
"""

import asyncio
import multiprocessing
import tempfile
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import click
import numpy as np
import torch
from prometheus_client import CollectorRegistry

from vlm2vec_service.engine import Engine
from vlm2vec_service.engine.engine import Launched
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.preprocess import Prepared
from vlm2vec_service.scheduling.batch import BatchInput
from vlm2vec_service.scheduling.fair_queue import Embedded, QueuedInput
from vlm2vec_service.scheduling.scheduler import Scheduler
from vlm2vec_service.settings import EngineSettings
from vlm2vec_service.supervision.link import open_link
from vlm2vec_service.supervision.process import Worker

DIGEST = b"simulated"
BUDGET = 16_384
BULK_TOKENS, INTERACTIVE_TOKENS = 512, 16
BULK_CALLERS, WINDOW = 2, 64


class SimulatedDevice:
    """An engine that only takes its time."""

    dim, token_budget, device = 8, BUDGET, torch.device("cpu")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.path_tokens: Counter[str] = Counter()
        self.adapters: dict[str, Any] = {}
        self.cache = self.merged = self.backbone = self
        self.hits = self.misses = self.nbytes = self.budget = 0
        self.names: list[str] = []

    def parameters(self) -> Any:
        return iter([torch.zeros(1)])

    def pack(self, items: list[Any]) -> list[Any]:
        return items

    def launch(self, items: list[Any]) -> Launched:
        time.sleep(sum(len(item.prepared) for item in items) / self.rate)
        return Launched(range(len(items)), torch.zeros(len(items), self.dim))

    def merge_step(self) -> bool:
        return False


def serve_device(address: str, rate: float) -> None:
    """Serves a simulated device on ``address`` until it is told to stop."""
    from vlm2vec_service.worker.server import serve_engine

    digest: Future[bytes] = Future()
    digest.set_result(DIGEST)
    serve_engine(cast(Engine, SimulatedDevice(rate)), Path("simulated"), digest, address)


def work(tokens: int, caller: str, interactive: bool) -> QueuedInput:
    """An input of so many tokens."""
    ids = np.zeros(tokens, np.int32)
    positions = np.broadcast_to(np.arange(tokens, dtype=np.int32), (3, tokens))
    future: asyncio.Future[Embedded] = asyncio.get_running_loop().create_future()
    item = BatchInput(Prepared(ids, positions))
    return QueuedInput(item, interactive, caller, time.monotonic() + 1e6, future)


async def front_end(number: int, address: str, seconds: float, waits: list[float]) -> None:
    """One front end with its callers; adds the seconds that each interactive input took."""
    metrics = Metrics(CollectorRegistry())
    worker = Worker("m/w", "m", Path(), DIGEST, EngineSettings(), metrics, 300.0, address)
    scheduler = Scheduler("m", 100_000, 100_000_000, metrics)
    lane = scheduler.add_worker(worker)
    ready = asyncio.Event()

    def changed() -> None:
        lane.wake.set()
        if worker.ready:
            ready.set()

    worker.on_change = changed
    watching = asyncio.create_task(worker.keep_running())
    await ready.wait()

    async def bulk(caller: str) -> None:
        while True:
            await scheduler.run(work(BULK_TOKENS, caller, False))

    streams = [asyncio.create_task(bulk(f"bulk {number}/{caller}"))
               for caller in range(BULK_CALLERS) for _ in range(WINDOW)]  # fmt: skip
    end = time.monotonic() + seconds
    await asyncio.sleep(seconds / 8)
    while time.monotonic() < end:
        started = time.monotonic()
        await scheduler.run(work(INTERACTIVE_TOKENS, f"interactive {number}", True))
        waits.append(time.monotonic() - started)
        await asyncio.sleep(0.05)
    for task in (*streams, watching):
        task.cancel()
    scheduler.close()


async def measure(count: int, address: str, seconds: float) -> tuple[list[float], list[float]]:
    """Seconds of interactive inputs, and of probes, with ``count`` front ends."""
    waits: list[float] = []
    probes: list[float] = []

    async def probe() -> None:
        async with open_link(address) as link:
            while True:
                started = time.monotonic()
                await link.status()
                probes.append(time.monotonic() - started)
                await asyncio.sleep(0.1)

    probing = asyncio.create_task(probe())
    await asyncio.gather(*(front_end(i, address, seconds, waits) for i in range(count)))
    probing.cancel()
    return waits, probes


@click.command()
@click.option("--counts", default="1,2,4,8", help="Numbers of front ends.", show_default=True)
@click.option("--rate", default=80_000.0, help="Tokens a second.", show_default=True)
@click.option("--seconds", default=15.0, help="How long for each number.", show_default=True)
def main(counts: str, rate: float, seconds: float) -> None:
    """Print what interactive callers wait, by number of front ends on one worker."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"unix:{folder}/worker.sock"
        context = multiprocessing.get_context("spawn")
        device = context.Process(target=serve_device, args=(address, rate))
        device.start()
        first = 0.0
        print("front ends  interactive p50   p95      of one  probe p95")
        try:
            for count in map(int, counts.split(",")):
                waits, probes = asyncio.run(measure(count, address, seconds))
                p50, p95 = np.percentile(waits, (50, 95)) * 1000
                first = first or p95
                probe = np.percentile(probes, 95) * 1000
                print(
                    f"{count:10}  {p50:10.0f} ms  {p95:6.0f} ms  {p95 / first:5.2f}"
                    f"  {probe:6.1f} ms", flush=True,
                )  # fmt: skip
        finally:
            device.terminate()
            device.join()


if __name__ == "__main__":
    main()
