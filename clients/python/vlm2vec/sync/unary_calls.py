"""Unary calls: one that is made again where that helps, and several of which some are ahead."""

import itertools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Generic, TypeVar

import grpc

from vlm2vec.errors import from_rpc
from vlm2vec.retry import Deadline, RetryPolicy
from vlm2vec.unary_requests import calls_at_once

Request = TypeVar("Request")
Response = TypeVar("Response")


class UnaryCall(Generic[Request, Response]):
    """A unary call, which is made again after an error for which that can help."""

    def __init__(
        self,
        method: "grpc.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        metadata: tuple[tuple[str, str], ...],
        retries: RetryPolicy,
        deadline: Deadline,
    ) -> None:
        self.request = request
        self._method = method
        self._metadata = metadata
        self._retries = retries
        self._deadline = deadline
        self._ahead: grpc.Future[Response] | None = None

    def send_ahead(self) -> None:
        """Sends the request, whose answer `result` then waits for.

        Without it `result` sends the request, which takes half the CPU time.
        """
        self._ahead = self._method.future(
            self.request, timeout=self._deadline.remaining(), metadata=self._metadata
        )

    def result(self) -> Response:
        """Waits for the answer; raises a `VLM2VecError` where there is none."""
        for attempt in itertools.count():
            try:
                if self._ahead is not None:
                    return self._ahead.result()
                return self._method(
                    self.request, timeout=self._deadline.remaining(), metadata=self._metadata
                )
            except grpc.RpcError as error:
                failure = from_rpc(error)
                delay = self._retries.delay(failure, attempt, self._deadline)
                if delay is None:
                    raise failure from error
            self._ahead = None
            time.sleep(delay)
        raise AssertionError("counting does not end")

    def cancel(self) -> None:
        """Cancels what was sent ahead."""
        if self._ahead is not None:
            self._ahead.cancel()


def in_turn(
    requests: Iterable[Request], make: Callable[[Request], UnaryCall[Request, Response]]
) -> Generator[tuple[Request, Response], None, None]:
    """Yields each request with its answer, in order; some are sent before it is their turn.

    ``make`` makes the call of a request. Closing the generator cancels what was sent. Raises what
    `UnaryCall.result` and ``requests`` raise.
    """
    calls: deque[UnaryCall[Request, Response]] = deque()
    at_once = 1
    try:
        for request in requests:
            call = make(request)
            calls.append(call)
            if at_once > 1:
                call.send_ahead()
            while len(calls) >= at_once:
                response, waited = _timed(calls[0])
                yield calls.popleft().request, response
                at_once = calls_at_once(waited)
        while calls:
            response, _ = _timed(calls[0])
            yield calls.popleft().request, response
    finally:
        for call in calls:
            call.cancel()


def _timed(call: UnaryCall[Request, Response]) -> tuple[Response, float]:
    """Returns the answer to a call, and the seconds that it was waited for."""
    begin = time.monotonic()
    return call.result(), time.monotonic() - begin
