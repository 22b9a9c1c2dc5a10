"""Front ends and workers as the chart runs them apart: workers come, go, and are missing."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.chart.rendering import containers, render
from tests.chart.served import MODEL, chart_flags, chart_values
from tests.e2e.cases import Golden, assert_golden, case_inputs, options
from tests.e2e.server import (
    COMMAND,
    NOT_SERVING,
    SERVING,
    START_SECONDS,
    Server,
    free_ports,
    running_server,
    wait_until,
)
from vlm2vec.v1 import embedding_pb2 as pb


class Site:
    """A front end that looks for the worker of ``qwen`` by a name, and for one of ``phi``, which
    never comes."""

    def __init__(self, checkpoints: Path, folder: Path) -> None:
        models = [{"name": MODEL, "folder": "qwen2_vl"}, {"name": "phi", "folder": "phi3_v"}]
        self.values = chart_values(checkpoints) | {"models": models, "split": {"enabled": True}}
        self.folder = folder
        ports = free_ports(2)
        self.address = f"127.0.0.1:{ports[0]}"
        self.flags = [
            *chart_flags(self.values, folder), "--worker", f"{MODEL}=dns:{self.address}",
            "--worker", f"phi=dns:127.0.0.1:{ports[1]}",
        ]  # fmt: skip

    @contextlib.contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        """The worker of ``qwen``, told to end in the end."""
        (arguments,) = [
            container["args"]
            for name, container in containers(render(self.values))
            if name.endswith(f"{MODEL}/worker")
        ]
        with (self.folder / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [COMMAND, *arguments, f"--address={self.address}"],
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        try:
            yield process
        finally:
            process.terminate()
            assert process.wait(60) == 0


def request() -> pb.EmbedRequest:
    return pb.EmbedRequest(options=options(MODEL, "base"), inputs=[case_inputs(MODEL)["text"]])


def assert_probe_is_answered(address: str) -> None:
    """As the kubelet asks a worker, once it listens."""
    with grpc.insecure_channel(address) as channel:
        # Its methods are missing from the published types.
        health: Any = health_pb2_grpc.HealthStub(channel)
        asked = health_pb2.HealthCheckRequest()
        answer = health.Check(asked, wait_for_ready=True, timeout=START_SECONDS)
        assert answer.status == SERVING


def assert_only_qwen_is_ready(server: Server) -> None:
    assert server.status("") == server.status(f"model/{MODEL}") == SERVING
    assert server.status("model/phi") == server.status("model/*") == NOT_SERVING
    assert server.status("startup") == NOT_SERVING  # its worker may yet come
    ready = {
        model: httpx.get(f"http://{server.http_address}/readyz?model={model}").status_code
        for model in ("", MODEL, "phi", "*")
    }
    assert ready == {"": 200, MODEL: 200, "phi": 503, "*": 503}
    for path, status in (("models/qwen", 200), ("models/phi", 503), ("health", 503)):
        url = f"http://{server.http_address}/v2/{path}/ready"
        assert httpx.get(url).status_code == status


def test_workers_come_and_go_and_one_that_is_missing_holds_up_no_other_model(
    checkpoints: Path, golden: Golden, tmp_path: Path
) -> None:
    site = Site(checkpoints, tmp_path)
    with running_server(tmp_path, *site.flags, ready=False) as server:
        assert server.status("liveness") == SERVING
        assert server.status("") == NOT_SERVING
        # Who comes before the first worker is told so, and counted for the autoscaler.
        with pytest.raises(grpc.RpcError) as caught:
            server.embedding.Embed(request(), timeout=60)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert server.metric("starting_refused_total", model=MODEL) == 1
        with site.worker():
            assert_probe_is_answered(site.address)
            wait_until(lambda: server.status("") == SERVING)
            assert_only_qwen_is_ready(server)
            (embedding,) = server.embedding.Embed(request(), timeout=60).embeddings
            assert_golden(embedding, golden, MODEL, "base", "text")
        # Who comes later waits for the next one.
        wait_until(lambda: server.status("") == NOT_SERVING)
        waiting = server.embedding.Embed.future(request(), timeout=2 * START_SECONDS)
        wait_until(lambda: server.metric("queue_tokens", model=MODEL) > 0)
        with site.worker():
            (embedding,) = waiting.result().embeddings
            assert_golden(embedding, golden, MODEL, "base", "text")
