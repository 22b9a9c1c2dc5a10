"""The service beside the engine alone, in one run: what the way through the front end costs.

    python -m benchmarks.service                     # size small, on this machine

A checkpoint of random weights is written, `vlm2vec serve` started on it, and the engine run in
turns with it, on the same inputs. Closed loop: so many callers, each with one request under way,
unary, or one stream with that window. Open loop: requests at 80 % of the peak, by the clock, and
their latency. Priorities: interactive queries beside a bulk stream that takes all it can get.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import itertools
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import grpc
import numpy as np
from PIL import Image

from benchmarks.models import write_checkpoint
from tests.e2e.server import free_ports
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec.v1 import embedding_pb2_grpc
from vlm2vec_cli.bench import load
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.engine import Engine
from vlm2vec_service.preprocess import Prepared, Request
from vlm2vec_service.settings import EngineSettings

MODEL = "bench"
WORDS = [
    "a",
    "photo",
    "of",
    "the",
    "small",
    "red",
    "temple",
    "and",
    "two",
    "boats",
    "on",
    "a",
    "lake",
    "under",
    "clouds",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("tiny", "small"), default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--inputs", type=int, default=128, help="inputs per workload")
    parser.add_argument("--rounds", type=int, default=3, help="turns of service and engine")
    parser.add_argument("--workloads", nargs="+", default=["text", "image", "mixed"])
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        write_checkpoint(base, args.size)
        engine = Engine.load(base, EngineSettings(device=args.device, vision_cache_bytes=0))
        with serving(base, args.device) as address:
            print(f"{args.size} on {args.device}, bfloat16, {args.inputs} inputs a workload\n")
            for name in args.workloads:
                messages = workload(name, args.inputs)
                asyncio.run(compare(name, messages, base, engine, address, args.rounds))
            asyncio.run(priorities(workload("text", args.inputs), address))


async def compare(
    name: str,
    messages: Sequence[pb.Input],
    base: Path,
    engine: Engine,
    address: str,
    rounds: int,
) -> None:
    """Prints the table of one workload."""
    preprocessor = load_preprocessor(base)
    requests = [to_request(message) for message in messages]
    prepared = [preprocessor.prepare(request, EmbeddingConfig()) for request in requests]
    async with grpc.aio.insecure_channel(address) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        await closed(stub, messages[:16], 16)
        loops = {
            **{f"unary, {n} at once": (closed, n) for n in (8, 64, 256)},
            **{f"stream, window {n}": (streamed, n) for n in (64, 256)},
        }
        best: dict[str, float] = {"engine alone": 0.0} | dict.fromkeys(loops, 0.0)
        for _ in range(rounds):
            best["engine alone"] = max(best["engine alone"], engine_rate(engine, prepared))
            for label, (loop, at_once) in loops.items():
                seconds = await loop(stub, messages, at_once)
                best[label] = max(best[label], len(messages) / seconds)
        print(f"{name}: inputs/s, best of {rounds}")
        for label, rate in best.items():
            print(f"  {label:24} {rate:8.1f}   {rate / best['engine alone']:.3f} of the engine")
        alone, more = await one_at_a_time(stub, messages[:48], prepared[:48], engine)
        print(f"  one at a time, median: engine {alone * 1e3:.1f} ms, "
              f"service {more * 1e3:+.1f} ms for the same input")  # fmt: skip
        peak = max(rate for label, rate in best.items() if label != "engine alone")
        latencies = sorted(await opened(stub, messages, 0.8 * peak))
        p50, p95 = (latencies[int(len(latencies) * q)] for q in (0.5, 0.95))
        print(f"  open loop at 80 % of the peak: p50 {p50 * 1e3:.0f} ms, p95 {p95 * 1e3:.0f} ms\n")


def engine_rate(engine: Engine, prepared: Sequence[Prepared]) -> float:
    """Inputs/s of the engine in this process, everything prepared."""
    start = time.perf_counter()
    engine.embed([(item, None) for item in prepared])
    return len(prepared) / (time.perf_counter() - start)


async def closed(
    stub: embedding_pb2_grpc.EmbeddingServiceAsyncStub, messages: Sequence[pb.Input], at_once: int
) -> float:
    """Seconds for all ``messages``, ``at_once`` unary calls under way."""
    remaining = iter(messages)

    async def caller() -> None:
        for message in remaining:
            await stub.Embed(pb.EmbedRequest(inputs=[message]))

    start = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(min(at_once, len(messages)))))
    return time.perf_counter() - start


async def streamed(
    stub: embedding_pb2_grpc.EmbeddingServiceAsyncStub, messages: Sequence[pb.Input], window: int
) -> float:
    """Seconds for all ``messages`` in one stream, ``window`` unanswered."""
    room = asyncio.Semaphore(window)

    async def send() -> AsyncIterator[pb.EmbedStreamRequest]:
        for index, message in enumerate(messages):
            await room.acquire()
            yield pb.EmbedStreamRequest(id=str(index), input=message)

    start = time.perf_counter()
    count = 0
    async for answer in stub.EmbedStream(send()):
        if answer.HasField("error"):
            raise RuntimeError(answer.error.message)
        count += 1
        room.release()
    if count != len(messages):
        raise RuntimeError(f"{count} answers to {len(messages)} requests")
    return time.perf_counter() - start


async def one_at_a_time(
    stub: embedding_pb2_grpc.EmbeddingServiceAsyncStub,
    messages: Sequence[pb.Input],
    prepared: Sequence[Prepared],
    engine: Engine,
) -> tuple[float, float]:
    """Median seconds of one input by the engine, and of how much longer the service takes over the
    same one; in turns of eight: for a moment after its work a process's threads still spin, and its
    weights fill the caches."""
    alone, through = [], []
    for turn in range(0, len(messages), 8):
        for item in prepared[turn : turn + 8]:
            start = time.perf_counter()
            engine.embed([(item, None)])
            alone.append(time.perf_counter() - start)
        for message in messages[turn : turn + 8]:
            start = time.perf_counter()
            await stub.Embed(pb.EmbedRequest(inputs=[message]))
            through.append(time.perf_counter() - start)
    more = [service - engine for service, engine in zip(through, alone, strict=True)]
    return statistics.median(alone), statistics.median(more)


async def opened(
    stub: embedding_pb2_grpc.EmbeddingServiceAsyncStub, messages: Sequence[pb.Input], rate: float
) -> list[float]:
    """Seconds of each request, sent by the clock at ``rate`` a second, Poisson."""
    remaining = itertools.cycle(messages)

    async def send() -> str:
        await stub.Embed(pb.EmbedRequest(inputs=[next(remaining)]))
        return ""

    return (await load.opened(send, rate, len(messages) / rate)).latencies


async def priorities(messages: Sequence[pb.Input], address: str) -> None:
    """Interactive queries at 20 % of the peak beside a bulk stream that saturates the rest."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        peak = len(messages) / await streamed(stub, messages, 256)
        bulk = pb.CallOptions(priority=pb.PRIORITY_BULK)
        batches: list[float] = []
        stop = asyncio.Event()

        async def fill() -> int:
            room = asyncio.Semaphore(256)

            async def send() -> AsyncIterator[pb.EmbedStreamRequest]:
                index = 0
                while not stop.is_set():
                    await room.acquire()
                    message = messages[index % len(messages)]
                    yield pb.EmbedStreamRequest(id=str(index), input=message, options=bulk)
                    index += 1

            count = 0
            async for answer in stub.EmbedStream(send()):
                batches.append(answer.embedding.timings.inference_seconds)
                room.release()
                count += 1
            return count

        filler = asyncio.create_task(fill())
        await asyncio.sleep(2)
        latencies = sorted(await opened(stub, messages, 0.2 * peak))
        stop.set()
        await filler
    # Each answer carries its batch's time, so batches count by their inputs; the median is fair.
    batch = statistics.median(batches)
    p95 = latencies[int(len(latencies) * 0.95)]
    print(f"interactive at 20 % of the peak beside saturating bulk: p95 {p95 * 1e3:.0f} ms, "
          f"{p95 / batch:.2f} of a batch's median time ({batch * 1e3:.0f} ms)")  # fmt: skip


