"""Around every call, over any protocol: who it is, whether it may, metrics, one line of log."""

import asyncio
import contextvars
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from vlm2vec_service.errors import Code, ExhaustedError, ServeError, UnavailableError
from vlm2vec_service.frontend.auth.authenticator import Authenticator, Credentials
from vlm2vec_service.frontend.auth.identity import ANYONE, Identity
from vlm2vec_service.frontend.auth.quota import UNLIMITED, Quota, Quotas
from vlm2vec_service.frontend.forwarding import Forwarding, Headers
from vlm2vec_service.frontend.holding import ByteBudget, Holding
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.scheduling.fair_queue import Flow

access = logging.getLogger("vlm2vec.access")
log = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
SEVERAL = "several"
"""Stands in logs and metrics for more than one model or version."""


@dataclass
class Call:
    """One call. ``method`` is from a fixed set, ``path`` what the caller wrote, over HTTP with a
    ``verb``; ``peer`` is an address as gRPC writes it.

    ``model`` and ``version`` are those that were found, empty until then, and `SEVERAL` for a
    stream to several; ``inputs`` and ``tokens`` are counted as they come.
    """

    method: str
    peer: str
    id: str
    path: str = ""
    verb: str | None = None
    client: str = ""
    """The address that proxies saw, without a port; empty where none is believed."""
    routing_key: str = ""
    """The key that came in a header."""
    model: str = ""
    version: str = ""
    inputs: int = 0
    tokens: int = 0
    started: float = field(default_factory=time.monotonic)
    identity: Identity = ANYONE
    quota: Quota = UNLIMITED
    checked: float = 0.0
    place: str | None = None
    """The caller whose place it takes; None before it is let in."""
    held: Holding | None = None
    """The bytes that it holds of what was received; None where nobody counts them."""
    recheck: Callable[[], None] = lambda: None
    """For what lasts long: raises `ServeError` once the credential is no longer good."""

    @property
    def caller(self) -> str:
        """The name that is fair to, limits and logs the caller: its own, or where nobody asks for
        it the address without the port, so that one host's connections share a turn: the one that
        trusted proxies saw, or else that of who connects."""
        if known := self.identity.name or self.client:
            return known
        return (
            self.peer.rpartition(":")[0] if self.peer.startswith(("ipv4:", "ipv6:")) else self.peer
        )

    def found(self, model: str, version: str = "") -> None:
        """Notes which model answers, or which version of it."""
        self.model = model if self.model in ("", model) else SEVERAL
        if version:
            self.version = version if self.version in ("", version) else SEVERAL

    def hold(self, received: int, field: str) -> None:
        """Counts bytes that were or will be received, until the call ends. Raises
        `ExhaustedError` where there is no room for them, and `InvalidInputError` that names
        ``field`` where there never is."""
        if self.held is not None:
            self.held.take(received, field)


current: contextvars.ContextVar[Call] = contextvars.ContextVar("call")


def public(error: Exception, id: str) -> ServeError:
    """The error as a caller may see it: one of ours as it is, any other without its details; none
    with its history (see `let_go`)."""
    shown = error
    if not isinstance(shown, ServeError):
        log.exception("request %s failed", id, exc_info=error)
        shown = ServeError(f"internal error; quote request id {id}")
    let_go(error)
    return shown


def let_go(error: BaseException) -> None:
    """Makes ``error`` forget where it came from.

    It holds the frames that it passed, and they the request. Where one of them holds the error,
    too, all that stays in memory until Python looks for such cycles, whatever its size.
    """
    history = [error]
    while history:
        one = history.pop()
        history += [cause for cause in (one.__cause__, one.__context__) if cause is not None]
        one.__traceback__ = one.__cause__ = one.__context__ = None


