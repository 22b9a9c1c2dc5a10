"""The server as its operators see it: request ids, deadlines, health, reflection, metrics,
ports."""

import shutil
import subprocess
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.e2e.bad_inputs import UNKNOWN
from tests.e2e.cases import Golden, case_inputs, cosine, options, text
from tests.e2e.grpc_calls import SERVICES, embed, failure, outcome, stream, trailers
from tests.e2e.server import COMMAND, NOT_SERVING, SERVING, Server, wait_until
from vlm2vec.v1 import embedding_pb2 as pb


def test_request_id_is_kept_or_made(server: Server) -> None:
    good = pb.EmbedRequest(options=options(), inputs=[text("a")])
    bad = pb.EmbedRequest(options=options())
    ids = set()
    for given in (None, "mine", "x" * 129):
        metadata = (("x-request-id", given),) if given else ()
        _, call = server.embedding.Embed.with_call(good, metadata=metadata)
        answers = server.embedding.EmbedStream(iter(()), metadata=metadata)
        assert list(answers) == []
        error = failure(server.embedding.Embed, bad, metadata=metadata)
        for finished in (call, answers, error):
            id = trailers(finished)["x-request-id"]
            assert (id == given) == (given == "mine")
            assert 0 < len(id) <= 128
            ids.add(id)
    assert len(ids) == 7


