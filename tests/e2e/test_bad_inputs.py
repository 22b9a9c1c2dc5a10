"""What gRPC calls get wrong is named, and costs nobody else anything."""

from typing import Any

import grpc
import pytest

from tests.e2e.bad_inputs import BAD_INPUTS, UNKNOWN, Bad
from tests.e2e.cases import Golden, assert_golden, case_inputs, options, text
from tests.e2e.grpc_calls import SERVICES, embed, failure, stream
from tests.e2e.server import Server
from vlm2vec.v1 import embedding_pb2 as pb


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


@pytest.mark.parametrize("count", [0, 2049])
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
        assert (error.details() or "").startswith(f"{field}: {count} given; 1 to max_inputs, 2048")


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
        error = failure(raw, b"\xff\xff\xff", timeout=30)
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    raw = server.channel.stream_stream(f"/{SERVICES[0]}/EmbedStream")
    error = failure(next, raw(iter([b"\xff\xff\xff"]), timeout=30))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    missing: Any = server.channel.unary_unary(f"/{SERVICES[0]}/Missing")
    assert failure(missing, b"").code() == grpc.StatusCode.UNIMPLEMENTED
    assert len(embed(server, text("a"))) == 1
