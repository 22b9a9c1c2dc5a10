"""Places for calls: so many at once, and no caller takes them all."""

import asyncio
import gc
import weakref
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import ExhaustedError, InvalidInputError
from vlm2vec_service.frontend.access import Access, Call, public
from vlm2vec_service.frontend.auth.authenticator import Authenticator, Credentials
from vlm2vec_service.frontend.auth.identity import ANYONE
from vlm2vec_service.frontend.auth.quota import Quotas
from vlm2vec_service.frontend.forwarding import Forwarding
from vlm2vec_service.frontend.holding import ByteBudget
from vlm2vec_service.frontend.limits import check_parts
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.settings import AuthSettings

NOTHING = Credentials("", ())


def access(max_calls: int, received: int = 1000) -> Access:
    """Access for callers who go by their addresses."""
    authenticator: Any = SimpleNamespace(identify=lambda credentials: ANYONE)
    return Access(
        Metrics(CollectorRegistry()),
        asyncio.Event(),
        cast(Authenticator, authenticator),
        Quotas(0, 0, 1),
        max_calls,
        ByteBudget("max_received_bytes", received),
        Forwarding.of(AuthSettings()),
    )


def call(gate: Access, host: str, stream: bool = False) -> Call:
    """A call from ``host`` that was let in."""
    started = gate.start("Embed", f"ipv4:{host}:5")
    gate.check(started, NOTHING, "embed", stream)
    return started


@pytest.mark.parametrize("stream", [True, False])
def test_a_caller_takes_half_of_the_places_and_others_get_theirs(stream: bool) -> None:
    gate = access(max_calls=10)
    greedy = [call(gate, "10.0.0.1", stream) for _ in range(5)]
    for _ in range(3):
        with pytest.raises(ExhaustedError, match=r"5 of this caller, 5 in all \(max_calls 10\)"):
            call(gate, "10.0.0.1", stream)
    others = [call(gate, f"10.0.0.{number}", stream) for number in range(2, 7)]
    with pytest.raises(ExhaustedError, match="0 of this caller, 10 in all"):
        call(gate, "10.0.0.9", stream)
    gate.finish(greedy[0], None, stream)
    last = call(gate, "10.0.0.9", stream)
    for one in (*greedy[1:], *others, last):
        gate.finish(one, None, stream)
    assert len([call(gate, "10.0.0.1", stream) for _ in range(5)]) == 5


def test_who_was_refused_gives_no_place_back() -> None:
    gate = access(max_calls=2)
    kept = call(gate, "10.0.0.1")
    for _ in range(5):
        refused = gate.start("Embed", "ipv4:10.0.0.1:5")
        with pytest.raises(ExhaustedError) as caught:
            gate.check(refused, NOTHING, "embed")
        gate.finish(refused, caught.value)
    with pytest.raises(ExhaustedError):
        call(gate, "10.0.0.1")
    gate.finish(kept, None)
    call(gate, "10.0.0.1")


def test_parts_are_counted_before_anybody_looks_at_one() -> None:
    message = pb.Input(parts=[pb.Part()] * 257)
    check_parts(message, 257, "input")
    with pytest.raises(InvalidInputError, match=r"257 are more than max_parts, 256") as refused:
        check_parts(message, 256, "inputs[3]")
    assert refused.value.field == "inputs[3].parts"


class Large:
    """Stands for a picture of many bytes."""


def failure() -> "weakref.ref[Large]":
    """Fails in a frame that holds something large and, in the end, the error too."""
    large = Large()
    try:
        try:
            raise ValueError
        except ValueError as error:
            raise InvalidInputError("image", "too large") from error
    except InvalidInputError as error:
        kept = error
    shown = public(kept, "id")
    assert shown.__cause__ is None
    return weakref.ref(large)


def test_an_error_lets_go_of_what_the_request_held() -> None:
    gc.disable()
    try:
        assert failure()() is None
    finally:
        gc.enable()
