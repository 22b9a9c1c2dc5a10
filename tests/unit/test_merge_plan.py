"""Which version is merged next: by its traffic, within the budget, without back and forth."""

import pytest

from vlm2vec_service.engine.merge_plan import ADVANTAGE, HALF_LIFE, TokenRates, next_copy

SIZES = {"a": 10, "b": 10, "c": 10, "large": 25}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_half_of_the_tokens_are_forgotten_every_half_life() -> None:
    clock = Clock()
    rates = TokenRates(clock)
    rates.add("a", 800)
    clock.now += HALF_LIFE
    assert rates.of("a") == pytest.approx(400)
    rates.add("a", 100)
    rates.add("b", 7)
    clock.now += 2 * HALF_LIFE
    assert rates.all() == pytest.approx({"a": 125, "b": 1.75})
    rates.forget("a")
    rates.forget("unknown")
    assert rates.of("a") == rates.of("unknown") == 0
    assert set(rates.all()) == {"b"}


@pytest.mark.parametrize(
    ("tokens", "held", "budget", "expected"),
    [
        # The busiest first, as long as there is room.
        ({"a": 50, "b": 70, "c": 60}, (), 30, ("b", [])),
        ({"a": 50, "b": 70, "c": 60}, ("b",), 30, ("c", [])),
        ({"a": 50, "b": 70, "c": 60}, ("b", "c"), 30, ("a", [])),
        ({"a": 50, "b": 70, "c": 60}, ("a", "b", "c"), 30, None),
        # Nobody at all, and nobody with traffic that is worth it.
        ({}, (), 30, None),
        ({"a": 19.9}, (), 30, None),
        ({"a": 20}, (), 30, ("a", [])),
        # Without room, the least used leaves, if the newcomer is clearly busier.
        ({"a": 50, "b": 70, "c": 100}, ("a", "b"), 20, ("c", ["a"])),
        ({"a": 50, "b": 70, "c": 99}, ("a", "b"), 20, None),
        ({"b": 70, "c": 21}, ("a", "b"), 20, ("c", ["a"])),
        # As many leave as it takes, and it must be busier than all of them together.
        ({"a": 5, "b": 10, "c": 90, "large": 60}, ("a", "b", "c"), 40, ("large", ["a", "b"])),
        ({"a": 15, "b": 16, "c": 90, "large": 60}, ("a", "b", "c"), 40, None),
        # What can never fit does not keep others out.
        ({"large": 900, "a": 30}, (), 20, ("a", [])),
        ({"large": 900, "a": 30}, ("b",), 20, ("a", [])),
        ({"a": 900}, (), 0, None),
        # Equals: the order of the names, so that it is the same every time.
        ({"b": 30, "a": 30}, (), 20, ("a", [])),
    ],
)  # fmt: skip
def test_next_copy(
    tokens: dict[str, float],
    held: tuple[str, ...],
    budget: int,
    expected: tuple[str, list[str]] | None,
) -> None:
    assert next_copy(tokens, SIZES, held, budget, least=20) == expected


def test_version_that_adds_nothing_gets_no_copy() -> None:
    assert next_copy({"empty": 900.0}, {"empty": 0}, (), 100, least=20) is None


def test_two_equally_busy_versions_do_not_take_turns() -> None:
    clock = Clock()
    rates = TokenRates(clock)
    held, changes = ["a"], 0
    rates.add("a", 1000)
    for turn in range(200):  # bursts of each in turn, 20 seconds apart
        rates.add("ab"[turn % 2], 1000)
        clock.now += 20
        if (plan := next_copy(rates.all(), SIZES, held, 10, least=20)) is not None:
            held, changes = [plan[0]], changes + 1
    assert changes == 0


def test_version_that_got_all_the_traffic_takes_over_within_two_half_lives() -> None:
    clock = Clock()
    rates = TokenRates(clock)
    for _ in range(100):
        clock.now += 10
        rates.add("old", 1000)
    sizes = {"old": 10, "new": 10}
    start = clock.now
    while next_copy(rates.all(), sizes, ["old"], 10, least=20) != ("new", ["old"]):
        clock.now += 10
        rates.add("new", 1000)
        assert clock.now < start + 2 * HALF_LIFE
    assert rates.of("new") >= ADVANTAGE * rates.of("old")
