"""Bodies of requests, as pydantic and `Body` check them together: the first fault ends it."""

import time
from typing import Any

import pytest

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
