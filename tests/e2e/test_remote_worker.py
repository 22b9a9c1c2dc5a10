"""A worker on another host is given adapters, and found again."""

from pathlib import Path

from tests.conftest import adapter_folder
from tests.e2e.cases import Golden, assert_golden, case_inputs, options
from tests.e2e.remote_worker import running_worker
from tests.e2e.server import SERVING, free_ports, running_server
from vlm2vec.v1 import embedding_pb2 as pb


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
