"""Re-embedding where rows fail, versions go or parts are damaged: what is told, and what is done
again."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import vlm2vec
from tests.client.reembedding import (
    assert_complete,
    flags,
    ready_path,
    settings,
    write_corpus,
    write_lines,
)
from tests.client.server import Service
from tests.client.test_command import run as command
from vlm2vec.reembed.part_files import part_path
from vlm2vec.reembed.run import run
from vlm2vec.v1 import embedding_pb2 as pb

BAD_LINES = [
    ("{", None, "", "no JSON"),
    ("7", None, "", "not a JSON object"),
    ('{"text": "no id"}', None, "id", "expected a string"),
    ('{"id": 7, "text": "another type"}', 7, "id", "expected a string"),
    ('{"id": "a", "text": 3}', "a", "text", "expected a string"),
    ('{"id": "b", "text": "\\ud800"}', "b", "text", "surrogate"),
    ('{"id": "c", "image": "a\\u0000b"}', "c", "image", "no path"),
    ('{"id": "d", "images": "a.png"}', "d", "images", "expected a list, got str"),
    ('{"id": "e", "image": "gone.png"}', "e", "images[0]", "No such file"),
    ('{"id": "f", "image": "x", "images": ["x"]}', "f", "image", "either image or images"),
    ('{"id": "g", "text": "x", "prompt": "x"}', "g", "prompt", "a prompt is the whole text"),
    ('{"id": "h", "instruction": "x"}', "h", "text", "the row has none of text"),
    ('{"id": "i", "txet": "x"}', "i", "txet", "unknown key"),
    ('{"id": "j", "video": {"frames": [], "fsp": 2}}', "j", "video.fsp", "known are frames, fps"),
    ('{"id": "k", "audio": 3}', "k", "audio", "expected a path, got int"),
    ('{"id": "l", "parts": ["x", {"image": 3}]}', "l", "parts[1].image", "a path, got int"),
    ('{"id": "m", "parts": [{"text": "x", "image": "y"}]}', "m", "parts[0]", "expected a string"),
    ('{"id": "n", "parts": ["x"], "text": "y"}', "n", "parts", "give its texts and media as parts"),
]
"""Lines that are no rows: the id, the field and the problem that are reported."""


def test_bad_rows(tmp_path: Path, service: Service) -> None:
    rows = [{"id": f"row {i}", "text": f"text {i}"} for i in range(40)]
    lines: list[Any] = [*rows[:25], *(line for line, *_ in BAD_LINES), *rows[25:]]
    source, output = write_lines(tmp_path / "in.jsonl", lines), tmp_path / "out.parquet"
    codes = {"0": 3, "1": 13, "2": 4}

    def refuse(id: str) -> pb.Error | None:
        # Ids count within parts: with parts of 100 these are rows 0 to 2.
        code = codes.get(id)
        return pb.Error(code=code, message="bad", field="input.parts[0]") if code else None

    service.behaviour.item_error = refuse
    done = command(tmp_path, *flags(service, source, output), "--part-rows=100")
    assert done.returncode == 1
    assert done.stdout == "37 of 58 rows are in space space-1\n"
    errors = tmp_path / "out.parquet.errors.jsonl"
    assert done.stderr == f"21 rows failed: see {errors}\n"
    found = [json.loads(line) for line in errors.read_text().splitlines()]
    assert [(row["row"], row["id"]) for row in found] == [
        (0, "row 0"), (1, "row 1"), (2, "row 2"),
        *((25 + number, id) for number, (_, id, _, _) in enumerate(BAD_LINES)),
    ]  # fmt: skip
    assert [row["code"] for row in found[:4]] == [
        "INVALID_ARGUMENT", "INTERNAL", "DEADLINE_EXCEEDED", "INVALID_ARGUMENT",
    ]  # fmt: skip
    for row, (_, _, field, problem) in zip(found[3:], BAD_LINES, strict=True):
        assert row["field"] == field
        assert problem in row["error"]
    table = pq.read_table(output)
    assert table.column("id").to_pylist() == [f"row {number}" for number in range(3, 40)]
    assert json.loads(ready_path(output).read_text())["failed"] == 21

    # The same again, which is still incomplete; and after some of it was mended.
    assert command(tmp_path, *flags(service, source, output), "--part-rows=100").returncode == 1
    (tmp_path / "gone.png").write_bytes(b"here")
    service.behaviour.item_error = lambda id: None
    again = [*flags(service, source, output), "--part-rows=100", "--retry-failed"]
    done = command(tmp_path, *again)
    assert (done.returncode, done.stdout) == (1, "41 of 58 rows are in space space-1\n")
    assert len(errors.read_text().splitlines()) == 17
    assert pq.read_table(output).num_rows == 41


def test_retry_failed(tmp_path: Path, service: Service) -> None:
    source = write_corpus(tmp_path / "in.jsonl", 100)
    given = settings(service, source, tmp_path / "out", part_rows=10)
    service.behaviour.item_error = lambda id: pb.Error(code=3) if id == "3" else None
    assert run(given).failed == 10
    assert_complete(tmp_path / "out", 100, range(3, 100, 10))
    service.behaviour.item_error = lambda id: None
    given = settings(service, source, tmp_path / "out", part_rows=10, retry_failed=True)
    assert run(given).failed == 0
    assert_complete(tmp_path / "out", 100)
    assert not (tmp_path / "out" / "_errors.jsonl").exists()


def test_too_many_failed(tmp_path: Path, service: Service) -> None:
    source = write_corpus(tmp_path / "in.jsonl", 1000)
    service.behaviour.item_error = lambda id: pb.Error(code=3, message="bad")
    with pytest.raises(ValueError, match="more than --max-failed 25"):
        run(settings(service, source, tmp_path / "out", max_failed=25))
    errors = (tmp_path / "out" / "_errors.jsonl").read_text().splitlines()
    assert 25 < len(errors) < 1000
    assert not ready_path(tmp_path / "out").exists()
    service.behaviour.item_error = lambda id: None
    with pytest.raises(ValueError, match="more than --max-failed 25"):
        run(settings(service, source, tmp_path / "out", max_failed=25))
    run(settings(service, source, tmp_path / "out", max_failed=25, retry_failed=True))
    assert_complete(tmp_path / "out", 1000)


@pytest.mark.parametrize("code", [5, 7, 9])
def test_a_version_that_is_gone_ends_the_run(tmp_path: Path, service: Service, code: int) -> None:
    source = write_corpus(tmp_path / "in.jsonl", 100)
    answered = 0

    def error(id: str) -> pb.Error | None:
        nonlocal answered
        answered += 1
        return pb.Error(code=code, message="retired") if answered > 50 else None

    service.behaviour.item_error = error
    with pytest.raises(vlm2vec.VLM2VecError, match="retired"):
        run(settings(service, source, tmp_path / "out"))
    assert not ready_path(tmp_path / "out").exists()
    service.behaviour.item_error = lambda id: None
    run(settings(service, source, tmp_path / "out"))
    assert_complete(tmp_path / "out", 100)
    # At most the two parts under way were asked again.
    assert len(service.stream_requests) <= 100 + 2 * 10 + 2 * 8


def test_damaged_parts_are_embedded_again(
    tmp_path: Path, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = write_corpus(tmp_path / "in.jsonl", 100), tmp_path / "out"
    run(settings(service, source, output))
    run(settings(service, source, tmp_path / "other", instruction="Another."))
    parts = [part_path(output, index) for index in range(10)]
    content = bytearray(parts[1].read_bytes())
    content[200] ^= 1
    parts[1].write_bytes(content)
    os.truncate(parts[3], 300)
    parts[4].unlink()
    parts[5].write_bytes(part_path(tmp_path / "other", 5).read_bytes())
    parts[6].write_bytes(parts[7].read_bytes())
    (output / ".part-000002.parquet.0.tmp").write_bytes(b"half")
    service.behaviour.item_error = lambda id: pb.Error(code=9, message="retired")
    with pytest.raises(vlm2vec.FailedPrecondition):
        run(settings(service, source, output))
    # It is not complete any more, and must not be said to be.
    assert not ready_path(output).exists()
    assert "50 of 100 rows are done; the same command goes on" in (told := capsys.readouterr().err)
    assert [path.name for path in parts if path.name in told] == [
        f"part-00000{index}.parquet" for index in (1, 3, 5, 6)
    ]
    service.behaviour.item_error = lambda id: None
    del service.stream_requests[:]
    run(settings(service, source, output))
    assert_complete(output, 100)
    assert len(service.stream_requests) == 50
