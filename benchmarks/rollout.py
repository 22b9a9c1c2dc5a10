"""How long a promotion takes to reach traffic, and what a load costs the requests beside it.

    python -m benchmarks.rollout                     # size small, on this machine

A real MLflow server, a real server that follows it, by looking or by webhooks, and two adapters of
random weights and about 30 MB each. One caller asks all the time: its latencies while nothing
happens and while a version is loaded again and again are taken in turns, in one run.
"""

import argparse
import contextlib
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import torch

from benchmarks.models import random_backbone, write_checkpoint, write_dora
from benchmarks.service import MODEL, serving, workload
from tests.e2e.mlflow_server import WEBHOOKS, running_mlflow
from tests.e2e.server import free_ports
from vlm2vec.v1 import adapters_pb2, adapters_pb2_grpc, embedding_pb2_grpc
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_registry import traffic
from vlm2vec_registry.store import Registry

RANK = 96
"""Gives adapters of 29 MB on ``small``."""
POLL_SECONDS = 1.0
SECRET = "of both"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("tiny", "small"), default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=4, help="turns of quiet and of loading")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a turn")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "base").mkdir()
        write_checkpoint(folder / "base", args.size)
        with running_mlflow(folder / "mlflow", environment=WEBHOOKS) as mlflow:
            registry = Registry(mlflow.url)
            publish(registry, folder, args.size)
            with following(folder, mlflow.url, args.device, POLL_SECONDS) as (channel, _):
                promotion(registry, channel, f"looks every {POLL_SECONDS:.0f} s")
                beside_loads(channel, args.rounds, args.seconds)
            traffic.promote(registry, MODEL, "1")
            with following(folder, mlflow.url, args.device, 3600.0) as (channel, webhooks):
                registry.client.create_webhook(
                    "benchmark", webhooks, events=["model_version_alias.created"], secret=SECRET
                )
                promotion(registry, channel, "webhooks")


def publish(registry: Registry, folder: Path, size: str) -> None:
    """Versions 1, the champion, and 2, of the base in ``folder``."""
    backbone = random_backbone(size, torch.device("cpu"), torch.bfloat16)
    for seed in (1, 2):
        adapter = folder / f"adapter{seed}"
        write_dora(adapter, backbone, RANK, seed)
        registry.publish(MODEL, adapter, base=folder / "base")
    traffic.promote(registry, MODEL, "1")
    megabytes = (adapter / "adapter_model.safetensors").stat().st_size / 1e6
    print(f"{size}, adapters of {megabytes:.0f} MB\n")


@contextlib.contextmanager
def following(
    folder: Path, registry: str, device: str, poll_seconds: float
) -> Iterator[tuple[grpc.Channel, str]]:
    """Serves what is in ``registry``, with an empty cache; gives a channel, and where webhooks
    go."""
    secret = folder / "secret"
    secret.write_text(SECRET)
    http = f"127.0.0.1:{free_ports(1)[0]}"
    with (
        tempfile.TemporaryDirectory() as cache,
        serving(
            folder / "base", device, http, "--registry", registry, "--cache-dir", cache,
            "--poll-seconds", str(poll_seconds), "--webhook-secret-file", str(secret),
        ) as address,
        grpc.insecure_channel(address) as channel,
    ):  # fmt: skip
        yield channel, f"http://{http}/webhooks/mlflow"


def promotion(registry: Registry, channel: grpc.Channel, how: str) -> None:
    """Prints the seconds from the alias to the first answer of the new version: the first promotion
    fetches and loads it, further ones find it loaded."""
    ask = asker(channel)
    seconds = []
    for target in ("2", "1", "2", "1", "2"):
        start = time.perf_counter()
        traffic.promote(registry, MODEL, target)
        while ask()[1] != target:
            pass
        seconds.append(time.perf_counter() - start)
    print(f"promotion to traffic, {how}: {seconds[0]:.2f} s with the load, "
          f"then {statistics.mean(seconds[1:]):.2f} s on average, "
          f"{max(seconds[1:]):.2f} s at most")  # fmt: skip


def beside_loads(channel: grpc.Channel, rounds: int, seconds: float) -> None:
    """Prints p50 and p99 of a caller's latency without and beside loads, in turns."""
    ask = asker(channel, "2")
    quiet: list[float] = []
    loading: list[float] = []
    loads = 0
    for _ in range(rounds):
        quiet += latencies(ask, seconds)
        with reloading(channel) as count:
            loading += latencies(ask, seconds)
        loads += count[0]
    for quantile in (0.5, 0.99):
        before, beside = (quantile_of(values, quantile) for values in (quiet, loading))
        print(f"p{quantile * 100:.0f}: {before * 1e3:.0f} ms, beside loads {beside * 1e3:.0f} ms: "
              f"{beside / before:.2f}")  # fmt: skip
    print(f"{len(quiet)} and {len(loading)} requests, {loads} loads")


def asker(channel: grpc.Channel, version: str = "") -> Callable[[], tuple[float, str]]:
    """Asks for one vector: seconds, and the version that answered."""
    stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
    options = pb.CallOptions(model=pb.ModelRef(version=version) if version else pb.ModelRef())
    request = pb.EmbedRequest(options=options, inputs=workload("text", 1))

    def ask() -> tuple[float, str]:
        start = time.perf_counter()
        answer = stub.Embed(request)
        return time.perf_counter() - start, answer.embeddings[0].version

    return ask


def latencies(ask: Callable[[], tuple[float, str]], seconds: float) -> list[float]:
    """Of requests one after the other."""
    end = time.perf_counter() + seconds
    found = []
    while time.perf_counter() < end:
        found.append(ask()[0])
    return found


@contextlib.contextmanager
def reloading(channel: grpc.Channel) -> Iterator[list[int]]:
    """Unloads and loads version 1, once a second; gives the count."""
    stub = adapters_pb2_grpc.AdapterServiceStub(channel)
    count = [0]
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(1.0):
            stub.UnloadAdapter(adapters_pb2.UnloadAdapterRequest(model=MODEL, version="1"))
            stub.PreloadAdapter(adapters_pb2.PreloadAdapterRequest(model=MODEL, version="1"))
            count[0] += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield count
    finally:
        stop.set()
        thread.join()


def quantile_of(values: list[float], quantile: float) -> float:
    """The value below which that share of ``values`` lies."""
    return sorted(values)[int(len(values) * quantile)]


if __name__ == "__main__":
    main()
