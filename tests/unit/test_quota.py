"""Token buckets, by a clock that the test sets."""

import asyncio
import time

import pytest

from vlm2vec_service.errors import ExhaustedError
from vlm2vec_service.frontend.auth.identity import ANYONE, Identity
from vlm2vec_service.frontend.auth.quota import MAX_QUOTAS, UNLIMITED, Bucket, Quota, Quotas


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_bucket_fills_to_its_capacity_at_its_rate(clock: Clock) -> None:
    bucket = Bucket(4.0, 8.0, clock)
    assert bucket.balance == 8.0
    bucket.take(8.0)
    assert bucket.wait(1.0) == 0.25
    clock.now += 0.5
    assert bucket.balance == 2.0
    assert bucket.wait(2.0) == 0.0
    clock.now += 99.0
    assert bucket.balance == 8.0


def test_debt_is_waited_off(clock: Clock) -> None:
    quota = Quota(tokens=Bucket(10.0, 10.0, clock))
    quota.admit()
    asyncio.run(quota.pay([30, 10], patient=False))
    with pytest.raises(ExhaustedError, match="10 tokens a second") as refused:
        quota.admit()
    assert refused.value.retry_after == 3.0
    clock.now += 3.0
    quota.admit()


def test_requests_are_refused_with_the_time_until_one_is_let_in(clock: Clock) -> None:
    quota = Quota(Bucket(2.0, 3.0, clock))
    for _ in range(3):
        quota.admit()
    for _ in range(2):  # being refused costs nothing
        with pytest.raises(ExhaustedError, match="2 requests a second") as refused:
            quota.admit()
        assert refused.value.retry_after == 0.5
    clock.now += 0.5
    quota.admit()


@pytest.mark.usefixtures("still_clock")
def test_inputs_that_come_together_owe_no_more_than_one_by_itself() -> None:
    async def check() -> None:
        bucket = Bucket(100.0, 20.0, lambda: time.monotonic())
        started = time.monotonic()
        quota, unpaid, parts = Quota(tokens=bucket), [10] * 30, []
        while unpaid:
            parts.append(await quota.pay(unpaid, patient=True))
            unpaid = unpaid[parts[-1] :]
        # The bucket held two, and a third begins where nothing is owed.
        assert parts == [3] + [1] * 27
        # The last begins when what is before it has been paid for, 20 of it by what there was.
        assert time.monotonic() - started == pytest.approx((290 - 20) / 100)
        assert bucket.balance == pytest.approx(-10)

    asyncio.run(check())


def test_streams_wait_in_turn() -> None:
    async def run() -> list[int]:
        quota = Quota(Bucket(50.0, 1.0), Bucket(1000.0, 1.0))
        order: list[int] = []

        async def one(index: int) -> None:
            await quota.turn()
            await quota.pay([10], patient=True)
            order.append(index)

        started = time.monotonic()
        await asyncio.gather(*map(one, range(10)))
        # The first is free, nine more at 50 a second: no sooner, whatever the machine does.
        assert time.monotonic() - started >= 9 / 50 - 0.001
        return order

    assert asyncio.run(run()) == list(range(10))


def test_own_rates_come_before_the_servers() -> None:
    quotas = Quotas(5.0, 0.0, burst_seconds=2.0)
    assert quotas.of("a", ANYONE) is quotas.of("a", ANYONE)
    assert quotas.of("a", ANYONE) is not quotas.of("b", ANYONE)
    own = quotas.of("c", Identity("c", frozenset(), requests_per_second=0.1, tokens_per_second=7.0))
    assert own.requests is not None
    assert own.tokens is not None
    assert (own.requests.rate, own.requests.capacity) == (0.1, 1.0)
    assert (own.tokens.rate, own.tokens.capacity) == (7.0, 14.0)
    free = Identity("d", frozenset(), requests_per_second=0.0)
    assert quotas.of("d", free) is UNLIMITED


def test_idle_callers_are_forgotten() -> None:
    quotas = Quotas(1.0, 0.0, burst_seconds=1.0)
    spent = quotas.of("spent", ANYONE)
    spent.admit()
    for index in range(MAX_QUOTAS + 5):
        quotas.of(f"caller {index}", ANYONE)
    assert len(quotas._quotas) < 100
    assert quotas.of("spent", ANYONE) is spent
