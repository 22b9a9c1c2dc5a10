"""The service as callers meet it: a real server, real pictures, golden vectors, over gRPC."""

import json
import random
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.conftest import adapter_folder
from tests.e2e.bad_inputs import BAD_INPUTS, UNKNOWN, Bad
from tests.e2e.cases import (
    ARCHITECTURES,
    VERSIONS,
    Golden,
    Vector,
    assert_golden,
    case_inputs,
    cosine,
    options,
    text,
    unpack,
)
from tests.e2e.server import COMMAND, NOT_SERVING, SERVING, Server, running_server, wait_until
from vlm2vec.v1 import adapters_pb2
from vlm2vec.v1 import embedding_pb2 as pb

SERVICES = ("vlm2vec.v1.EmbeddingService", "vlm2vec.v1.AdapterService")
DIMENSION = 128
ALL = [
    (model, version, case, message)
    for model in ARCHITECTURES
    for case, message in case_inputs(model).items()
    for version in VERSIONS
]
"""Every parity case on every version of its model."""


def embed(server: Server, *inputs: pb.Input, given: pb.CallOptions | None = None) -> list[Vector]:
    """Vectors of ``inputs``, by default of the champion of ``qwen``."""
    request = pb.EmbedRequest(options=given or options(), inputs=inputs)
    return [unpack(item.vector) for item in server.embedding.Embed(request).embeddings]


def stream(
    server: Server, requests: Iterable[pb.EmbedStreamRequest]
) -> dict[str, pb.EmbedStreamResponse]:
    """The answers by id; none may come twice."""
    answers: dict[str, pb.EmbedStreamResponse] = {}
    for answer in server.embedding.EmbedStream(iter(requests)):
        assert answer.id not in answers
        answers[answer.id] = answer
    return answers


def spaces(server: Server) -> dict[tuple[str, str], str]:
    """The space of each model and version."""
    return {
        (model.name, version.version): version.space
        for model in server.embedding.ListModels(pb.ListModelsRequest()).models
        for version in model.versions
    }


def failure(method: Any, request: Any, **values: Any) -> grpc.Call:
    """The error that a call ends with: a code, details, trailers."""
    with pytest.raises(grpc.RpcError) as caught:
        method(request, **values)
    error = caught.value
    assert isinstance(error, grpc.Call)
    return error


def outcome(method: Any, request: Any, **values: Any) -> grpc.StatusCode:
    """What a call ends with."""
    try:
        method(request, **values)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def trailers(call: grpc.Call) -> dict[str, str]:
    return {key: str(value) for key, value in call.trailing_metadata()}


def test_one_stream_of_everything_gives_the_golden_vectors(server: Server, golden: Golden) -> None:
    known = spaces(server)
    sent = {f"{model}/{version}/{case}": (model, version, case) for model, version, case, _ in ALL}
    requests = [
        pb.EmbedStreamRequest(id=id, options=options(model, version), input=message)
        for id, (model, version, _, message) in zip(sent, ALL, strict=True)
    ]
    random.Random(0).shuffle(requests)
    answers = stream(server, requests)
    assert answers.keys() == sent.keys()
    for id, (model, version, case) in sent.items():
        embedding = answers[id].embedding
        assert_golden(embedding, golden, model, version, case)
        assert embedding.space == known[model, version]
        assert embedding.vector.dtype == pb.DTYPE_FLOAT32
        assert embedding.tokens == len(golden[f"{ARCHITECTURES[model]}/input_ids/{case}"])
        timings = embedding.timings
        assert timings.preprocess_seconds > 0
        assert timings.queue_seconds >= 0
        assert timings.inference_seconds > 0


@pytest.mark.parametrize("model", ARCHITECTURES)
@pytest.mark.parametrize("version", VERSIONS)
def test_unary_calls_give_the_golden_vectors_in_order(
    server: Server, golden: Golden, model: str, version: str
) -> None:
    cases = case_inputs(model)
    request = pb.EmbedRequest(options=options(model, version), inputs=cases.values())
    answer = server.embedding.Embed(request)
    for case, embedding in zip(cases, answer.embeddings, strict=True):
        assert_golden(embedding, golden, model, version, case)


