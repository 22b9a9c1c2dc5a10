"""Quotas: how many requests and tokens a second each caller gets, as token buckets.

A bucket fills at ``rate`` and holds at most a few seconds of it. So what gets out of it over any
time is at most what it held, and ``rate`` times that time (RFC 2697 has the same bucket).
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from vlm2vec_service.errors import ExhaustedError
from vlm2vec_service.frontend.auth.identity import Identity

MAX_QUOTAS = 10_000
"""How many callers are remembered; more push out those with full buckets, who lose nothing."""


class Bucket:
    """A token bucket that gives ``rate`` a second, and at most ``capacity`` at once.

    The balance may fall below zero: what a request costs is known only after it was let in, and the
    caller then waits until the debt is gone.
    """

    def __init__(
        self, rate: float, capacity: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate = rate
        self.capacity = capacity
        self._clock = clock
        self._balance = capacity
        self._at = clock()

    @property
    def balance(self) -> float:
        """How much may be taken now; below zero, how much is owed."""
        return self.take(0.0)

    def take(self, amount: float) -> float:
        """Takes ``amount`` out, even if the balance is less, and returns what that leaves."""
        now = self._clock()
        self._balance = self.filled(self._balance, now - self._at) - amount
        self._at = now
        return self._balance

    def filled(self, balance: float, seconds: float) -> float:
        """The balance that ``balance`` has become after ``seconds``."""
        return min(self.capacity, balance + seconds * self.rate)

    def wait(self, amount: float) -> float:
        """The seconds until the balance reaches ``amount``; 0 if it already has."""
        return max(0.0, (amount - self.balance) / self.rate)


class Quota:
    """The quota of one caller: a bucket of requests and one of tokens; None is no limit."""

    def __init__(self, requests: Bucket | None = None, tokens: Bucket | None = None) -> None:
        self.requests = requests
        self.tokens = tokens
        self._turn = asyncio.Lock()

    def admit(self) -> None:
        """Takes one request. Raises `ExhaustedError` that says when to come back."""
        wait, what = max(self._waits())
        if wait:
            raise ExhaustedError(f"the caller's quota of {what} is spent", retry_after=wait)
        if self.requests:
            self.requests.take(1.0)

    async def turn(self) -> None:
        """Takes one request as soon as it may: a stream is read more slowly, not refused."""
        if self is UNLIMITED:
            return
        async with self._turn:
            while wait := max(self._waits())[0]:
                await asyncio.sleep(wait)
            if self.requests:
                self.requests.take(1.0)

    async def pay(self, tokens: Sequence[int], patient: bool) -> int:
        """Takes the ``tokens`` of each of one or more inputs, and returns of how many. That is all
        of them, unless the caller is ``patient``: then this waits until nothing is owed, and takes
        no more once something is again."""
        if self.tokens is None:
            return len(tokens)
        if not patient:
            self.tokens.take(sum(tokens))
            return len(tokens)
        async with self._turn:
            while wait := self.tokens.wait(0.0):
                await asyncio.sleep(wait)
            balance = self.tokens.balance
            paid = sum(before <= balance for before in accumulate(tokens[:-1], initial=0))
            paid = max(1, paid)  # another process may have taken some since
            self.tokens.take(sum(tokens[:paid]))
            return paid

    def _waits(self) -> list[tuple[float, str]]:
        """For each bucket, the seconds until it lets one more request in, and what it limits."""
        waits = [(0.0, "")]
        if self.requests:
            waits.append((self.requests.wait(1.0), f"{self.requests.rate:g} requests a second"))
        if self.tokens:  # paid for when they have been counted; who owes some waits
            waits.append((self.tokens.wait(0.0), f"{self.tokens.rate:g} tokens a second"))
        return waits

    @property
    def is_full(self) -> bool:
        """Whether both buckets are full, so that a new quota would be the same."""
        buckets = [bucket for bucket in (self.requests, self.tokens) if bucket]
        return all(bucket.balance >= bucket.capacity for bucket in buckets)


UNLIMITED = Quota()
"""The quota of a caller without limits."""


@dataclass
class Quotas:
    """The quotas of all callers, at their own rates or else at these; a rate of 0 is no limit.

    A bucket holds ``burst_seconds`` of its rate. ``make_bucket`` makes one of a name, a rate and a
    capacity.
    """

    requests_per_second: float
    tokens_per_second: float
    burst_seconds: float
    make_bucket: Callable[[str, float, float], Bucket] = lambda _, rate, most: Bucket(rate, most)

    def __post_init__(self) -> None:
        self._quotas: dict[tuple[str, float, float], Quota] = {}

    def of(self, name: str, identity: Identity) -> Quota:
        """The quota of the caller who goes by ``name``."""
        requests, tokens = identity.requests_per_second, identity.tokens_per_second
        requests = self.requests_per_second if requests is None else requests
        tokens = self.tokens_per_second if tokens is None else tokens
        if not requests and not tokens:
            return UNLIMITED
        key = (name, requests, tokens)
        if key not in self._quotas:
            if len(self._quotas) >= MAX_QUOTAS:
                self._quotas = {k: quota for k, quota in self._quotas.items() if not quota.is_full}
            self._quotas[key] = Quota(
                self._bucket(f"requests {name}", requests), self._bucket(f"tokens {name}", tokens)
            )
        return self._quotas[key]

    def _bucket(self, name: str, rate: float) -> Bucket | None:
        if not rate:
            return None
        return self.make_bucket(f"{name} {rate}", rate, max(1.0, rate * self.burst_seconds))
