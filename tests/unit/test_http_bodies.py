"""Bodies of requests, as pydantic and `Body` check them together: the first fault ends it."""

import time
from typing import Any

import pytest

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.frontend.http.bodies import EmbeddingsBody, RerankBody

GOOD: dict[type[EmbeddingsBody | RerankBody], dict[str, Any]] = {
    EmbeddingsBody: {"model": "v2", "input": "a", "instruction": "é", "user": None},
    RerankBody: {"query": "a", "documents": ["b"], "document_instruction": "😀"},
}
BODIES: list[type[EmbeddingsBody | RerankBody]] = [EmbeddingsBody, RerankBody]


@pytest.mark.parametrize("body", BODIES)
def test_good_bodies_are_read(body: type[EmbeddingsBody | RerankBody]) -> None:
    read = body.model_validate(GOOD[body])
    assert {key: getattr(read, key) for key in GOOD[body]} == GOOD[body]


@pytest.mark.parametrize("body", BODIES)
def test_every_string_has_to_be_unicode(body: type[EmbeddingsBody | RerankBody]) -> None:
    for key in body.model_fields:
        with pytest.raises(InvalidInputError, match="no valid Unicode") as refused:
            body.model_validate({**GOOD[body], key: "a\ud800"})
        assert refused.value.field == key


@pytest.mark.parametrize("body", BODIES)
def test_the_first_unknown_key_ends_it(body: type[EmbeddingsBody | RerankBody]) -> None:
    """As many as a body of 64 MiB has room for, of which pydantic makes as many errors."""
    values = {**GOOD[body], **{f"{number:x}": 0 for number in range(3_000_000)}}
    started = time.process_time()
    with pytest.raises(InvalidInputError, match="0: unknown; known are model") as refused:
        body.model_validate(values)
    assert refused.value.field == "0"
    assert time.process_time() - started < 0.2
    with pytest.raises(InvalidInputError) as long:
        body.model_validate({"x" * 10**6: 1})
    assert len(str(long.value)) < 800


@pytest.mark.parametrize(
    ("given", "priority"),
    [
        (None, pb.PRIORITY_INTERACTIVE), ("interactive", pb.PRIORITY_INTERACTIVE),
        (0, pb.PRIORITY_INTERACTIVE), (-5, pb.PRIORITY_INTERACTIVE), ("bulk", pb.PRIORITY_BULK),
        (1, pb.PRIORITY_BULK), (999, pb.PRIORITY_BULK),
    ],
)  # fmt: skip
def test_priorities_of_other_servers(given: Any, priority: int) -> None:
    body = EmbeddingsBody.model_validate({"input": "a", "priority": given, "user": "me"})
    options = body.options(None)
    assert (options.priority, options.routing_key) == (priority, "me")
    assert not options.HasField("truncate")
    assert body.options(0).HasField("truncate")


def test_names_of_one_field_have_to_agree() -> None:
    agreed = EmbeddingsBody(normalize=False, normalized=False, use_activation=None)
    assert agreed.one_of("normalize", "normalized", "use_activation") is False
    assert EmbeddingsBody().one_of("normalize", "normalized") is None
    with pytest.raises(InvalidInputError, match="the same as normalize") as refused:
        EmbeddingsBody(normalize=False, normalized=True).one_of("normalize", "normalized")
    assert refused.value.field == "normalized"
    told = EmbeddingsBody(instruction="Find it.", task="Find it.")
    assert told.task_of(told.instruction, "task").instruction == "Find it."
    with pytest.raises(InvalidInputError, match="the same as instruction") as refused:
        told.task_of("Look at it.", "task")
    assert refused.value.field == "task"