def test_deadlines_pass_and_the_server_goes_on(server: Server, golden: Golden) -> None:
    cases = case_inputs("qwen")
    long = pb.EmbedRequest(options=options(), inputs=[cases["text-long"]] * 64)
    # What would wait for too long in the queue is refused at once.
    late = {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
    for _ in range(20):
        assert failure(server.embedding.Embed, long, timeout=0.001).code() in late
    in_time_or_not = {grpc.StatusCode.OK, *late}  # a quick server is in time
    for seconds in (0.02, 0.1, 0.5):
        assert outcome(server.embedding.Embed, long, timeout=seconds) in in_time_or_not
    requests = (
        pb.EmbedStreamRequest(id=str(i), options=options(), input=cases["text-long"])
        for i in range(500)
    )
    answers = server.embedding.EmbedStream(requests, timeout=0.2)
    assert outcome(list, answers) in in_time_or_not
    (vector,) = embed(server, cases["text"])
    assert cosine(vector, golden["qwen2_vl/lora/text"]) > 0.9999
    wait_until(lambda: server.metric("pending_requests") == 0)
    assert server.metric("queue_requests") == server.metric("queue_tokens") == 0


def test_health_and_reflection(server: Server) -> None:
    assert server.first_status == NOT_SERVING
    for service in ("", *SERVICES, "liveness", "startup", "model/*", "model/qwen", "model/phi"):
        assert server.status(service) == SERVING
    for name in ("unknown", "qwen", "model/unknown", "model/"):
        unknown = health_pb2.HealthCheckRequest(service=name)
        assert failure(server.health.Check, unknown).code() == grpc.StatusCode.NOT_FOUND
    reflected = ProtoReflectionDescriptorDatabase(server.channel)
    services = set(reflected.get_services())
    assert services >= {*SERVICES, "grpc.health.v1.Health"}
    file = reflected.FindFileContainingSymbol(SERVICES[0])
    assert {method.name for method in file.service[0].method} == {
        "Embed", "EmbedStream", "Rank", "ListModels",
    }  # fmt: skip


@pytest.mark.parametrize("protocol", ["grpc-v1", "grpc-v1alpha"])
def test_both_reflections_describe_everything(server: Server, protocol: str) -> None:
    def buf(*arguments: str) -> list[str]:
        command: list[str | Path] = [
            COMMAND.with_name("buf"), "curl", "--protocol", "grpc", "--http2-prior-knowledge",
            "--reflect-protocol", protocol, *arguments,
        ]  # fmt: skip
        result = subprocess.run(command, text=True, capture_output=True, check=False, timeout=60)
        assert result.returncode == 0, result.stderr
        return result.stdout.split()

    url = f"http://{server.address}"
    services = buf("--list-services", url)
    reflections = {f"grpc.reflection.{name}.ServerReflection" for name in ("v1", "v1alpha")}
    assert set(services) == {*SERVICES, "grpc.health.v1.Health", *reflections}
    methods = buf("--list-methods", url)
    assert {method.partition("/")[0] for method in methods} == set(services)
    assert '"qwen",' in buf("--data", "{}", f"{url}/{SERVICES[0]}/ListModels")


def test_metrics_count_what_was_sent(server: Server) -> None:
    cases = case_inputs("qwen")
    wait_until(lambda: server.metric("requests_in_flight") == 0)
    counted: dict[str, tuple[str, dict[str, str]]] = {
        "calls": ("requests_total", {"method": "Embed", "model": "qwen", "code": "OK"}),
        "failed calls": ("requests_total", {"method": "Embed", "code": "INVALID_ARGUMENT"}),
        "missed calls": ("requests_total", {"method": "Rank", "code": "NOT_FOUND"}),
        "streams": ("requests_total", {"method": "EmbedStream", "code": "OK"}),
        "seconds": ("request_seconds_count", {"method": "Embed", "model": "qwen"}),
        "inputs": ("inputs_total", {"model": "qwen", "version": "dora", "code": "OK"}),
        "bad inputs": (
            "inputs_total",
            {"model": "qwen", "version": "dora", "code": "INVALID_ARGUMENT"},
        ),
        "all inputs": ("inputs_total", {"model": "qwen", "version": "dora"}),
        "texts": ("modalities_total", {"modality": "text"}),
        "videos": ("modalities_total", {"modality": "video_text"}),
        "tokens": ("tokens_total", {"model": "qwen", "version": "dora"}),
        "waits": ("stage_seconds_count", {"model": "qwen", "stage": "queue"}),
        "batch inputs": ("batch_inputs_sum", {"model": "qwen"}),
        "batch tokens": ("batch_tokens_sum", {"model": "qwen"}),
        "cost": ("caller_tokens_total", {"model": "qwen", "caller": "unnamed"}),
        "other model": ("inputs_total", {"model": "phi"}),
    }

    def read() -> dict[str, float]:
        return {key: server.metric(name, **labels) for key, (name, labels) in counted.items()}

    before = read()
    dora = options("qwen", "dora")
    embeddings: list[pb.Embedding] = []
    for _ in range(3):
        request = pb.EmbedRequest(options=dora, inputs=[cases["text"], cases["video"]])
        embeddings += server.embedding.Embed(request).embeddings
    inputs = [cases["text"], cases["text-long"], pb.Input(parts=[pb.Part()])]
    requests = [
        pb.EmbedStreamRequest(id=str(i), options=dora, input=item) for i, item in enumerate(inputs)
    ]
    answers = stream(server, requests)
    embeddings += [answers[id].embedding for id in "01"]
    failure(server.embedding.Embed, pb.EmbedRequest(options=dora, inputs=[inputs[2]]))
    ranking = pb.RankRequest(options=UNKNOWN["alias"], query=text("a"), candidates=[text("b")])
    failure(server.embedding.Rank, ranking)

    tokens = sum(embedding.tokens for embedding in embeddings)
    expected = {
        "calls": 3, "failed calls": 1, "missed calls": 1, "streams": 1, "seconds": 4,
        "inputs": 8, "bad inputs": 2, "all inputs": 10, "texts": 7, "videos": 3,
        "tokens": tokens, "waits": 8, "batch inputs": 8, "batch tokens": tokens, "cost": tokens,
        "other model": 0,
    }  # fmt: skip
    # A call is counted right after its answer left.
    wait_until(lambda: server.metric("requests_in_flight") == 0)
    assert {key: value - before[key] for key, value in read().items()} == expected
    assert server.metric("pending_requests") == server.metric("queue_requests") == 0
    assert server.metric("worker_up", model="qwen") == server.metric("worker_up", model="phi") == 1
    assert server.metric("worker_restarts_total") == 0
    assert server.metric("vision_cache_misses_total", model="qwen") > 0


def test_threads_of_workers_wait_without_spinning(server: Server) -> None:
    for pid in server.workers:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert b"OMP_WAIT_POLICY=PASSIVE" in variables


def test_the_log_tells_in_one_line_who_asked_for_what(server: Server) -> None:
    id = "told in the log"
    request = pb.EmbedRequest(options=options("qwen", "dora"), inputs=[text("a b")] * 3)
    answer = server.embedding.Embed(request, metadata=(("x-request-id", id),))
    url = f"http://{server.http_address}/v1/embeddings"
    httpx.post(url, json={"input": "a", "model": "no such"}, headers={"x-request-id": id})

    def lines() -> list[str]:
        return [line for line in server.log.read_text().splitlines() if f'="{id}"' in line]

    wait_until(lambda: len(lines()) == 2)
    over_grpc, over_http = lines()
    tokens = sum(embedding.tokens for embedding in answer.embeddings)
    for words in (
        "INFO vlm2vec.access: Embed OK ", " caller=ipv4:127.0.0.1 peer=ipv4:127.0.0.1:",
        " path=/vlm2vec.v1.EmbeddingService/Embed model=qwen version=dora ",
        f" inputs=3 tokens={tokens}",
    ):  # fmt: skip
        assert words in over_grpc
    for words in (
        "INFO vlm2vec.access: /v1/embeddings NOT_FOUND ", " verb=POST path=/v1/embeddings inputs=0",
        " error=\"model 'no such' is not served",
    ):  # fmt: skip
        assert words in over_http


def test_metrics_please_promtool(server: Server) -> None:
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed")
    command = ["promtool", "check", "metrics"]
    result = subprocess.run(
        command, input=server.metrics_text(), text=True, capture_output=True, check=False
    )
    # It has opinions on the metrics that Python's client brings; ours start with our name.
    complaints = [line for line in result.stderr.splitlines() if line.startswith("vlm2vec_")]
    assert not complaints


@pytest.mark.parametrize("option", ["listen", "metrics-listen"])
def test_ports_that_are_taken_are_one_sentence_and_status_2(
    server: Server, checkpoints: Path, option: str
) -> None:
    ports = {"listen": "127.0.0.1:0", "metrics-listen": "127.0.0.1:0", option: server.address}
    flags = [f"--{name}={address}" for name, address in ports.items()]
    command: list[str | Path] = [
        COMMAND,
        "serve",
        f"--model=qwen={checkpoints / 'qwen2_vl'}",
        *flags,
    ]
    result = subprocess.run(command, text=True, capture_output=True, check=False, timeout=60)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    said = f"Error: --{option}: cannot listen on {server.address}: "
    assert result.stderr.splitlines()[-1].startswith(said)
    assert "reading" not in result.stderr