class Access:
    """What every call passes, whichever protocol it came by."""

    def __init__(
        self,
        metrics: Metrics,
        draining: asyncio.Event,
        authenticator: Authenticator,
        quotas: Quotas,
        max_calls: int,
        received: ByteBudget,
        forwarding: Forwarding,
    ) -> None:
        self.metrics = metrics
        self.draining = draining
        self.authenticator = authenticator
        self.quotas = quotas
        self.max_calls = max_calls
        self.received = received
        self.forwarding = forwarding
        self._under_way: Counter[str] = Counter()

    def start(
        self,
        method: str,
        peer: str,
        headers: Headers = lambda name: (),
        path: str = "",
        verb: str | None = None,
    ) -> Call:
        """Notes a call that comes in, with the id that the caller gave it, if any. `finish` has to
        follow."""
        given = headers(REQUEST_ID)
        id = given[0] if len(given) == 1 else ""
        good = 0 < len(id) <= 128 and id.isascii() and id.isprintable()
        call = Call(method, peer, id if good else os.urandom(16).hex(), path, verb)
        call.client = self.forwarding.client(peer, headers)
        call.routing_key = self.forwarding.routing_key(headers)
        call.held = Holding(self.received, Flow(call.caller, True))
        current.set(call)
        self.metrics.in_flight.labels(method).inc()
        return call

    def check(self, call: Call, credentials: Credentials, scope: str, stream: bool = False) -> None:
        """Who it is, and whether it may. A ``stream`` pays by the input. Raises `ServeError`."""
        call.identity = self.authenticator.identify(credentials)
        caller = call.caller
        if call.identity.name:
            call.held = Holding(self.received, Flow(caller, True))
        call.quota = self.quotas.of(caller, call.identity)
        if self.draining.is_set():
            raise UnavailableError("the server is shutting down; try another", retry_after=0.1)
        call.identity.check_scope(scope)
        self._take_place(call, caller)
        if stream:
            call.recheck = lambda: self._recheck(call, credentials, scope)
            call.checked = time.monotonic()
        else:
            try:
                call.quota.admit()
            except ExhaustedError:
                self.metrics.quota_refusals.inc()
                raise

    def _take_place(self, call: Call, caller: str) -> None:
        """Counts the call in, until `finish`. Raises `ExhaustedError` where there are as many as
        may be, or where the caller has half of them."""
        own = self._under_way[caller]
        if self._under_way.total() >= self.max_calls or own >= max(1, self.max_calls // 2):
            raise ExhaustedError(
                f"too many calls are under way: {own} of this caller, "
                f"{self._under_way.total()} in all (max_calls {self.max_calls})",
                retry_after=1.0,
            )
        self._under_way[caller] += 1
        call.place = caller

    def _recheck(self, call: Call, credentials: Credentials, scope: str) -> None:
        # Credentials change no faster than they are read, and a signature takes its time.
        now = time.monotonic()
        if now >= call.checked + self.authenticator.settings.reload_seconds:
            call.checked = now
            call.identity = self.authenticator.identify(credentials)
            call.identity.check_scope(scope)

    def finish(
        self, call: Call, error: BaseException | None, stream: bool = False
    ) -> ServeError | None:
        """Counts and logs what the call ended with; the error that the caller is to see, if any."""
        shown = public(error, call.id) if isinstance(error, Exception) else None
        code = shown.code if shown else Code.OK if error is None else Code.CANCELLED
        seconds = time.monotonic() - call.started
        if call.place is not None:
            self._under_way[call.place] -= 1
            if not self._under_way[call.place]:
                del self._under_way[call.place]
        if call.held is not None:
            call.held.release()
        self.metrics.in_flight.labels(call.method).dec()
        self.metrics.requests.labels(call.method, call.model, code.name).inc()
        if code != Code.CANCELLED and not stream:
            self.metrics.seconds.labels(call.method, call.model).observe(seconds)
        if not access.isEnabledFor(logging.INFO):
            return shown
        access.info(
            "%s %s %.1f ms",
            call.method,
            code.name,
            seconds * 1000,
            extra={
                "method": call.method, "code": code.name, "seconds": round(seconds, 6),
                "request_id": call.id, "caller": call.caller, "peer": call.peer,
                "verb": call.verb, "path": call.path, "model": call.model or None,
                "version": call.version or None, "inputs": call.inputs, "tokens": call.tokens,
                "error": str(shown) if shown else None,
            },
        )  # fmt: skip
        return shown
