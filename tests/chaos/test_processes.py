"""Several front-end processes on the same ports, as callers see them: one server."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.chaos.load import SteadyStream, assert_idle, assert_right, embed_all_cases
from tests.chaos.watched import watched_server
from tests.conftest import adapter_folder
from tests.e2e.cases import Golden, options, text
from tests.e2e.server import COMMAND, Server, free_ports, is_running, wait_until
from vlm2vec import Client
from vlm2vec.v1 import adapters_pb2, adapters_pb2_grpc, embedding_pb2_grpc
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_registry import traffic
from vlm2vec_registry.store import Registry
from vlm2vec_service.processes.buckets import SharedBuckets

COUNT = 2
MODEL = "qwen"
LORA = "1"
"""The version that the registry has made of the adapter lora."""
LOADED = adapters_pb2.ADAPTER_STATE_LOADED


@pytest.fixture(scope="module")
def registry(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry with versions 1 (lora, champion) and 2 (dora)."""
    registry = Registry(str(tmp_path_factory.mktemp("registry")))
    for name in ("lora", "dora"):
        folder = adapter_folder("qwen2_vl", name)
        registry.publish(MODEL, folder, base=checkpoints / "qwen2_vl")
    traffic.promote(registry, MODEL, "1")
    return registry


@pytest.fixture(scope="module")
def pair(
    checkpoints: Path, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server of two processes and one worker that follows the registry."""
    folder = tmp_path_factory.mktemp("pair")
    flags = (
        "--processes", str(COUNT), "--registry", registry.uri, "--poll-seconds", "0.2",
        "--batch-timeout-seconds", "30",
    )  # fmt: skip
    with watched_server(
        checkpoints, folder, *flags, "--cache-dir", str(folder / "cache")
    ) as started:
        wait_until(lambda: len(members(started)) == COUNT and all_ready(started))
        yield started


def members(server: Server) -> list[int]:
    """Process ids of the front ends."""
    return [pid for pid in server.workers if b"vlm2vec_cli" in command(pid)]


def worker(server: Server) -> int:
    (pid,) = [pid for pid in server.workers if b"vlm2vec_service.worker" in command(pid)]
    return pid


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def all_ready(server: Server) -> bool:
    with contextlib.suppress(OSError):  # of a connection that a process which is killed had got
        return by_process(server, "model_ready") == dict.fromkeys(map(str, range(COUNT)), 1.0)
    return False


def by_process(server: Server, name: str) -> dict[str, float]:
    """The sums of a metric's samples in each front-end process, as any of them tells."""
    found: defaultdict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(server.metrics_text()):
        for sample in family.samples:
            if sample.name == f"vlm2vec_{name}" and sample.labels["process"] != "owner":
                found[sample.labels["process"]] += sample.value
    return dict(found)


def each(server: Server, ask: Callable[[grpc.Channel], object]) -> list[object]:
    """What the processes answer: so many connections that every one has some."""
    answers = []
    for _ in range(16):
        with server.connect() as channel:
            answers.append(ask(channel))
    return answers


def test_processes_share_the_port_the_worker_and_the_metrics(pair: Server, golden: Golden) -> None:
    before = by_process(pair, "requests_total")
    answers = each(pair, lambda channel: embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed(
        pb.EmbedRequest(options=options(), inputs=[text("a")])
    ).embeddings[0].vector)  # fmt: skip
    assert len(set(map(str, answers))) == 1
    embed_all_cases(pair, golden, LORA)
    after = by_process(pair, "requests_total")
    told = {process: after[process] - before.get(process, 0) for process in after}
    assert len(told) == COUNT
    assert min(told.values()) >= 1
    assert sum(told.values()) == 16 + 2


def test_a_process_that_is_killed_comes_back_and_clients_go_on(
    pair: Server, golden: Golden
) -> None:
    restarts = pair.metric("front_end_restarts_total")
    loads = [SteadyStream(pair, 32, LORA) for _ in range(8)]
    texts = [f"number {number}" for number in range(1500)]
    rows: list[object] = []
    with Client(pair.address) as client:
        resumed = threading.Thread(target=lambda: rows.extend(client.embed(texts, model=MODEL)))
        resumed.start()
        wait_until(lambda: all(len(load.answers) > 50 for load in loads))
        os.kill(members(pair)[0], signal.SIGKILL)
        wait_until(lambda: len(members(pair)) == COUNT and all_ready(pair))
        resumed.join(120)
    assert len(rows) == len(texts)
    for load in loads:
        load.finish()
        # Those of the other process went on; no answer came twice or was another's.
        assert load.error is None or load.error.code() == grpc.StatusCode.UNAVAILABLE
        assert max(Counter(answer.id for answer in load.answers).values()) == 1
        for answer in load.answers:
            assert_right(answer, golden, LORA)
    assert pair.metric("front_end_restarts_total") == restarts + 1
    assert_idle(pair)


def test_a_worker_that_is_killed_costs_no_process_an_answer(pair: Server, golden: Golden) -> None:
    loads = [SteadyStream(pair, 64, LORA) for _ in range(6)]
    wait_until(lambda: all(len(load.answers) > 50 for load in loads))
    os.kill(worker(pair), signal.SIGKILL)
    wait_until(lambda: not all_ready(pair))
    wait_until(lambda: all_ready(pair))
    for load in loads:
        load.finish()
        assert load.error is None
        assert Counter(answer.id for answer in load.answers) == Counter(load.sent)
        for answer in load.answers:
            assert_right(answer, golden, LORA)


def test_a_worker_that_hangs_is_killed_by_the_process_that_sees_it(
    pair: Server, golden: Golden
) -> None:
    loads = [SteadyStream(pair, 32, LORA) for _ in range(6)]
    wait_until(lambda: all(len(load.answers) > 50 for load in loads))
    stopped = worker(pair)
    os.kill(stopped, signal.SIGSTOP)  # by itself it does not even end
    wait_until(lambda: not is_running(stopped), 120)
    wait_until(lambda: all_ready(pair), 120)
    for load in loads:
        load.finish()
        assert load.error is None
        assert Counter(answer.id for answer in load.answers) == Counter(load.sent)
        for answer in load.answers:
            assert_right(answer, golden, LORA)


def test_what_one_process_is_asked_to_hold_all_hold(pair: Server) -> None:
    def state(channel: grpc.Channel) -> object:
        request = adapters_pb2.DescribeAdapterRequest(model=MODEL, version="2")
        stub = adapters_pb2_grpc.AdapterServiceStub(channel)
        return stub.DescribeAdapter(request).adapter.state

    name = {"model": MODEL, "version": "2"}
    pair.adapters.PreloadAdapter(adapters_pb2.PreloadAdapterRequest(**name))
    # One may only now hear of the end of the worker that hung.
    wait_until(lambda: set(each(pair, state)) == {LOADED})
    pair.adapters.UnloadAdapter(adapters_pb2.UnloadAdapterRequest(**name))
    assert set(each(pair, state)) == {adapters_pb2.ADAPTER_STATE_AVAILABLE}


def test_a_promotion_reaches_every_process(pair: Server, registry: Registry) -> None:
    def champion(channel: grpc.Channel) -> object:
        (model,) = embedding_pb2_grpc.EmbeddingServiceStub(channel).ListModels(
            pb.ListModelsRequest()
        ).models  # fmt: skip
        return next(one.version for one in model.versions if "champion" in one.aliases)

    for version in ("2", "1"):
        traffic.promote(registry, MODEL, version)
        wait_until(lambda version=version: set(each(pair, champion)) == {version})  # type: ignore[misc]


def test_all_drain_and_end(pair: Server, golden: Golden) -> None:
    loads = [SteadyStream(pair, 64, LORA) for _ in range(4)]
    wait_until(lambda: all(len(load.answers) > 50 for load in loads))
    processes = pair.workers
    pair.process.send_signal(signal.SIGTERM)
    wait_until(lambda: all(load.error is not None for load in loads))
    for load in loads:
        load.finish()
        assert load.error is not None
        assert "shutting down" in (load.error.details() or "")
        numbers = sorted(int(answer.id.split("/")[0]) for answer in load.answers)
        assert numbers == list(range(len(load.answers)))
        for answer in load.answers:
            assert_right(answer, golden, LORA)
    assert pair.process.wait(60) == 0
    assert not [pid for pid in processes if is_running(pid)]


@pytest.mark.parametrize("problem", ["taken", "unix", "checkpoint"])
def test_what_is_wrong_is_said_once(checkpoints: Path, tmp_path: Path, problem: str) -> None:
    listen = {"unix": f"unix:{tmp_path}/socket"}.get(problem, f"127.0.0.1:{free_ports(1)[0]}")
    base = tmp_path if problem == "checkpoint" else checkpoints / "qwen2_vl"
    arguments: list[str | Path] = [
        COMMAND, "serve", "--model", f"qwen={base}", "--processes", "2", "--listen", listen,
        "--metrics-listen", "", "--http-listen", "",
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        if problem == "taken":
            host, _, port = listen.partition(":")
            stack.enter_context(socket.create_server((host, int(port))))
        ended = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    errors = [line for line in ended.stderr.splitlines() if line.startswith("Error")]
    assert len(errors) == 1
    assert (str(tmp_path) if problem == "checkpoint" else listen) in errors[0]


TAKE = """
import sys
from pathlib import Path
from vlm2vec_service.processes.buckets import SharedBuckets

bucket = SharedBuckets(Path(sys.argv[1])).bucket("a", rate=0.001, capacity=100.0)
for _ in range(500):
    bucket.take(0.5)
"""


def test_a_bucket_is_one_for_all_processes(tmp_path: Path) -> None:
    path = tmp_path / "quotas"
    processes = [subprocess.Popen([sys.executable, "-c", TAKE, str(path)]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    buckets = SharedBuckets(path)
    bucket = buckets.bucket("a", rate=0.001, capacity=100.0)
    assert bucket.balance == pytest.approx(100 - 750, abs=1)
    assert buckets.bucket("b", rate=1.0, capacity=10.0).balance == 10
    fast = buckets.bucket("c", rate=1000.0, capacity=50.0)
    fast.take(60)
    assert 0 < fast.wait(1.0) <= 0.011
    time.sleep(0.1)
    assert fast.balance == 50
    assert fast.wait(1.0) == 0
