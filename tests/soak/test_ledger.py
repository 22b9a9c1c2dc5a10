"""What the ledger calls wrong, lost, twice and unexpected: a soak that finds nothing has looked."""

from typing import cast

import numpy as np
import pytest

from tests.e2e.cases import Vector
from tests.soak.causes import CANARY, RESTART
from tests.soak.expected import ExpectedVectors
from tests.soak.ledger import Ledger, Selector, contents_of
from tests.soak.samples import Sample
from tests.soak.timeline import Timeline

SAMPLE = Sample("sample", text="a")
GOOD, BAD = np.ones(2, np.float32), np.zeros(2, np.float32)
SPACES = {"1": "space-1", "2": "space-2"}


class OnlyOnes:
    """Expects vectors of ones."""

    def problem(self, version: str, sample: Sample, vector: Vector, coarse: bool) -> str:
        """Says so if there is anything else."""
        return "" if (vector == 1).all() else "not ones"


@pytest.fixture
def ledger() -> Ledger:
    timeline = Timeline()
    timeline.begin("champion", "1")
    return Ledger(cast(ExpectedVectors, OnlyOnes()), SPACES, timeline)


def faults(ledger: Ledger) -> dict[str, int]:
    return {kind: count for kind, count in ledger.faults.items() if count}


def test_right_answers_are_no_faults(ledger: Ledger) -> None:
    for target in (Selector(), Selector("alias", "champion"), Selector("version", "1"),
                   Selector("space", "space-1")):  # fmt: skip
        ledger.answered(ledger.ask("path", SAMPLE, target), "1", "space-1", GOOD)
    ledger.close()
    assert faults(ledger) == {}
    assert ledger.paths["path"].right == ledger.paths["path"].asked == 4


@pytest.mark.parametrize(
    ("target", "version", "space", "vector"),
    [
        (Selector(), "1", "space-1", BAD),
        (Selector(), "2", "space-2", GOOD),
        (Selector(), "1", "space-2", GOOD),
        (Selector(), "3", "space-3", GOOD),
        (Selector("alias", "champion"), "2", "space-2", GOOD),
        (Selector("version", "2"), "1", "space-1", GOOD),
        (Selector("space", "space-2"), "1", "space-1", GOOD),
    ],
)
def test_another_vector_version_or_space_is_wrong(
    ledger: Ledger, target: Selector, version: str, space: str, vector: Vector
) -> None:
    ledger.answered(ledger.ask("path", SAMPLE, target), version, space, vector)
    assert faults(ledger) == {"wrong": 1}
    assert ledger.paths["path"].right == 0


def test_no_answer_is_lost_and_two_are_twice(ledger: Ledger) -> None:
    ledger.ask("path", SAMPLE, Selector())
    twice = ledger.ask("path", SAMPLE, Selector())
    for _ in range(2):
        ledger.answered(twice, "1", "space-1", GOOD)
    ledger.close()
    assert faults(ledger) == {"lost": 1, "twice": 1}


def test_while_an_alias_moves_either_version_may_answer(ledger: Ledger) -> None:
    before = ledger.ask("path", SAMPLE, Selector())
    ledger.timeline.begin("champion", "2")
    for version in ("1", "2"):
        question = ledger.ask("path", SAMPLE, Selector())
        ledger.answered(question, version, SPACES[version], GOOD)
    ledger.timeline.settle("champion", "2")
    ledger.answered(before, "1", "space-1", GOOD)
    assert faults(ledger) == {}
    ledger.answered(ledger.ask("path", SAMPLE, Selector()), "1", "space-1", GOOD)
    assert faults(ledger) == {"wrong": 1}


def test_a_canary_answers_only_who_names_nothing(ledger: Ledger) -> None:
    ledger.timeline.begin(CANARY, "2")
    ledger.answered(ledger.ask("path", SAMPLE, Selector()), "2", "space-2", GOOD)
    assert faults(ledger) == {}
    named = ledger.ask("path", SAMPLE, Selector("alias", "champion"))
    ledger.answered(named, "2", "space-2", GOOD)
    assert faults(ledger) == {"wrong": 1}


def test_an_error_needs_a_cause_in_its_time(ledger: Ledger) -> None:
    def fail(code: str, message: str = "") -> dict[str, int]:
        ledger.failed(ledger.ask("path", SAMPLE, Selector()), code, message)
        return faults(ledger)

    assert fail("RESOURCE_EXHAUSTED", "the queue is full: 9 requests") == {}
    assert fail("UNAVAILABLE") == {"unexpected": 1}
    with ledger.timeline.during(RESTART):
        assert fail("UNAVAILABLE") == {"unexpected": 1}
        assert fail("INTERNAL") == {"unexpected": 2}
    ledger.refused("kind", ("INVALID_ARGUMENT",), "INVALID_ARGUMENT", "")
    assert faults(ledger) == {"unexpected": 2}
    ledger.refused("kind", ("INVALID_ARGUMENT",), "OK", "")
    assert faults(ledger) == {"unexpected": 3}
    assert ledger.malformed["kind"] == 2


def test_a_version_published_anew_answers_for_its_new_contents(ledger: Ledger) -> None:
    version = Selector("version", "1")
    ledger.timeline.begin(contents_of("1"), "2")
    for space in ("space-1", "space-2"):  # until all have heard of it
        ledger.answered(ledger.ask("path", SAMPLE, version), "1", space, GOOD)
    ledger.timeline.settle(contents_of("1"), "2")
    ledger.answered(ledger.ask("path", SAMPLE, version), "1", "space-2", GOOD)
    ledger.answered(ledger.ask("path", SAMPLE, Selector("space", "space-2")), "1", "space-2", GOOD)
    assert faults(ledger) == {}
    ledger.answered(ledger.ask("path", SAMPLE, version), "1", "space-1", GOOD)
    assert faults(ledger) == {"wrong": 1}
    ledger.answered(ledger.ask("path", SAMPLE, Selector("space", "space-1")), "1", "space-2", GOOD)
    assert faults(ledger) == {"wrong": 2}
