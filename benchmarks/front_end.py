"""What the front end does by itself: inputs/s, and the CPU time of an input, by front-end process.

    python -m benchmarks.front_end                   # a table
    python -m benchmarks.front_end --json            # ends with one line: inputs/s by processes

`vlm2vec serve` runs on a checkpoint of random weights with a worker that answers at once
(`benchmarks.null_worker`). One front-end process has a core to itself, worker and load the others;
more of them share all cores with both. Texts have 8 words; images are JPEGs. Texts of a stream that
may be sent together go in one message, as our clients send them, or singly, as others do.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import os
import pickle
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.load import Load
from benchmarks.models import random_backbone, write_checkpoint, write_dora
from benchmarks.null_worker import DIMENSION
from benchmarks.service import MODEL, WORDS, wait_until_ready
from tests.e2e.server import free_ports
from vlm2vec.v1 import embedding_pb2 as pb

WARM_SECONDS = 1.5
FLOAT_BYTES = 4
BASE64_BYTES = 4 * DIMENSION * FLOAT_BYTES // 3
EMBED, STREAM = "/vlm2vec.v1.EmbeddingService/Embed", "/vlm2vec.v1.EmbeddingService/EmbedStream"


@dataclass(frozen=True)
class Workload:
    """A kind of load, whose address is filled in later, and the inputs in one of its requests."""

    name: str
    load: Load
    inputs: int = 1


@dataclass(frozen=True)
class Served:
    """A running server: its first process, how many it has, and its addresses of gRPC and HTTP."""

    processes: int
    process: subprocess.Popen[bytes]
    address: str
    http_address: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cores = len(os.sched_getaffinity(0))
    parser.add_argument(
        "--processes", type=int, nargs="+", default=[1, *range(2, cores + 1)],
        help="numbers of front-end processes to measure",
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each is measured")
    parser.add_argument("--clients", type=int, default=1, help="processes that make the load")
    parser.add_argument("--workloads", nargs="+", help="some of them, by name; the default is all")
    parser.add_argument(
        "--adapter", action="store_true", help="ask a version with an adapter, not the base model"
    )
    parser.add_argument("--json", action="store_true", help="end with one line, an object")
    args = parser.parse_args()
    chosen = [one for one in workloads() if not args.workloads or one.name in args.workloads]
    rates: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        backbone = random_backbone("tiny", torch.device("cpu"), torch.float32)
        write_checkpoint(base, "tiny", backbone)
        version = []
        if args.adapter:
            (base / "adapter").mkdir()
            write_dora(base / "adapter", backbone, rank=4, seed=0)
            version = ["--adapter", f"{MODEL}/1={base / 'adapter'}"]
        for processes in args.processes:
            print(f"front-end processes: {processes}\n  {'':26} inputs/s   CPU ms an input")
            with served(base, processes, version) as server:
                rows = rates[str(processes)] = {}
                for one in chosen:
                    requests, cpu = measure(one, server, args.clients, args.seconds)
                    inputs = requests * one.inputs
                    rows[one.name] = round(inputs / args.seconds, 1)
                    each = 1000 * cpu / max(1, inputs)
                    print(f"  {one.name:26} {rows[one.name]:8.1f} {each:17.3f}", flush=True)
    if args.json:
        print(json.dumps(rates))


def workloads() -> list[Workload]:
    """All kinds of load, by the names that the JSON has for them."""
    dice = random.Random(0)
    texts = [" ".join(dice.choices(WORDS, k=8)) for _ in range(512)]
    small = [jpeg(336, 336, seed) for seed in range(32)]
    large = [jpeg(4000, 3000, seed) for seed in range(2)]
    calls = [texts[at : at + 32] for at in range(0, len(texts), 32)]
    parts = [part(text) for text in texts]
    as_json = [json_body([text]) for text in texts]
    return [
        Workload("text_unary", grpc_load([embed(text) for text in texts], 2, 32)),
        Workload("text_calls_of_32", grpc_load([embed(*call) for call in calls], 2, 8, 32), 32),
        Workload("text_stream", grpc_load(parts, 2, 128, stream=True, more=True)),
        Workload("text_stream_singly", grpc_load(parts, 2, 128, stream=True)),
        Workload("image336_stream", grpc_load([part(one) for one in small], 2, 32, stream=True)),
        Workload("image12mp_unary", grpc_load([embed(one) for one in large], 1, 4)),
        Workload("http_text_unary", http_load(as_json, 64)),
        Workload("http_text_calls_of_32", http_load([json_body(c) for c in calls], 16, 32), 32),
        Workload("http_image336_unary", http_load([json_image(one) for one in small], 32)),
        Workload("http_image12mp_unary", http_load([json_image(one) for one in large], 4)),
    ]  # fmt: skip


def grpc_load(
    requests: Sequence[bytes], connections: int, at_once: int, inputs: int = 1, **stream: bool
) -> Load:
    """Calls of ``inputs`` each; or a stream for each connection, as `Load` has it."""
    least = inputs * DIMENSION * FLOAT_BYTES
    path = STREAM if stream else EMBED
    return Load("", path, requests, connections, at_once, least, **stream)


def http_load(requests: Sequence[bytes], connections: int, inputs: int = 1) -> Load:
    """One request after the other on each connection."""
    return Load("", "/v1/embeddings", requests, connections, 1, inputs * BASE64_BYTES, http=True)


def jpeg(width: int, height: int, seed: int) -> bytes:
    """A JPEG about as hard to decode as a photograph."""
    noise = np.random.default_rng(seed)
    coarse = Image.fromarray(noise.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height)), np.int16)
    grain = noise.integers(-8, 9, (height, width, 1), dtype=np.int16)
    file = io.BytesIO()
    Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()


def message(content: str | bytes) -> pb.Input:
    """An input of a text, or of the bytes of an image."""
    if isinstance(content, str):
        return pb.Input(parts=[pb.Part(text=content)])
    return pb.Input(instruction="Represent the given image.", parts=[pb.Part(image=content)])


def embed(*contents: str | bytes) -> bytes:
    """A call of gRPC."""
    return pb.EmbedRequest(inputs=map(message, contents)).SerializeToString()


def part(content: str | bytes) -> bytes:
    """A message of a stream of gRPC."""
    return pb.EmbedStreamRequest(id="1234567", input=message(content)).SerializeToString()


def json_body(texts: Sequence[str]) -> bytes:
    """The body of a request over HTTP, whose answer is to have its vectors in base64."""
    return json.dumps({"input": list(texts), "encoding_format": "base64"}).encode()


def json_image(image: bytes) -> bytes:
    """The body of a request over HTTP for one image."""
    url = f"data:image/jpeg;base64,{base64.b64encode(image).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}]
    return json.dumps(
        {"messages": [{"role": "user", "content": content}], "encoding_format": "base64"}
    ).encode()


def measure(workload: Workload, server: Served, clients: int, seconds: float) -> tuple[int, float]:
    """Loads the server from ``clients`` processes: the requests that were answered in ``seconds``,
    and the CPU seconds that the server took over them."""
    address = server.http_address if workload.load.http else server.address
    start = time.monotonic() + WARM_SECONDS
    load = replace(workload.load, address=address)
    if server.processes > 1 and not load.http:  # the kernel gives connections to any of them
        load = replace(load, connections=8 * load.connections, at_once=max(1, load.at_once // 4))
    request = pickle.dumps((load, start, seconds))
    running = []
    for _ in range(clients):
        client = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert client.stdin is not None
        client.stdin.write(request)
        client.stdin.close()
        client.stdin = None
        running.append(client)
    time.sleep(start - time.monotonic())
    before = cpu_seconds(server.process.pid)
    time.sleep(start + seconds - time.monotonic())
    cpu = cpu_seconds(server.process.pid) - before
    return sum(int(client.communicate()[0]) for client in running), cpu


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of those below it."""
    ticks, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            fields = path.read_text().rpartition(")")[2].split()
            number = int(path.parent.name)
            parents[number], ticks[number] = int(fields[1]), int(fields[11]) + int(fields[12])
    family = {pid}
    while more := {one for one, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(ticks[one] for one in family) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def served(base: Path, processes: int, more: Sequence[str]) -> Iterator[Served]:
    """Runs a null worker and the front end, which has the flags ``more``, and keeps this process
    off its core if it has one."""
    cores = sorted(os.sched_getaffinity(0))
    grpc, http = (f"127.0.0.1:{port}" for port in free_ports(2))
    worker = f"unix:{base}/{grpc}.sock"
    null = [
        sys.executable, "-m", "benchmarks.null_worker", "--base", str(base), "--address", worker,
    ]  # fmt: skip
    serve = [
        sys.executable, "-m", "vlm2vec_cli", "serve", "--model", f"{MODEL}={base}",
        "--worker", f"{MODEL}={worker}", "--listen", grpc, "--http-listen", http,
        "--metrics-listen", "", "--log-level", "WARNING", *more,
    ]  # fmt: skip
    if processes > 1:
        serve += ["--processes", str(processes)]
    running = []
    try:
        if processes == 1:
            os.sched_setaffinity(0, cores[:1])
        running.append(subprocess.Popen(serve))  # a process has the cores of who starts it
        if processes == 1:
            os.sched_setaffinity(0, cores[1:] or cores)
        running.append(subprocess.Popen(null))
        for _ in range(8 * processes):  # each connection may be another process's
            wait_until_ready(grpc, running[0])
        yield Served(processes, running[0], grpc, http)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
        os.sched_setaffinity(0, cores)


if __name__ == "__main__":
    main()
