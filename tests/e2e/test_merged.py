"""A version with traffic is merged while it is served: nobody notices but the metrics."""

from pathlib import Path

from tests.conftest import adapter_folder
from tests.e2e.cases import Golden, case_inputs, cosine, options
from tests.e2e.grpc_calls import embed
from tests.e2e.server import Server, running_server, wait_until
from vlm2vec.v1 import embedding_pb2 as pb


def send(server: Server, version: str, count: int) -> None:
    """Embeds one of the long cases ``count`` times, each time alone or with its own kind."""
    long = case_inputs("qwen")["text-long"]
    for _ in range(count):
        request = pb.EmbedRequest(options=options("qwen", version), inputs=[long] * 8)
        server.embedding.Embed(request, timeout=120)


def test_busy_version_is_merged(checkpoints: Path, tmp_path: Path, golden: Golden) -> None:
    flags = ["--model", f"qwen={checkpoints / 'qwen2_vl'}", "--dtype", "float32"]
    for name in ("lora", "dora"):
        flags += ["--adapter", f"qwen/{name}={adapter_folder('qwen2_vl', name)}"]
    with running_server(tmp_path, *flags) as server:

        def merged_tokens() -> float:
            return server.metric("path_tokens_total", model="qwen", path="merged")

        def check() -> None:
            for version in ("lora", "dora", "base"):
                for id in ("text", "image-portrait"):
                    ours = options("qwen", version)
                    (vector,) = embed(server, case_inputs("qwen")[id], given=ours)
                    assert cosine(vector, golden[f"qwen2_vl/{version}/{id}"]) > 0.9999

        check()
        assert server.metric("adapters_merged", model="qwen") == 0
        assert merged_tokens() == 0
        assert server.metric("path_tokens_total", model="qwen", path="low_rank") > 0
        assert server.metric("path_tokens_total", model="qwen", path="base") > 0

        def busy() -> bool:
            send(server, "dora", 1)
            return merged_tokens() > 0

        wait_until(busy)
        assert server.metric("adapters_merged", model="qwen") == 1
        assert server.metric("merged_bytes", model="qwen") > 0
        before = merged_tokens()
        check()
        assert merged_tokens() > before
        total = server.metric("tokens_total", model="qwen")
        assert server.metric("path_tokens_total", model="qwen") >= total
