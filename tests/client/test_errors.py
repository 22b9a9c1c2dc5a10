"""Errors, retries and deadlines of unary calls."""

import pickle
import time
from collections.abc import Iterable
from typing import Any

import grpc
import pytest

import vlm2vec
from tests.client.conftest import Connect
from tests.client.server import Service

UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "starting", ())


def hinted(milliseconds: object, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> Any:
    return (code, "busy", (("retry-after-ms", str(milliseconds)),))


def fail(service: Service, failures: Iterable[Any]) -> None:
    service.behaviour.unary_failures.extend(failures)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, vlm2vec.InvalidInput),
        (grpc.StatusCode.NOT_FOUND, vlm2vec.NotFound),
        (grpc.StatusCode.FAILED_PRECONDITION, vlm2vec.FailedPrecondition),
        (grpc.StatusCode.UNAUTHENTICATED, vlm2vec.Unauthenticated),
        (grpc.StatusCode.PERMISSION_DENIED, vlm2vec.PermissionDenied),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, vlm2vec.ResourceExhausted),
        (grpc.StatusCode.DEADLINE_EXCEEDED, vlm2vec.DeadlineExceeded),
        (grpc.StatusCode.INTERNAL, vlm2vec.Internal),
        (grpc.StatusCode.UNIMPLEMENTED, vlm2vec.VLM2VecError),
    ],
)
def test_each_code_has_its_class(client: Any, service: Service, code: Any, kind: Any) -> None:
    fail(service, [(code, "what it is", ())])
    with pytest.raises(vlm2vec.VLM2VecError, match=r"^what it is$") as caught:
        client.models()
    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.message) == (code, "what it is")
    assert (caught.value.field, caught.value.retry_after) == ("", None)
    assert len(service.calls) == 1


def test_field_of_the_input_at_fault(client: Any) -> None:
    with pytest.raises(vlm2vec.InvalidInput, match="is bad, max_bad 0") as caught:
        client.embed(["good"] * 70 + ["bad"])
    assert caught.value.field == "inputs[70].parts[0].text"
    assert caught.value.id == 70
    assert "inputs[70]" in caught.value.__notes__[0]


def test_errors_travel_between_processes(client: Any) -> None:
    with pytest.raises(vlm2vec.InvalidInput) as caught:
        client.embed(["bad"])
    copy = pickle.loads(pickle.dumps(caught.value))
    assert type(copy) is vlm2vec.InvalidInput
    assert vars(copy) == vars(caught.value)


def test_unavailable_is_tried_again(client: Any, service: Service) -> None:
    fail(service, [UNAVAILABLE] * 5)
    assert client.embed("a").shape == (12,)
    assert len(service.calls) == 6


def test_retries_end(connect: Connect, service: Service) -> None:
    client = connect(max_retries=2)
    fail(service, [UNAVAILABLE] * 3)
    with pytest.raises(vlm2vec.Unavailable, match="starting"):
        client.embed("a")
    assert len(service.calls) == 3
    fail(service, [UNAVAILABLE])
    with pytest.raises(vlm2vec.Unavailable):
        connect(max_retries=0).embed("a")


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_hint_is_the_least_wait(client: Any, service: Service, code: Any) -> None:
    fail(service, [hinted(300, code), hinted(200, code)])
    begin = time.monotonic()
    client.embed("a")
    assert time.monotonic() - begin >= 0.5
    assert len(service.calls) == 3


def test_exhausted_without_a_hint_is_a_limit(client: Any, service: Service) -> None:
    fail(service, [(grpc.StatusCode.RESOURCE_EXHAUSTED, "too large", ())])
    with pytest.raises(vlm2vec.ResourceExhausted, match="too large") as caught:
        client.embed("a")
    assert caught.value.retry_after is None
    assert len(service.calls) == 1


def test_a_hint_beyond_the_deadline_is_not_awaited(client: Any, service: Service) -> None:
    fail(service, [hinted(60_000)])
    begin = time.monotonic()
    with pytest.raises(vlm2vec.Unavailable, match="busy") as caught:
        client.embed("a", timeout=5)
    assert caught.value.retry_after == 60
    assert time.monotonic() - begin < 5


def test_hint_that_is_no_number(client: Any, service: Service) -> None:
    fail(service, [hinted("soon")])
    client.embed("a")
    assert len(service.calls) == 2


def test_deadline_of_a_call(client: Any, service: Service) -> None:
    service.behaviour.silent = True
    begin = time.monotonic()
    with pytest.raises(vlm2vec.DeadlineExceeded, match="give a longer timeout"):
        client.embed("a", timeout=0.3)
    assert time.monotonic() - begin < 10
    assert len(service.calls) == 1


def test_deadline_of_the_client(connect: Connect, service: Service) -> None:
    service.behaviour.silent = True
    with pytest.raises(vlm2vec.DeadlineExceeded):
        connect(timeout=0.3).rank("a", ["b"])


def test_retries_stay_within_the_deadline(connect: Connect, service: Service) -> None:
    fail(service, [hinted(100)] * 1000)
    begin = time.monotonic()
    with pytest.raises((vlm2vec.Unavailable, vlm2vec.DeadlineExceeded)):
        connect(max_retries=1000).embed("a", timeout=1)
    assert time.monotonic() - begin < 10
    assert 2 <= len(service.calls) <= 10


def test_no_server(connect: Connect) -> None:
    with pytest.raises(vlm2vec.Unavailable):
        connect(server="localhost:1", max_retries=1).models()
