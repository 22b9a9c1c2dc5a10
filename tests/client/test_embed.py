"""Unary calls: order, formats, sizes, options and what travels."""

from typing import Any

import numpy as np
import pytest

import vlm2vec
from tests.client.conftest import Connect
from tests.client.server import Service
from tests.client.vectors import DIMENSION, text, vector_of
from vlm2vec.v1 import embedding_pb2 as pb


def test_one_text(client: Any) -> None:
    vector = client.embed("a cat", instruction="Find it.")
    assert vector.shape == (DIMENSION,)
    assert vector.dtype == np.float32
    np.testing.assert_array_equal(vector, vector_of(text("a cat", "Find it.")))
    vector[0] = 0  # writable


@pytest.mark.parametrize("count", [1, 2, 64, 65, 200, 700])
def test_many_keep_their_order(client: Any, service: Service, count: int) -> None:
    texts = [f"text {index}" for index in range(count)]
    vectors = client.embed(iter(texts))
    assert vectors.shape == (count, DIMENSION)
    np.testing.assert_array_equal(vectors, [vector_of(text(words)) for words in texts])
    sizes = sorted((len(request.inputs) for request, _ in service.calls), reverse=True)
    assert sizes == [min(64, count - start) for start in range(0, count, 64)]
    assert {r.options.priority for r, _ in service.calls} == {pb.PRIORITY_INTERACTIVE}


def test_none(client: Any, service: Service) -> None:
    assert client.embed([]).shape == (0, 0)
    assert client.embed([], details=True) == []
    assert not service.calls


def test_details(client: Any) -> None:
    one = client.embed("a", details=True)
    assert (one.model, one.version, one.space, one.tokens) == ("made-up", "1", "space-1", 7)
    assert one.timings == vlm2vec.Timings(preprocess=0.25, queue=0.5, inference=0.125)
    several = client.embed(["a", "b"], details=True)
    assert [item.version for item in several] == ["1", "1"]
    np.testing.assert_array_equal(several[0].vector, one.vector)
    assert not one.truncated
    assert client.embed("a", truncate=True, details=True).truncated


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 0.0), ("float16", 1e-3), ("int8", 0.5 / 127)]
)
def test_number_formats(client: Any, dtype: Any, tolerance: float) -> None:
    vector = client.embed("a", dtype=dtype)
    assert vector.dtype == np.float32
    np.testing.assert_allclose(vector, vector_of(text("a")), atol=tolerance, rtol=0)


@pytest.mark.parametrize("dimensions", [3, 8, 12])
def test_binary_is_signs(client: Any, dimensions: int) -> None:
    vector = client.embed("a", dtype="binary", dimensions=dimensions)
    np.testing.assert_array_equal(vector, np.sign(vector_of(text("a"))[:dimensions]))
    assert vector.dtype == np.float32


def test_output_options(client: Any) -> None:
    whole = vector_of(text("a"))
    cut = client.embed("a", dimensions=5)
    np.testing.assert_allclose(cut, whole[:5] / np.linalg.norm(whole[:5]), rtol=1e-6)
    np.testing.assert_allclose(client.embed("a", normalize=False), whole * 3, rtol=1e-6)
    np.testing.assert_allclose(client.embed("a", normalize=True), whole, rtol=1e-6)