def test_versions_are_found_by_alias_and_by_space(server: Server, golden: Golden) -> None:
    message = case_inputs("phi")["text"]
    references = {
        **{space: pb.ModelRef(name=m, space=space) for (m, _), space in spaces(server).items()},
        "alias": pb.ModelRef(name="phi", alias="canary"),
        "champion": pb.ModelRef(name="phi"),
    }
    assert len(references) == len(ALL) // 10 + 2
    expected = {space: version for (_, version), space in spaces(server).items()}
    for name, reference in references.items():
        given = pb.CallOptions(model=reference, priority=pb.PRIORITY_BULK)
        request = pb.EmbedRequest(options=given, inputs=[case_inputs(reference.name)["text"]])
        (embedding,) = server.embedding.Embed(request).embeddings
        assert_golden(embedding, golden, reference.name, expected.get(name, "lora"), "text")
        if name in expected:
            assert embedding.space == name
    # A space belongs to one model: the other does not have it.
    foreign = pb.ModelRef(name="phi", space=spaces(server)["qwen", "lora"])
    request = pb.EmbedRequest(options=pb.CallOptions(model=foreign), inputs=[message])
    assert failure(server.embedding.Embed, request).code() == grpc.StatusCode.NOT_FOUND


def test_models_are_listed(server: Server) -> None:
    qwen_or_phi = server.embedding.ListModels(pb.ListModelsRequest()).models
    assert [model.name for model in qwen_or_phi] == ["phi", "qwen"]
    for model in qwen_or_phi:
        assert model.backbone == ARCHITECTURES[model.name]
        assert model.dimension == {"qwen": DIMENSION, "phi": 192}[model.name]
        assert model.ready
        assert {item.version: list(item.aliases) for item in model.versions} == {
            "base": [],
            "lora": ["canary", "champion"],
            "dora": [],
        }
    assert len(set(spaces(server).values())) == 6


# Output formats


def formatted(server: Server, **values: Any) -> list[pb.Vector]:
    """A text, an image and a video in an output format."""
    cases = case_inputs("qwen")
    request = pb.EmbedRequest(
        options=options(output=pb.OutputOptions(**values)),
        inputs=[cases[case] for case in ("text", "image", "video")],
    )
    return [item.vector for item in server.embedding.Embed(request).embeddings]


@pytest.mark.parametrize("dimensions", [0, 100, 1, DIMENSION])
@pytest.mark.parametrize("normalize", [None, True, False])
def test_formats_keep_what_they_can_of_the_vector(
    server: Server, dimensions: int, normalize: bool | None
) -> None:
    size = dimensions or DIMENSION
    raw = [unpack(vector) for vector in formatted(server, normalize=False)]
    assert all(abs(np.linalg.norm(vector) - 1) > 0.01 for vector in raw)
    expected = [
        vector[:size] if normalize is False else vector[:size] / np.linalg.norm(vector[:size])
        for vector in raw
    ]
    answers = {
        dtype: formatted(server, dimensions=dimensions, normalize=normalize, dtype=dtype)
        for dtype in pb.Dtype.values()
    }
    for dtype, vectors in answers.items():
        for wanted, packed in zip(expected, vectors, strict=True):
            largest = float(np.abs(wanted).max())
            assert packed.dtype == (dtype or pb.DTYPE_FLOAT32)
            assert packed.dimension == size
            if packed.dtype == pb.DTYPE_BINARY:
                assert len(packed.data) == (size + 7) // 8
                np.testing.assert_array_equal(unpack(packed) > 0, wanted > 0)
                continue
            allowed, bytes_each, scale = {
                pb.DTYPE_FLOAT32: (1e-5, 4, 0),
                pb.DTYPE_FLOAT16: (1e-3, 2, 0),
                pb.DTYPE_INT8: (0.5 / 127 + 1e-5, 1, pytest.approx(largest, rel=1e-4)),
            }[packed.dtype]
            assert len(packed.data) == size * bytes_each
            assert packed.scale == scale
            assert np.abs(unpack(packed) - wanted).max() <= allowed * largest


def test_ranks_are_those_of_the_cosines(server: Server) -> None:
    cases = case_inputs("phi")
    query, *candidates = cases.values()
    # The same once more, for a tie.
    candidates.append(candidates[0])
    for version in VERSIONS:
        vectors = embed(server, query, *candidates, given=options("phi", version))
        scores = [cosine(vectors[0], vector) for vector in vectors[1:]]
        request = pb.RankRequest(
            options=options(
                "phi",
                version,
                output=pb.OutputOptions(dimensions=3, dtype=pb.DTYPE_BINARY, normalize=False),
            ),
            query=query,
            candidates=candidates,
        )
        answer = server.embedding.Rank(request)
        assert (answer.model, answer.version) == ("phi", version)
        assert answer.space == spaces(server)["phi", version]
        assert {item.index for item in answer.candidates} == set(range(len(candidates)))
        for item in answer.candidates:
            assert item.score == pytest.approx(scores[item.index], abs=1e-4)
        shown = [item.score for item in answer.candidates]
        assert shown == sorted(shown, reverse=True)
        for top_k in (1, 3, 99):
            request.top_k = top_k
            best = server.embedding.Rank(request).candidates
            assert len(best) == min(top_k, len(candidates))
            np.testing.assert_allclose([b.score for b in best], shown[:top_k], atol=1e-4)


