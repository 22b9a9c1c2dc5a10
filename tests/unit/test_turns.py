"""The order in which a worker runs batches, whoever sent them."""

import time
from collections import Counter
from dataclasses import dataclass, field

import pytest

from vlm2vec_service.scheduling.fair_queue import BULK_EVERY
from vlm2vec_service.worker import holders
from vlm2vec_service.worker.holders import Holders
from vlm2vec_service.worker.turns import Turns


@dataclass(eq=False)
class Batch:
    interactive: bool = False
    callers: dict[str, int] = field(default_factory=dict)
    name: str = ""


def taken(turns: Turns[Batch], count: int) -> list[Batch]:
    batches = []
    for _ in range(count):
        expected = turns.peek()
        batches.append(batch := turns.take())
        assert batch is expected
    return [batch for batch in batches if batch is not None]


def test_equals_run_in_the_order_of_arrival() -> None:
    turns: Turns[Batch] = Turns()
    batches = [Batch(callers={name: 10}) for name in "abc"]
    for batch in batches:
        turns.put(batch)
    assert len(turns) == 3
    assert taken(turns, 4) == batches
    assert turns.peek() is None


def test_interactive_batches_overtake_but_not_for_ever() -> None:
    turns: Turns[Batch] = Turns()
    seconds = {True: 0.1, False: 0.4}
    spent = {True: 0.0, False: 0.0}
    turns.put(Batch())
    for _ in range(1000):
        turns.put(Batch(interactive=True))
        (batch,) = taken(turns, 1)
        turns.ran(batch, seconds[batch.interactive])
        spent[batch.interactive] += seconds[batch.interactive]
        if not batch.interactive:
            turns.put(Batch())
    assert spent[False] / sum(spent.values()) == pytest.approx(1 / BULK_EVERY, rel=0.1)


def test_short_interactive_batches_all_run_before_a_long_one() -> None:
    turns: Turns[Batch] = Turns()
    turns.ran(Batch(), 0.2)
    bulk, *short = Batch(), *(Batch(interactive=True) for _ in range(50))
    for batch in (bulk, *short):
        turns.put(batch)
    for batch in short:
        assert taken(turns, 1) == [batch]
        turns.ran(batch, 0.001)


@pytest.mark.parametrize("interactive", [True, False])
def test_callers_get_equal_shares_through_however_many_front_ends(interactive: bool) -> None:
    """One front end sends what three callers want, another one what a fourth wants."""
    turns: Turns[Batch] = Turns()

    def send(name: str, callers: str) -> None:
        tokens = {caller: 120 // len(callers) for caller in callers}
        turns.put(Batch(interactive, tokens, name))

    for name, callers in (("first", "abc"), ("second", "d")) * 2:
        send(name, callers)
    served: Counter[str] = Counter()
    for _ in range(400):
        (batch,) = taken(turns, 1)
        served.update(batch.callers)
        send(batch.name, "abc" if batch.name == "first" else "d")
    assert max(served.values()) - min(served.values()) <= 240


def test_who_comes_late_gets_no_more_than_a_share() -> None:
    turns: Turns[Batch] = Turns()
    for _ in range(100):
        turns.put(Batch(callers={"early": 100}))
        taken(turns, 1)
    for _ in range(20):
        turns.put(Batch(callers={"early": 100}))
        turns.put(Batch(callers={"late": 100}))
    order = [*map(str, (next(iter(batch.callers)) for batch in taken(turns, 20)))]
    assert order.count("late") == 10


def test_what_is_discarded_does_not_run() -> None:
    turns: Turns[Batch] = Turns()
    first, second = Batch(), Batch()
    turns.put(first)
    turns.put(second)
    turns.discard(first)
    turns.discard(first)
    assert taken(turns, 2) == [second]


def test_an_adapter_stays_while_a_front_end_wants_it() -> None:
    held = Holders()
    held.hold("x", "one")
    held.hold("x", "two")
    assert held.held_by_others("x", "one")
    assert not held.held_by_others("x", "")
    assert not held.let_go("x", "one")
    assert not held.let_go("x", "one")
    assert held.let_go("x", "two")
    assert held.let_go("y", "one")


def test_a_front_end_that_is_gone_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    held = Holders()
    held.hold("mine", "")
    held.hold("both", "gone")
    held.hold("both", "alive")
    held.hold("gone's", "gone")
    assert held.lapsed() == []
    now += holders.LAPSED_SECONDS + 1
    held.heard("alive")
    assert held.lapsed() == ["gone's"]
    assert held.lapsed() == []
    assert held.let_go("both", "alive")
