"""The vectors, models and ranks that callers get over gRPC: real pictures, golden vectors."""

import random

import grpc
import numpy as np
import pytest

from tests.e2e.cases import (
    ARCHITECTURES,
    VERSIONS,
    Golden,
    assert_golden,
    case_inputs,
    cosine,
    options,
)
from tests.e2e.grpc_calls import embed, failure, spaces, stream
from tests.e2e.server import Server
from vlm2vec.v1 import embedding_pb2 as pb

ALL = [
    (model, version, case, message)
    for model in ARCHITECTURES
    for case, message in case_inputs(model).items()
    for version in VERSIONS
]
"""Every parity case on every version of its model."""


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
        assert model.dimension == {"qwen": 128, "phi": 192}[model.name]
        assert model.ready
        assert {item.version: list(item.aliases) for item in model.versions} == {
            "base": [],
            "lora": ["canary", "champion"],
            "dora": [],
        }
    assert len(set(spaces(server).values())) == 6


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