# Adapters


def named(version: str, model: str = "qwen") -> dict[str, str]:
    return {"model": model, "version": version}


def describe(server: Server, version: str) -> adapters_pb2.Adapter:
    request = adapters_pb2.DescribeAdapterRequest(**named(version))
    return server.adapters.DescribeAdapter(request).adapter


def test_adapters_are_listed_by_model_and_version(server: Server) -> None:
    known = spaces(server)
    everything = server.adapters.ListAdapters(adapters_pb2.ListAdaptersRequest()).adapters
    assert [(item.model, item.version) for item in everything] == [
        (model, version) for model in ("phi", "qwen") for version in ("dora", "lora")
    ]
    for adapter in everything:
        assert adapter.space == known[adapter.model, adapter.version]
        assert adapter.state == adapters_pb2.ADAPTER_STATE_LOADED
        assert adapter.aliases == (["canary", "champion"] if adapter.version == "lora" else [])
    request = adapters_pb2.ListAdaptersRequest(model="qwen")
    assert list(server.adapters.ListAdapters(request).adapters) == list(everything[2:])
    assert describe(server, "lora") == everything[3]


def test_adapter_is_unloaded_and_preloaded_while_others_watch(
    server: Server, golden: Golden
) -> None:
    message = case_inputs("qwen")["text"]
    by_space = pb.ModelRef(name="qwen", space=spaces(server)["qwen", "dora"])
    pinned = pb.EmbedRequest(options=pb.CallOptions(model=by_space), inputs=[message])
    watch = server.adapters.WatchAdapters(adapters_pb2.WatchAdaptersRequest(model="qwen"))
    first = [next(watch).adapter for _ in range(2)]
    assert {item.version for item in first} == {"lora", "dora"}

    unload = adapters_pb2.UnloadAdapterRequest(**named("dora"))
    unloaded = server.adapters.UnloadAdapter(unload).adapter
    assert unloaded.state == adapters_pb2.ADAPTER_STATE_AVAILABLE
    assert next(watch).adapter == unloaded == describe(server, "dora")
    assert server.metric("adapters_loaded", model="qwen") == 1
    # A second time changes nothing, and the others go on.
    assert server.adapters.UnloadAdapter(unload).adapter == unloaded
    (lora,) = embed(server, message)
    assert cosine(lora, golden["qwen2_vl/lora/text"]) > 0.9999

    preload = adapters_pb2.PreloadAdapterRequest(**named("dora"))
    loaded = server.adapters.PreloadAdapter(preload).adapter
    assert loaded.state == adapters_pb2.ADAPTER_STATE_LOADED
    assert next(watch).adapter == loaded
    watch.cancel()
    assert server.metric("adapters_loaded", model="qwen") == 2
    assert server.adapters.PreloadAdapter(preload).adapter == loaded

    # A request that names a version that is not loaded has it loaded.
    server.adapters.UnloadAdapter(unload)
    (embedding,) = server.embedding.Embed(pinned).embeddings
    assert_golden(embedding, golden, "qwen", "dora", "text")
    assert describe(server, "dora") == loaded


def test_a_version_is_not_unloaded_under_its_requests(server: Server, golden: Golden) -> None:
    message = case_inputs("qwen")["text-long"]
    requests = [
        pb.EmbedStreamRequest(id=f"{version}/{i}", options=options("qwen", version), input=message)
        for i in range(40)
        for version in ("dora", "lora")
    ]
    answers = server.embedding.EmbedStream(iter(requests))
    received = [next(answers)]
    server.adapters.UnloadAdapter(adapters_pb2.UnloadAdapterRequest(**named("dora")))
    received += list(answers)
    assert {answer.id for answer in received} == {request.id for request in requests}
    for answer in received:
        assert not answer.HasField("error"), answer.error
        assert_golden(answer.embedding, golden, "qwen", answer.id.partition("/")[0], "text-long")