def test_model_and_priority_travel(client: Any, service: Service) -> None:
    client.embed("a", model="m", alias="canary", routing_key="user 1", priority="bulk")
    client.embed("a", model="m", version="3")
    client.embed("a", space="s")
    client.embed("a", truncate=True)
    client.embed("a", truncate=512)
    client.embed("a")
    first, second, third, *cut, last = [request.options for request, _ in service.calls]
    assert [(options.HasField("truncate"), options.truncate) for options in cut] == [
        (True, 0), (True, 512)
    ]  # fmt: skip
    assert not last.HasField("truncate")
    assert first.model == pb.ModelRef(name="m", alias="canary")
    assert (first.routing_key, first.priority) == ("user 1", pb.PRIORITY_BULK)
    assert second.model == pb.ModelRef(name="m", version="3")
    assert third.model == pb.ModelRef(space="s")
    assert last.model.WhichOneof("selector") is None
    assert last.priority == pb.PRIORITY_INTERACTIVE


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"alias": "a", "version": "1"}, "at most one of alias, version and space"),
        ({"version": "1", "space": "s"}, "at most one of alias, version and space"),
        ({"priority": "high"}, "priority is 'high'"),
        ({"dtype": "float64"}, "dtype is 'float64'"),
        ({"truncate": -1}, "truncate is -1"),
    ],
)
def test_bad_options(client: Any, options: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        client.embed("a", **options)
    with pytest.raises(ValueError, match=problem):
        client.stream(["a"], **options).__next__()


def test_unknown_option(client: Any) -> None:
    with pytest.raises(TypeError, match="colour"):
        client.embed("a", colour="red")


def test_requests_are_cut_by_bytes_too(connect: Connect, service: Service) -> None:
    client = connect(max_message_bytes=10_000)
    vectors = client.embed([vlm2vec.Input(images=[bytes([n]) * 3_000]) for n in range(8)])
    assert len(vectors) == 8
    assert sorted(len(request.inputs) for request, _ in service.calls) == [2, 3, 3]
    assert all(request.ByteSize() <= 10_000 for request, _ in service.calls)


def test_an_input_above_the_message_limit(connect: Connect) -> None:
    client = connect(max_message_bytes=10_000)
    too_large = vlm2vec.Input(images=[bytes(20_000)])
    with pytest.raises(vlm2vec.InvalidInput, match="above the limit") as caught:
        client.embed(["fine", too_large])
    assert caught.value.id == 1
    results = dict(client.stream(["fine", too_large], on_error="yield"))
    assert isinstance(results[1], vlm2vec.InvalidInput)
    assert results[0].shape == (DIMENSION,)


@pytest.mark.parametrize("count", [20, 100, 400])
def test_version_switch(client: Any, service: Service, count: int) -> None:
    service.behaviour.switch_after = 10
    with pytest.raises(vlm2vec.SpaceChanged, match="pin one with version= or space="):
        client.embed([str(index) for index in range(count)])


def test_rank(client: Any, service: Service) -> None:
    candidates = [f"candidate {index}" for index in range(150)]
    ranking = client.rank("query", candidates, instruction="q", candidate_instruction="c")
    scores = [float(vector_of(text("query", "q")) @ vector_of(text(c, "c"))) for c in candidates]
    assert [ranked.index for ranked in ranking.candidates] == np.argsort(scores)[::-1].tolist()
    np.testing.assert_allclose(
        [ranked.score for ranked in ranking.candidates], sorted(scores, reverse=True), rtol=1e-6
    )
    assert (ranking.model, ranking.version, ranking.space) == ("made-up", "1", "space-1")
    assert len(service.calls) == 3
    best = client.rank("query", candidates, top_k=3, instruction="q", candidate_instruction="c")
    assert best.candidates == ranking.candidates[:3]
    assert not ranking.query_truncated
    assert not ranking.candidates[0].truncated
    cut = client.rank("query", candidates[:2], truncate=9)
    assert cut.query_truncated
    assert [ranked.truncated for ranked in cut.candidates] == [True, True]


@pytest.mark.parametrize("options", [{}, {"alias": "champion"}, {"model": "made-up"}])
def test_a_call_stays_in_the_space_in_which_it_began(
    client: Any, service: Service, options: dict[str, str]
) -> None:
    service.behaviour.switch_after = 64
    found = client.embed([str(index) for index in range(400)], details=True, **options)
    assert {item.space for item in found} == {"space-1"}
    service.behaviour.switch_after += 400
    assert client.rank("query", ["candidate"] * 128, **options).space == "space-1"
    service.behaviour.switch_after += 128
    first = [str(index) for index in range(64)]
    assert client.similarity(first, ["a", "b"], **options).shape == (64, 2)
    assert client.embed("now", details=True, **options).space == "space-2"


@pytest.mark.parametrize("options", [{"version": "1"}, {"model": "made-up@canary"}])
def test_who_names_a_version_is_not_given_a_space(
    client: Any, service: Service, options: dict[str, str]
) -> None:
    client.embed([str(index) for index in range(128)], **options)
    first, second = (request.options.model for request, _ in service.calls)
    assert first == second
    assert not second.space


def test_rank_nothing(client: Any) -> None:
    with pytest.raises(ValueError, match="no candidates"):
        client.rank("query", [])


def test_models(client: Any) -> None:
    version = vlm2vec.ModelVersion("1", "space-1", ("champion",))
    assert client.models() == [vlm2vec.Model("made-up", "qwen2_vl", DIMENSION, True, (version,))]