def workload(name: str, count: int) -> list[pb.Input]:
    """``text``: 8 to 256 words, log-uniform; ``image``: a 336-pixel JPEG; ``mixed``: in turn."""
    dice = random.Random(0)
    noise = np.random.default_rng(0)
    messages = []
    for index in range(count):
        if name == "image" or (name == "mixed" and index % 2):
            pixels = noise.integers(0, 256, (24, 24, 3), dtype=np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).resize((336, 336)).save(file, "JPEG", quality=85)
            part = pb.Part(image=file.getvalue())
            messages.append(pb.Input(instruction="Represent the given image.", parts=[part]))
        else:
            words = dice.choices(WORDS, k=int(np.exp(dice.uniform(np.log(8), np.log(256)))))
            messages.append(pb.Input(parts=[pb.Part(text=" ".join(words))]))
    return messages


def to_request(message: pb.Input) -> Request:
    """The request that the front end would make of ``message``."""
    text = " ".join(part.text for part in message.parts if part.text)
    images = [Image.open(io.BytesIO(part.image)) for part in message.parts if part.image]
    return Request(
        instruction=message.instruction or None,
        text=text or None,
        images=tuple(image.convert("RGB") for image in images),
    )


@contextlib.contextmanager
def serving(base: Path, device: str, http_listen: str = "", *flags: str) -> Iterator[str]:
    """Runs `vlm2vec serve` on ``base``; gives gRPC's address once a worker is ready."""
    address = f"127.0.0.1:{free_ports(1)[0]}"
    process = subprocess.Popen(
        [
            sys.executable, "-m", "vlm2vec_cli", "serve", "--model", f"{MODEL}={base}",
            "--listen", address, "--metrics-listen", "", "--http-listen", http_listen,
            "--device", device,
            "--vision-cache-bytes", "0", "--log-level", "WARNING", *flags,
        ]
    )  # fmt: skip
    try:
        wait_until_ready(address, process)
        yield address
    finally:
        process.terminate()
        process.wait()


def wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    """Returns when the server at ``address``, which is ``process``, has a worker that is ready.
    Raises `RuntimeError` if it has ended."""
    with grpc.insecure_channel(address) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        while process.poll() is None:
            with contextlib.suppress(grpc.RpcError):
                answer = stub.ListModels(pb.ListModelsRequest(), wait_for_ready=True, timeout=2)
                if any(model.ready for model in answer.models):
                    return
            time.sleep(0.2)
    raise RuntimeError(f"the server ended with status {process.returncode}")


if __name__ == "__main__":
    main()