def test_adapters_that_cannot_be_unloaded_or_found(server: Server) -> None:
    refused = failure(
        server.adapters.UnloadAdapter, adapters_pb2.UnloadAdapterRequest(**named("lora"))
    )
    assert refused.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "canary, champion" in (refused.details() or "")
    assert describe(server, "lora").state == adapters_pb2.ADAPTER_STATE_LOADED
    calls: list[tuple[Any, Any]] = [
        (server.adapters.DescribeAdapter, adapters_pb2.DescribeAdapterRequest),
        (server.adapters.PreloadAdapter, adapters_pb2.PreloadAdapterRequest),
        (server.adapters.UnloadAdapter, adapters_pb2.UnloadAdapterRequest),
    ]
    for method, request in calls:
        for values, code in (
            (named("v9"), grpc.StatusCode.NOT_FOUND),
            (named("lora", model="gwen"), grpc.StatusCode.NOT_FOUND),
            (named(""), grpc.StatusCode.INVALID_ARGUMENT),
            (named("lora", model=""), grpc.StatusCode.INVALID_ARGUMENT),
            (named("base"), grpc.StatusCode.INVALID_ARGUMENT),
        ):
            assert failure(method, request(**values)).code() == code
    missing = adapters_pb2.ListAdaptersRequest(model="gwen")
    assert failure(server.adapters.ListAdapters, missing).code() == grpc.StatusCode.NOT_FOUND
    watch = server.adapters.WatchAdapters(adapters_pb2.WatchAdaptersRequest(model="gwen"))
    assert failure(next, watch).code() == grpc.StatusCode.NOT_FOUND


# Errors


@pytest.mark.parametrize("bad", BAD_INPUTS, ids=lambda bad: bad.name)
def test_unary_call_names_the_field_of_a_bad_input(server: Server, bad: Bad) -> None:
    inputs = [text("good"), bad.input, text("good too")]
    error = failure(server.embedding.Embed, pb.EmbedRequest(options=bad.options, inputs=inputs))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    place = f"inputs[1]{bad.field}" if bad.field.startswith(".") else bad.field
    assert (error.details() or "").startswith(f"{place}: ")
    ranking = pb.RankRequest(options=bad.options, query=text("a"), candidates=inputs)
    if bad.field.startswith("."):
        details = failure(server.embedding.Rank, ranking).details() or ""
        assert details.startswith(f"candidates[1]{bad.field}: ")


def test_stream_names_the_field_of_each_bad_input_and_goes_on(
    server: Server, golden: Golden
) -> None:
    good = case_inputs("qwen")["text"]
    requests: list[pb.EmbedStreamRequest] = []
    for bad in BAD_INPUTS:
        requests += [
            pb.EmbedStreamRequest(id=bad.name, options=bad.options, input=bad.input),
            pb.EmbedStreamRequest(id=f"good/{bad.name}", options=options(), input=good),
        ]
    requests += [
        pb.EmbedStreamRequest(options=options(), input=good),
        pb.EmbedStreamRequest(id="x" * 257, options=options(), input=good),
        pb.EmbedStreamRequest(id="no input", options=options()),
        *(
            pb.EmbedStreamRequest(id=f"unknown {name}", options=given, input=good)
            for name, given in UNKNOWN.items()
        ),
    ]
    answers = stream(server, requests)
    assert answers.keys() == {request.id for request in requests}
    fields = {bad.name: f"input{bad.field}" if bad.field.startswith(".") else bad.field
              for bad in BAD_INPUTS}  # fmt: skip
    fields |= {"": "id", "x" * 257: "id", "no input": "input"}
    for id, answer in answers.items():
        if id in fields:
            assert answer.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0], answer.error
            assert answer.error.field == fields[id]
            assert answer.error.message.startswith(f"{fields[id]}: ")
            assert answer.error.retry_after_seconds == 0
        elif id.startswith("unknown "):
            assert answer.error.code == grpc.StatusCode.NOT_FOUND.value[0]
        else:
            assert_golden(answer.embedding, golden, "qwen", "lora", "text")


@pytest.mark.parametrize("what", UNKNOWN)
def test_what_is_not_there_is_not_found(server: Server, what: str) -> None:
    request = pb.EmbedRequest(options=UNKNOWN[what], inputs=[text("a")])
    error = failure(server.embedding.Embed, request)
    assert error.code() == grpc.StatusCode.NOT_FOUND
    # It says what there is; spaces are for machines.
    if what != "space":
        assert {"model": "phi, qwen", "alias": "canary, champion", "version": "base, dora, lora"}[
            what
        ] in (error.details() or "")


