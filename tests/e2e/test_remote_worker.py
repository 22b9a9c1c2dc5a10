"""A worker that runs by itself, as on another host: it is given adapters, and found again."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import adapter_folder
from tests.e2e.cases import Golden, assert_golden, case_inputs, options
from tests.e2e.server import COMMAND, SERVING, free_ports, running_server
from vlm2vec.v1 import embedding_pb2 as pb


@contextlib.contextmanager
def running_worker(base: Path, address: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            [
                COMMAND, "worker", "--base", str(base), "--address", address,
                "--dtype", "float32",
            ],
            stdin=subprocess.DEVNULL, stderr=output,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_worker_on_another_host(checkpoints: Path, golden: Golden, tmp_path: Path) -> None:
    base, log = checkpoints / "qwen2_vl", tmp_path / "worker.log"
    adapter = adapter_folder("qwen2_vl", "dora")
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    flags = [
        "--model", f"qwen={base}", "--adapter", f"qwen/dora={adapter}",
        "--worker", f"qwen={address}",
    ]  # fmt: skip
    message = case_inputs("qwen")["image"]
    with (
        running_worker(base, address, log) as worker,
        running_server(tmp_path, *flags) as server,
    ):
        for version in ("base", "dora"):
            request = pb.EmbedRequest(options=options("qwen", version), inputs=[message])
            (embedding,) = server.embedding.Embed(request).embeddings
            assert_golden(embedding, golden, "qwen", version, "image")
        worker.kill()
        worker.wait()
        with running_worker(base, address, log):
            server.wait_for(SERVING)
            request = pb.EmbedRequest(options=options("qwen", "dora"), inputs=[message])
            (embedding,) = server.embedding.Embed(request, timeout=60).embeddings
            assert_golden(embedding, golden, "qwen", "dora", "image")
