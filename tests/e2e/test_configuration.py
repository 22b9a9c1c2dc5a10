"""A server that is configured by a file, environment variables and a flag: its limits, its short
queue and its JSON log."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.conftest import adapter_folder
from tests.e2e.cases import Golden, assert_golden, case_inputs, options, text
from tests.e2e.grpc_calls import failure, stream, trailers
from tests.e2e.server import Server, running_server, wait_until
from vlm2vec.v1 import embedding_pb2 as pb

SECRET = "the-words-of-a-caller"
QUEUE = 8


@pytest.fixture(scope="module")
def small_server(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of ``qwen`` whose queue and windows hold few requests."""
    folder = tmp_path_factory.mktemp("small")
    config: Mapping[str, Any] = {
        "model": [f"qwen={checkpoints / 'qwen2_vl'}"],
        "adapter": [f"qwen/lora={adapter_folder('qwen2_vl', 'lora')}"],
        "alias": ["qwen@canary=base"],
        "max-queue-requests": QUEUE,
        "stream_window": 32,
        # The environment goes first.
        "dtype": "bfloat16",
    }
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in config.items()]
    (folder / "serve.toml").write_text("".join(lines))
    environment = {
        "VLM2VEC_SERVE_CONFIG": str(folder / "serve.toml"),
        "VLM2VEC_SERVE_DTYPE": "float32",
        "VLM2VEC_SERVE_LOG_FORMAT": "json",
        "VLM2VEC_SERVE_MAX_INPUTS": "1",
        "VLM2VEC_SERVE_TRUSTED_PROXIES": "127.0.0.0/8",
    }
    # The flag goes before both.
    with running_server(folder, "--max-inputs", "3", environment=environment) as started:
        yield started


def test_file_variables_and_flags_configure_the_server(
    small_server: Server, golden: Golden
) -> None:
    message = case_inputs("qwen")["text"]
    for reference, version in (
        (pb.ModelRef(), "lora"),
        (pb.ModelRef(alias="canary"), "base"),
        (pb.ModelRef(name="qwen", version="base"), "base"),
    ):
        request = pb.EmbedRequest(options=pb.CallOptions(model=reference), inputs=[message] * 3)
        for embedding in small_server.embedding.Embed(request).embeddings:
            assert_golden(embedding, golden, "qwen", version, "text")
    error = failure(
        small_server.embedding.Embed, pb.EmbedRequest(options=options(), inputs=[message] * 4)
    )
    assert "max_inputs, 3" in (error.details() or "")


def test_a_burst_is_answered_or_refused_with_a_hint(small_server: Server, golden: Golden) -> None:
    message = case_inputs("qwen")["text-long"]
    request = pb.EmbedRequest(options=options(), inputs=[message])
    calls = [small_server.embedding.Embed.future(request) for _ in range(200)]
    codes = []
    for call in calls:
        codes.append(call.code())
        if call.code() == grpc.StatusCode.OK:
            assert_golden(call.result().embeddings[0], golden, "qwen", "lora", "text-long")
        else:
            assert int(trailers(call)["retry-after-ms"]) > 0
            assert "max_queue_requests" in call.details()
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    # Half of the queue is for others, who may come.
    assert codes.count(grpc.StatusCode.OK) >= QUEUE // 2


def test_streams_are_slowed_and_never_refused(small_server: Server, golden: Golden) -> None:
    message = case_inputs("qwen")["text"]

    def one_stream(name: int) -> dict[str, pb.EmbedStreamResponse]:
        requests = (
            pb.EmbedStreamRequest(id=f"{name}/{i}", options=options(), input=message)
            for i in range(100)
        )
        return stream(small_server, requests)

    with ThreadPoolExecutor(5) as pool:
        answers = {
            id: answer for part in pool.map(one_stream, range(5)) for id, answer in part.items()
        }
    assert len(answers) == 500
    for answer in answers.values():
        assert_golden(answer.embedding, golden, "qwen", "lora", "text")
    wait_until(lambda: small_server.metric("pending_requests") == 0)


def test_json_log_tells_of_every_call_and_nothing_of_what_was_in_it(small_server: Server) -> None:
    metadata = (("x-request-id", "in-the-log"), ("x-forwarded-for", "203.0.113.7"))
    for message in (
        text(SECRET),
        pb.Input(prompt=SECRET, instruction=SECRET),
        pb.Input(instruction=SECRET, parts=[pb.Part(image=SECRET.encode())]),
        pb.Input(prompt=f"<|image_pad|>{SECRET}"),
        text(f"<|image_pad|>{SECRET}"),
        text(SECRET * 20_000),
        pb.Input(parts=[pb.Part(video=pb.Video(file=SECRET.encode()))]),
    ):
        small_server.embedding.Embed.future(
            pb.EmbedRequest(options=options(), inputs=[message]), metadata=metadata
        ).exception()
        request = pb.EmbedStreamRequest(id=SECRET, options=options(), input=message)
        stream(small_server, [request])
    log = small_server.log.read_text()
    assert SECRET not in log
    lines = [json.loads(line) for line in log.splitlines()]
    calls = [line for line in lines if line["logger"] == "vlm2vec.access"]
    assert {line["method"] for line in calls} == {"Embed", "EmbedStream"}
    for line in calls:
        assert line.keys() >= {
            "time",
            "level",
            "message",
            "method",
            "code",
            "seconds",
            "request_id",
        }
        assert line["seconds"] > 0
        assert ("error" in line) == (line["code"] != "OK")
    mine = [line for line in calls if line["request_id"] == "in-the-log"]
    assert [line["code"] for line in mine] == ["OK"] + ["INVALID_ARGUMENT"] * 6
    for line in mine:
        assert line["caller"] == "ipv4:203.0.113.7"
        assert line["peer"].startswith("ipv4:127.0.0.1:")
        assert line["path"] == "/vlm2vec.v1.EmbeddingService/Embed"
        assert (line["model"], line["version"], line["inputs"]) == ("qwen", "lora", 1)
        assert (line["tokens"] > 0) == (line["code"] == "OK")