@pytest.mark.parametrize("count", [0, 65])
def test_the_number_of_inputs_is_limited(server: Server, count: int) -> None:
    inputs = [text("a")] * count
    for method, request, field in (
        (server.embedding.Embed, pb.EmbedRequest(options=options(), inputs=inputs), "inputs"),
        (
            server.embedding.Rank,
            pb.RankRequest(options=options(), query=text("a"), candidates=inputs),
            "candidates",
        ),
    ):
        error = failure(method, request)
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert (error.details() or "").startswith(f"{field}: {count} given; 1 to max_inputs, 64")


def test_phi_refuses_video_and_no_model_is_guessed(server: Server) -> None:
    video = case_inputs("qwen")["video"].parts[0]
    request = pb.EmbedRequest(options=options("phi"), inputs=[pb.Input(parts=[video])])
    error = failure(server.embedding.Embed, request)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (error.details() or "").startswith("inputs[0].video: ")
    error = failure(server.embedding.Embed, pb.EmbedRequest(inputs=[text("a")]))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "model.name" in (error.details() or "")


def test_bytes_that_are_no_message_fail_alone(server: Server) -> None:
    for method in ("Embed", "Rank"):
        raw: Any = server.channel.unary_unary(f"/{SERVICES[0]}/{method}")
        assert failure(raw, b"\xff\xff\xff", timeout=30).code() in (
            grpc.StatusCode.INTERNAL,
            grpc.StatusCode.UNKNOWN,
        )
    raw = server.channel.stream_stream(f"/{SERVICES[0]}/EmbedStream")
    error = failure(next, raw(iter([b"\xff\xff\xff"]), timeout=30))
    assert error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
    missing: Any = server.channel.unary_unary(f"/{SERVICES[0]}/Missing")
    assert failure(missing, b"").code() == grpc.StatusCode.UNIMPLEMENTED
    assert len(embed(server, text("a"))) == 1


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


# Operation


def test_health_and_reflection(server: Server) -> None:
    assert server.first_status == NOT_SERVING
    for service in ("", *SERVICES, "liveness"):
        assert server.status(service) == SERVING
    unknown = health_pb2.HealthCheckRequest(service="unknown")
    assert failure(server.health.Check, unknown).code() == grpc.StatusCode.NOT_FOUND
    reflected = ProtoReflectionDescriptorDatabase(server.channel)
    services = set(reflected.get_services())
    assert services >= {*SERVICES, "grpc.health.v1.Health"}
    file = reflected.FindFileContainingSymbol(SERVICES[0])
    assert {method.name for method in file.service[0].method} == {
        "Embed", "EmbedStream", "Rank", "ListModels",
    }  # fmt: skip


def test_metrics_count_what_was_sent(server: Server) -> None:
    cases = case_inputs("qwen")
    wait_until(lambda: server.metric("requests_in_flight") == 0)
    counted: dict[str, tuple[str, dict[str, str]]] = {
        "calls": ("requests_total", {"method": "Embed", "code": "OK"}),
        "failed calls": ("requests_total", {"method": "Embed", "code": "INVALID_ARGUMENT"}),
        "missed calls": ("requests_total", {"method": "Rank", "code": "NOT_FOUND"}),
        "streams": ("requests_total", {"method": "EmbedStream", "code": "OK"}),
        "seconds": ("request_seconds_count", {"method": "Embed"}),
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
        "tokens": tokens, "waits": 8, "batch inputs": 8, "batch tokens": tokens, "other model": 0,
    }  # fmt: skip
    # A call is counted right after its answer left.
    wait_until(lambda: server.metric("requests_in_flight") == 0)
    assert {key: value - before[key] for key, value in read().items()} == expected
    assert server.metric("pending_requests") == server.metric("queue_requests") == 0
    assert server.metric("worker_up", model="qwen") == server.metric("worker_up", model="phi") == 1
    assert server.metric("worker_restarts_total") == 0
    assert server.metric("vision_cache_misses_total", model="qwen") > 0


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
    assert result.stderr.splitlines()[-1].startswith(f"Error: cannot listen on {server.address}")


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


# A second server: a file and environment variables instead of flags, JSON log, a short queue

SECRET = "the-words-of-a-caller"
QUEUE = 8


@pytest.fixture(scope="module")
def small_server(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
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
    assert codes.count(grpc.StatusCode.OK) >= QUEUE


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
    metadata = (("x-request-id", "in-the-log"),)
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
    mine = [line["code"] for line in calls if line["request_id"] == "in-the-log"]
    assert mine == ["OK"] + ["INVALID_ARGUMENT"] * 6
