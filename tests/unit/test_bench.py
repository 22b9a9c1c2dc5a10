"""The load generator: what it sends when, what it counts, and how that is shown."""

import asyncio
import itertools
import math
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest
from click.testing import CliRunner

from vlm2vec_cli.bench import load, report
from vlm2vec_cli.bench.command import read_inputs
from vlm2vec_cli.bench.load import Outcome, arrivals, closed, opened
from vlm2vec_cli.bench.ways import Target
from vlm2vec_cli.main import vlm2vec


class Clock:
    """A time that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += max(0.0, seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(load, "clock", made)
    monkeypatch.setattr(asyncio, "sleep", made.sleep)
    return made


def test_a_closed_loop_sends_the_next_when_the_last_is_answered(clock: Clock) -> None:
    async def send() -> str:
        await clock.sleep(0.5)
        return "" if clock.now < 3 else "UNAVAILABLE"

    outcome = asyncio.run(closed(send, 1, 4.0, inputs=3))
    assert outcome.latencies == [0.5] * 5
    assert outcome.errors == {"UNAVAILABLE": 3}
    assert (outcome.seconds, outcome.rate) == (4.0, 3.75)


def test_an_open_loop_keeps_to_the_clock_and_counts_from_when_a_request_was_due(
    clock: Clock,
) -> None:
    async def due() -> list[float]:
        return [at async for at in arrivals(100.0, 100.0)]

    times = asyncio.run(due())
    assert len(times) == pytest.approx(10_000, rel=0.05)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    # Poisson: gaps vary as much as they are long.
    assert sum(g * g for g in gaps) / len(gaps) == pytest.approx(2 * 0.01**2, rel=0.1)
    clock.now = 0.0
    sent = []

    async def stalls() -> str:
        sent.append(clock.now)
        clock.now += 1.0 if len(sent) == 1 else 0.0
        return ""

    outcome = asyncio.run(opened(stalls, 10.0, 20.0, inputs=2))
    assert outcome.offered == 10.0
    assert len(outcome.latencies) == len(sent) == pytest.approx(100, rel=0.3)
    assert outcome.rate == pytest.approx(2 * len(sent) / outcome.seconds)
    # Who had to wait behind the one that stalled is seen to have waited.
    assert sum(latency > 0.1 for latency in outcome.latencies) > 1


def test_percentiles() -> None:
    outcome = Outcome("x", latencies=[float(value) for value in range(100, 0, -1)])
    assert [outcome.percentile(share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 51, 100, 100]
    assert math.isnan(Outcome("none").percentile(0.5))
    assert Outcome("none").rate == 0.0


def test_the_table_and_the_plot_show_what_came_of_it() -> None:
    outcomes = [
        Outcome(f"open, {n}/s <", 1, n, [n / 1000 * k for k in range(1, 11)], Counter(), 10 / n)
        for n in (10.0, 40.0, 20.0)
    ]
    failed = Outcome("open, 99/s", 1, 99.0, [], Counter(RESOURCE_EXHAUSTED=7, UNAVAILABLE=9), 1.0)
    assert report.line(outcomes[0]).split("|")[1:] == [
        "     10.0 ", "    60.0 ", "   100.0 ", "   100.0 ", " -",
    ]  # fmt: skip
    assert report.line(failed).endswith("9 UNAVAILABLE, 7 RESOURCE_EXHAUSTED")
    row = report.row(failed)
    assert (row["p50"], row["answered"], row["offered"]) == (None, 0, 99.0)
    drawn = ElementTree.fromstring(report.plot([*outcomes, failed], "a < b & c"))
    lines = drawn.findall("{*}polyline")
    assert len(lines) == 3
    for one in lines:
        points = [tuple(map(float, p.split(","))) for p in one.attrib["points"].split()]
        assert len(points) == 3
        # From left to right, and more is slower: higher up.
        assert points == sorted(points)
        assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)
        assert all(0 <= x <= report.WIDTH and 0 <= y <= report.HEIGHT for x, y in points)
    ElementTree.fromstring(report.plot([failed], "nothing was answered"))


def test_inputs_are_made_up_or_read(tmp_path: Path) -> None:
    made = read_inputs(None, None, 5, "task")
    assert {len(str(one.text).split()) for one in made} == {5}
    assert {one.instruction for one in made} == {"task"}
    assert read_inputs(None, None, 5, None) == read_inputs(None, None, 5, None)
    (tmp_path / "texts").write_text("one\n\n two \n")
    assert [one.text for one in read_inputs(tmp_path / "texts", None, 5, None)] == ["one", " two "]
    (tmp_path / "a.PNG").write_bytes(b"a")
    (tmp_path / "b.jpg").write_bytes(b"b")
    found = read_inputs(None, tmp_path, 5, None)
    assert [one.images for one in found] == [[b"a"], [b"b"]]
    (tmp_path / "empty").mkdir()
    with pytest.raises(click.UsageError, match="there is nothing to send"):
        read_inputs(None, tmp_path / "empty", 5, None)


def test_batches_go_round() -> None:
    inputs = read_inputs(None, None, 3, None)[:3]
    batches = Target("a:1", inputs, batch=2).batches()
    sent = [item for _ in range(3) for item in next(batches)]
    assert sent == inputs * 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--at-once", "0"], "'0' is not a number above 0"),
        (["--at-once", "1,2.5"], "'2.5' is not a number above 0"),
        (["--rate", "10,nan"], "'nan' is not a number above 0"),
        (["--rate", "1e99"], "'1e99' is not a number above 0"),
        (["--server", "localhost"], "is not HOST:PORT"),
        (["--over", "stream", "--batch", "2"], "inputs of a stream travel"),
        (["--texts", __file__, "--pictures", "/"], "not both"),
        (["--over", "udp"], "'udp' is not one of"),
    ],
)
def test_wrong_flags(flags: list[str], said: str) -> None:
    result = CliRunner().invoke(vlm2vec, ["bench", "--server", "localhost:1", *flags])
    assert result.exit_code == 2
    assert said in result.output
