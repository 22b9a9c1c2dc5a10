"""A front end and a worker as the chart runs them apart."""

import os
import subprocess
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.chart.rendering import containers, render
from tests.chart.served import MODEL, chart_flags, chart_values
from tests.e2e.cases import Golden, assert_golden, case_inputs, options
from tests.e2e.server import COMMAND, SERVING, START_SECONDS, free_ports, running_server
from vlm2vec.v1 import embedding_pb2 as pb


def test_a_worker_apart_answers_its_probe_and_its_front_end(
    checkpoints: Path, golden: Golden, tmp_path: Path
) -> None:
    values = chart_values(checkpoints) | {"split": {"enabled": True}}
    (arguments,) = [c["args"] for name, c in containers(render(values)) if name.endswith("/worker")]
    address = f"127.0.0.1:{free_ports(1)[0]}"
    with (tmp_path / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [COMMAND, *arguments, f"--address={address}"],
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        with grpc.insecure_channel(address) as channel:
            # Its methods are missing from the published types.
            health: Any = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest()
            answer = health.Check(request, wait_for_ready=True, timeout=START_SECONDS)
            assert answer.status == SERVING
        flags = [*chart_flags(values, tmp_path), "--worker", f"{MODEL}={address}"]
        with running_server(tmp_path, *flags) as server:
            assert not server.workers
            call = pb.EmbedRequest(
                options=options(MODEL, "base"), inputs=[case_inputs(MODEL)["text"]]
            )
            (embedding,) = server.embedding.Embed(call, timeout=60).embeddings
            assert_golden(embedding, golden, MODEL, "base", "text")
    finally:
        process.terminate()
        assert process.wait(60) == 0
