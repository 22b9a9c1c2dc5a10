"""Truncation on request, and what the answers say about it; where it cuts is in
``tests/unit/test_truncation.py``."""

from typing import Any

import grpc
import numpy as np
import pytest

import vlm2vec
from tests.e2e.cases import case_inputs, options, text, unpack
from tests.e2e.grpc_calls import failure, stream
from tests.e2e.server import Server
from vlm2vec.v1 import embedding_pb2 as pb

SHORT, LONG = "a cat", "a cat and a dog " * 3000


def answers(server: Server, *inputs: pb.Input, **given: Any) -> list[pb.Embedding]:
    request = pb.EmbedRequest(options=options(**given), inputs=inputs)
    return list(server.embedding.Embed(request).embeddings)


@pytest.mark.parametrize("model", ["qwen", "phi"])
def test_too_long_a_text_is_cut_where_that_is_asked_for(server: Server, model: str) -> None:
    request = pb.EmbedRequest(options=options(model), inputs=[text(SHORT), text(LONG)])
    error = failure(server.embedding.Embed, request)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (error.details() or "").startswith("inputs[1].input: ")
    assert "max_tokens, 8192; shorten the text, ask for truncation" in (error.details() or "")
    whole, cut = answers(server, text(SHORT), text(LONG), model=model, truncate=20)
    assert (whole.truncated, cut.truncated) == (False, True)
    assert 17 < cut.tokens <= 20
    shorter = answers(server, *(text(LONG[:end].rstrip()) for end in range(30, 90)), model=model)
    assert not any(item.truncated for item in shorter)
    differences = [np.abs(unpack(item.vector) - unpack(cut.vector)).max() for item in shorter]
    assert min(differences) < 1e-5


def test_zero_is_as_many_as_the_server_takes(server: Server) -> None:
    (cut,) = answers(server, text(LONG), truncate=0)
    assert cut.truncated
    assert 8190 <= cut.tokens <= 8192


def test_media_and_instruction_stay(server: Server) -> None:
    image = next(part for part in case_inputs("qwen")["image"].parts if part.image)
    fixed, whole, cut = (
        answers(
            server, pb.Input(instruction="Find it", parts=[image, *more]), truncate=truncate
        )[0]
        for more, truncate in (([], 0), ([pb.Part(text=LONG)], 0), ([pb.Part(text=LONG)], 300))
    )  # fmt: skip
    assert fixed.tokens < cut.tokens <= 300 < whole.tokens
    assert [item.truncated for item in (fixed, whole, cut)] == [False, True, True]
    request = pb.EmbedRequest(
        options=options(truncate=fixed.tokens - 1),
        inputs=[text(SHORT), pb.Input(instruction="Find it", parts=[image, pb.Part(text=LONG)])],
    )
    error = failure(server.embedding.Embed, request)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (error.details() or "").startswith("inputs[1].input: it cannot be truncated to ")


def test_more_than_the_server_takes_is_refused(server: Server) -> None:
    request = pb.EmbedRequest(options=options(truncate=8193), inputs=[text(SHORT)])
    assert failure(server.embedding.Embed, request).details() == (
        "options.truncate: 8193 tokens are more than max_tokens, 8192"
    )


def test_streams_and_rankings_say_what_was_cut(server: Server) -> None:
    given = options(truncate=20)
    found = stream(
        server,
        [
            pb.EmbedStreamRequest(id=id, options=given, input=text(id))
            for id in (SHORT, "a cat and a dog " * 10)
        ],
    )
    assert {len(id): answer.embedding.truncated for id, answer in found.items()} == {
        len(SHORT): False, 160: True
    }  # fmt: skip
    request = pb.RankRequest(options=given, query=text(LONG), candidates=[text(SHORT), text(LONG)])
    ranking = server.embedding.Rank(request)
    assert ranking.query_truncated
    assert [(item.index, item.truncated) for item in ranking.candidates] == [(1, True), (0, False)]
    assert ranking.candidates[0].score > 0.99999


def test_python_client(server: Server) -> None:
    with vlm2vec.Client(server.address) as client:
        with pytest.raises(vlm2vec.InvalidInput, match="ask for truncation"):
            client.embed(LONG, model="qwen")
        cut = client.embed(LONG, model="qwen", truncate=20, details=True)
        assert (cut.truncated, cut.tokens <= 20) == (True, True)
        assert client.embed(LONG, model="qwen", truncate=True, details=True).tokens > 8000
