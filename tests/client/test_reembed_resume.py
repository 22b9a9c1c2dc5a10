"""Re-embedding that is killed, at any point: every row exactly once, and as if it had not been."""

import contextlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.reembedding import assert_complete, flags, ready_path, settings, write_corpus
from tests.client.server import Service
from vlm2vec.reembed.run import run

ROWS = 1500
KILLS = 10
PART_ROWS = 50


def start(service: Service, source: Path, output: Path, *more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "vlm2vec", *flags(service, source, output), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_kills(tmp_path: Path, service: Service) -> None:
    service.behaviour.shuffle, service.behaviour.hold = True, 4
    source, output = write_corpus(tmp_path / "in.jsonl", ROWS), tmp_path / "out.parquet"
    part = f"--part-rows={PART_ROWS}"
    order = random.Random(3)
    answered = last = 0

    def answer(id: str) -> None:
        nonlocal answered
        answered += 1
        if answered == last:
            process.kill()

    service.behaviour.item_error = answer
    for _ in range(KILLS):
        # Together fewer than there are rows, so that each kill finds the run under way.
        last = answered + order.randrange(1, ROWS // KILLS - 20)
        process = start(service, source, output, part)
        process.communicate(timeout=120)
        assert process.returncode == -9
        assert not ready_path(output).exists()
    last = 0
    for _ in range(3):
        # While it starts, looks at what is there, or does anything else.
        process = start(service, source, output, part)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(order.uniform(0.2, 0.9))
        process.kill()
        process.communicate()
    process = start(service, source, output, part)
    told, problems = process.communicate(timeout=120)
    assert (process.returncode, told) == (0, f"{ROWS} of {ROWS} rows are in space space-1\n")
    assert problems == ""
    assert_complete(output, ROWS)
    # A kill loses at most the two parts that were under way, and they have been asked in full.
    assert answered <= ROWS + (KILLS + 3) * 2 * PART_ROWS
    whole = tmp_path / "whole.parquet"
    run(settings(service, source, whole, part_rows=PART_ROWS, window=64))
    assert output.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.parts"))


class Killed(BaseException):
    """The process is gone."""


@contextlib.contextmanager
def killed_at(point: int, after: bool) -> Iterator[list[str]]:
    """Nothing reaches the disk any more from before, or ``after``, the ``point``-th change.

    Gives the changes that were made.
    """
    made: list[str] = []

    def guard(patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def change(*args: Any, **kwargs: Any) -> Any:
            if len(made) > point or (len(made) == point and not after):
                raise Killed
            made.append(name)
            result = real(*args, **kwargs)
            if len(made) > point:
                raise Killed
            return result

        patch.setattr(owner, name, change)

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (os, "replace"),
            (os, "fsync"),
            (Path, "unlink"),
            (Path, "mkdir"),
            (shutil, "rmtree"),
        ):
            guard(patch, owner, name)
        yield made


@pytest.mark.parametrize("name", ["out", "out.parquet"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_change_on_the_disk(
    tmp_path: Path, service: Service, name: str, after: bool
) -> None:
    source = write_corpus(tmp_path / "in.jsonl", 25)
    points = 0
    while True:
        output = tmp_path / str(points) / name
        output.parent.mkdir()
        given = settings(service, source, output, streams=1)
        with killed_at(points, after) as made:
            try:
                run(given)
            except Killed:
                ended = False
            else:
                ended = True
        if ended:
            break
        run(given)
        assert_complete(output, 25)
        beside = {name, ".lock", f"{name}.ready.json"}
        assert {path.name for path in output.parent.iterdir()} <= beside
        points += 1
    assert points == len(made) > 15
