"""A short soak: no answer is wrong, lost or twice, whatever happens."""

from pathlib import Path

import pytest

from tests.soak.events import EVENTS
from tests.soak.hostile import HOSTILE
from tests.soak.malformed import kinds
from tests.soak.soak import soak

MINUTES = 1.5
SEED = 1


@pytest.mark.alone
@pytest.mark.timeout(1800)
def test_every_answer_is_right_whatever_happens(tmp_path: Path) -> None:
    report = soak(tmp_path, MINUTES, SEED)
    table = report.table()
    print(table)
    assert report.faults == dict.fromkeys(report.faults, 0), table
    assert {count.right > 0 for count in report.ledger.paths.values()} == {True}
    assert len(report.ledger.paths) == 5
    happened = {*EVENTS, *(f"hostile: {name}" for name in HOSTILE)}
    assert happened - set(report.ledger.events) == set(), table
    assert {kind.name for kind in kinds()} - set(report.ledger.malformed) == set(), table
