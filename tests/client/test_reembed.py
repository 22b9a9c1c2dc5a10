"""Re-embedding: what is written, and what is refused."""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
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
from tests.client.vectors import DIMENSION
from vlm2vec.reembed.corpus import read, survey
from vlm2vec.reembed.parts import part_path
from vlm2vec.reembed.run import run
from vlm2vec.v1 import embedding_pb2 as pb


@pytest.mark.parametrize("output", ["out", "out.parquet"])
@pytest.mark.parametrize("source", ["in.jsonl", "in.parquet"])
def test_every_row_once(tmp_path: Path, service: Service, source: str, output: str) -> None:
    service.behaviour.shuffle, service.behaviour.hold = True, 8
    path = write_corpus(tmp_path / source, 105)
    result = run(settings(service, path, tmp_path / output))
    assert (result.rows, result.failed, result.space) == (105, 0, "space-1")
    ready = assert_complete(tmp_path / output, 105)
    assert ready["input_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert ready["dimension"] == DIMENSION
    asked = {request.options.SerializeToString() for request in service.stream_requests}
    assert len(service.stream_requests) == 105
    # The alias is asked once; the rows are asked of the space that it was.
    assert asked == {
        pb.CallOptions(
            model=pb.ModelRef(name="made-up", space="space-1"),
            output=pb.OutputOptions(dtype=pb.DTYPE_FLOAT32),
            priority=pb.PRIORITY_BULK,
        ).SerializeToString()
    }
    assert service.calls[0][0].options.model == pb.ModelRef(alias="canary")
    beside = {"in.jsonl", "in.parquet", "out", "out.parquet", "out.parquet.ready.json"}
    assert set(os.listdir(tmp_path)) <= beside


def test_command(tmp_path: Path, service: Service) -> None:
    source, output = write_corpus(tmp_path / "in.jsonl", 30), tmp_path / "out"
    done = command(tmp_path, *flags(service, source, output), "--progress", "--part-rows=7")
    assert (done.returncode, done.stdout) == (0, "30 of 30 rows are in space space-1\n")
    assert "30/30" in done.stderr
    assert_complete(output, 30)
    assert len(list(output.glob("part-*.parquet"))) == 5
    # As a reader of a folder of files reads it, on its own.
    assert pq.read_table(output).num_rows == 30
    done = command(tmp_path, "reembed", "--help")
    assert "VLM2VEC_FROM_SPACE" in done.stdout


def test_again_does_nothing(tmp_path: Path, service: Service) -> None:
    source = write_corpus(tmp_path / "in.jsonl", 30)
    for name in ("out", "out.parquet"):
        given = settings(service, source, tmp_path / name)
        run(given)
        asked = len(service.stream_requests)
        run(given)
        assert len(service.stream_requests) == asked
        assert_complete(tmp_path / name, 30)


def test_kinds_of_rows(tmp_path: Path, service: Service) -> None:
    (tmp_path / "a.png").write_bytes(b"A")
    (tmp_path / "b.png").write_bytes(b"B")
    rows: list[dict[str, Any]] = [
        {"id": 5, "text": "words", "instruction": "own"},
        {"id": -6, "image": "a.png", "text": None},
        {"id": 7, "images": ["b.png", str(tmp_path / "a.png")], "text": "both"},
        {"id": 8, "video": "b.png"},
        {"id": 2**62, "prompt": "raw", "video": ["a.png", "b.png"]},
        {"id": 9, "text": ""},
    ]
    source = write_lines(tmp_path / "in.jsonl", ["", *rows, " \t"])
    run(settings(service, source, tmp_path / "out", window=1, streams=1))
    assert pq.read_table(tmp_path / "out").column("id").to_pylist() == [row["id"] for row in rows]
    images = {name: pb.Part(image=name) for name in (b"A", b"B")}
    frames = pb.Part(video=pb.Video(frames=pb.Frames(images=[b"A", b"B"])))
    assert [request.input for request in service.stream_requests] == [
        pb.Input(instruction="own", parts=[pb.Part(text="words")]),
        pb.Input(instruction="Represent.", parts=[images[b"A"]]),
        pb.Input(
            instruction="Represent.", parts=[images[b"B"], images[b"A"], pb.Part(text="both")]
        ),
        pb.Input(instruction="Represent.", parts=[pb.Part(video=pb.Video(file=b"B"))]),
        pb.Input(prompt="raw", parts=[frames]),
        pb.Input(instruction="Represent.", parts=[pb.Part(text="")]),
    ]


def test_columns_of_parquet(tmp_path: Path, service: Service) -> None:
    table = pa.table(
        {
            "price": [1.0, 2.0],
            "id": pa.array([3, 4], pa.uint8()),
            "image": pa.array([b"A", b"B"], pa.binary()),
            "text": pa.array(["x", None]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    given: dict[str, Any] = {"dimensions": 4, "window": 1, "streams": 1}
    with pytest.raises(ValueError, match=r"unknown column price; .* give --ignore price"):
        run(settings(service, tmp_path / "in.parquet", tmp_path / "out", **given))
    given["ignore"] = ("price",)
    run(settings(service, tmp_path / "in.parquet", tmp_path / "out", **given))
    found = pq.read_table(tmp_path / "out")
    assert found.schema.field("vector").type == pa.list_(pa.float32(), 4)
    assert found.column("id").to_pylist() == [3, 4]
    assert [request.input.parts for request in service.stream_requests] == [
        [pb.Part(image=b"A"), pb.Part(text="x")],
        [pb.Part(image=b"B")],
    ]


BAD_LINES = [
    ("{", None, "", "no JSON"),
    ("7", None, "", "not a JSON object"),
    ('{"text": "no id"}', None, "id", "expected a string"),
    ('{"id": 7, "text": "another type"}', 7, "id", "expected a string"),
    ('{"id": "a", "text": 3}', "a", "text", "expected a string"),
    ('{"id": "b", "text": "\\ud800"}', "b", "text", "surrogate"),
    ('{"id": "c", "image": "a\\u0000b"}', "c", "image[0]", "no path"),
    ('{"id": "d", "images": "a.png"}', "d", "images", "expected a list of paths, got str"),
    ('{"id": "e", "image": "gone.png"}', "e", "images[0]", "No such file"),
    ('{"id": "f", "image": "x", "images": ["x"]}', "f", "image", "either image or images"),
    ('{"id": "g", "text": "x", "prompt": "x"}', "g", "prompt", "a prompt is the whole text"),
    ('{"id": "h", "instruction": "x"}', "h", "text", "the row has none of text"),
    ('{"id": "i", "txet": "x"}', "i", "txet", "unknown key"),
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
    assert done.stdout == "37 of 53 rows are in space space-1\n"
    errors = tmp_path / "out.parquet.errors.jsonl"
    assert done.stderr == f"16 rows failed: see {errors}\n"
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
    assert json.loads(ready_path(output).read_text())["failed"] == 16

    # The same again, which is still incomplete; and after some of it was mended.
    assert command(tmp_path, *flags(service, source, output), "--part-rows=100").returncode == 1
    (tmp_path / "gone.png").write_bytes(b"here")
    service.behaviour.item_error = lambda id: None
    again = [*flags(service, source, output), "--part-rows=100", "--retry-failed"]
    done = command(tmp_path, *again)
    assert (done.returncode, done.stdout) == (1, "41 of 53 rows are in space space-1\n")
    assert len(errors.read_text().splitlines()) == 12
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


def test_space_switch(tmp_path: Path, service: Service) -> None:
    source, output = write_corpus(tmp_path / "in.jsonl", 200), tmp_path / "out"
    service.behaviour.switch_after = 100
    with pytest.raises(vlm2vec.SpaceChanged, match=r"'space-1'.*'space-2'"):
        run(settings(service, source, output))
    assert not ready_path(output).exists()
    assert 0 < pq.read_table(output).num_rows <= 100
    # The alias means another space now.
    with pytest.raises(
        ValueError, match="space 'space-1', which is now 'space-2': give --to space"
    ):
        run(settings(service, source, output))
    service.behaviour.switch_after = None
    run(settings(service, source, output, to="space:space-1"))
    assert_complete(output, 200)
    assert service.calls[-1][0].options.model == pb.ModelRef(space="space-1")


def test_alias_that_moved_is_told(
    tmp_path: Path, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_corpus(tmp_path / "in.jsonl", 20)
    # After the rows and the answer that said which space they are to be of.
    service.behaviour.switch_after = 21
    run(settings(service, source, tmp_path / "out"))
    assert "alias:canary is space 'space-2' now; all vectors are of 'space-1'" in (
        capsys.readouterr().err
    )
    assert_complete(tmp_path / "out", 20)


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


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"instruction": "other"}, "instruction 'Represent.', which is now 'other'"),
        ({"from_space": "space-00"}, "from_space 'space-0'"),
        ({"part_rows": 11}, "part_rows 10, which is now 11: give the same as then"),
        ({"dimensions": 3}, "dimension 12, which is now 3"),
    ],
)
@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_another_job_is_refused(
    tmp_path: Path, service: Service, name: str, changes: dict[str, Any], problem: str
) -> None:
    source, output = write_corpus(tmp_path / "in.jsonl", 20), tmp_path / name
    run(settings(service, source, output))
    with pytest.raises(ValueError, match=problem):
        run(settings(service, source, output, **changes))
    assert_complete(output, 20)


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_another_input_is_refused(tmp_path: Path, service: Service, name: str) -> None:
    source, output = write_corpus(tmp_path / "in.jsonl", 20), tmp_path / name
    run(settings(service, source, output))
    source.write_text(source.read_text().replace("text 7", "text 8"))
    with pytest.raises(ValueError, match=r"input_sha256 .*: give the corpus as it was then"):
        run(settings(service, source, output))


def test_input_that_changes_meanwhile(tmp_path: Path, service: Service) -> None:
    source = write_corpus(tmp_path / "in.jsonl", 100)

    def error(id: str) -> None:
        with source.open("a") as file:
            file.write("\n")

    service.behaviour.item_error = error
    with pytest.raises(ValueError, match="was changed while it was read"):
        run(settings(service, source, tmp_path / "out"))
    assert not ready_path(tmp_path / "out").exists()


def test_corpus_in_the_target_space_is_refused(tmp_path: Path, service: Service) -> None:
    source = write_corpus(tmp_path / "in.parquet", 20)
    with pytest.raises(ValueError, match="in space 'space-1' already, which --to alias:canary is"):
        run(settings(service, source, tmp_path / "out", from_space="space-1"))
    for space, problem in (("space-1", "already"), ("space-x", "'space-x', not 'space-0'")):
        table = pq.read_table(source).replace_schema_metadata({"vlm2vec.space": space})
        pq.write_table(table, source)
        with pytest.raises(ValueError, match=problem):
            run(settings(service, source, tmp_path / "out"))
    assert os.listdir(tmp_path) == ["in.parquet"]
    run(settings(service, source, tmp_path / "out", from_space="space-x"))


def test_one_writer_at_a_time(tmp_path: Path, service: Service) -> None:
    source, output = write_corpus(tmp_path / "in.jsonl", 20), tmp_path / "out"
    run(settings(service, source, output))
    with (output / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process is writing here"):
            run(settings(service, source, output))
    run(settings(service, source, output))


def test_other_files_are_left_alone(tmp_path: Path, service: Service) -> None:
    source = write_corpus(tmp_path / "in.jsonl", 20)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-000000.parquet").write_text("mine")
    (tmp_path / "out.parquet").write_text("mine")
    with pytest.raises(ValueError, match="has other files"):
        run(settings(service, source, tmp_path / "out"))
    with pytest.raises(ValueError, match=r"out\.parquet exists: give another"):
        run(settings(service, source, tmp_path / "out.parquet"))
    assert (tmp_path / "out" / "part-000000.parquet").read_text() == "mine"
    assert (tmp_path / "out.parquet").read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"--to": "canary"}, "--to is 'canary', not alias:NAME"),
        ({"--to": "alias:"}, "--to is 'alias:'"),
        ({"--window": "0"}, "--window is 0, not at least 1"),
        ({"--engine": "spark"}, "'spark' is not one of local, ray"),
        ({"--input": "in.csv"}, "a corpus is a .parquet or a .jsonl file"),
        ({"--input": "gone.jsonl"}, "gone.jsonl"),
        ({"--input": "empty.jsonl"}, "empty.jsonl has no rows"),
        ({"--input": "typo.jsonl"}, "unknown column txet"),
        ({"--input": "nameless.jsonl"}, "there is no column id"),
        ({"--input": "text.parquet"}, "vlm2vec: error: "),
        ({"--output": "no/out"}, "the folder no does not exist"),
        ({"--output": "folder.parquet"}, "is a folder"),
    ],
)
def test_usage_errors(
    tmp_path: Path, service: Service, changes: dict[str, str], problem: str
) -> None:
    (tmp_path / "in.csv").write_text("id\n1\n")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "typo.jsonl").write_text('{"id": 1, "txet": "a"}\n')
    (tmp_path / "nameless.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "text.parquet").write_text("no parquet")
    (tmp_path / "folder.parquet").mkdir()
    before = sorted(os.listdir(tmp_path))
    given = flags(service, Path("typo.jsonl"), Path("out"))
    done = command(tmp_path, *given, *(word for pair in changes.items() for word in pair))
    assert done.returncode == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(os.listdir(tmp_path)) == before


def test_the_key_is_not_shown(service: Service, tmp_path: Path) -> None:
    given = settings(service, tmp_path, tmp_path, connection={"api_key": "secret"})
    assert "secret" not in repr(given)


@pytest.mark.parametrize(("package", "extra"), [("pyarrow", "reembed"), ("ray", "ray")])
def test_missing_packages(tmp_path: Path, service: Service, package: str, extra: str) -> None:
    source = write_corpus(tmp_path / "in.jsonl", 20)
    code = f"""
import sys
sys.modules[{package!r}] = None
from vlm2vec.command.main import main
sys.exit(main({[*flags(service, source, tmp_path / "out"), "--engine=ray"]!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"pip install 'vlm2vec-client[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_large_row_group_is_not_read_whole(tmp_path: Path) -> None:
    texts = [os.urandom(2000).hex() for _ in range(12_000)]
    table = pa.table({"id": [str(number) for number in range(len(texts))], "text": texts})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=len(texts), compression="none")
    del table
    before = pa.total_allocated_bytes()
    corpus = survey(tmp_path / "in.parquet", 5000, ())
    most = 0
    for part in corpus.parts:
        for number, row in enumerate(read(corpus.path, part), part.first):
            assert isinstance(row, dict)
            assert row["text"] == texts[number]
            most = max(most, pa.total_allocated_bytes() - before)
    assert most < 16 << 20 < os.path.getsize(corpus.path)


def test_memory_is_flat(tmp_path: Path, service: Service) -> None:
    most = []
    for count in (1000, 5_000):
        source = write_lines(
            tmp_path / f"{count}.jsonl",
            ({"id": f"row {number}", "text": f"{number} " * 4000} for number in range(count)),
        )
        arguments = [*flags(service, source, tmp_path / str(count)), "--part-rows=500"]
        process = subprocess.Popen(
            [sys.executable, "-m", "vlm2vec", *arguments], stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        assert status == 0
        most.append(usage.ru_maxrss << 10)
    # The texts are eighty million bytes more.
    assert os.path.getsize(source) > 90_000_000
    assert most[1] < most[0] + (30 << 20)


def test_ray(tmp_path: Path, service: Service) -> None:
    source, output = write_corpus(tmp_path / "in.jsonl", 300), tmp_path / "out"
    answered = 0

    def error(id: str) -> pb.Error | None:
        nonlocal answered
        answered += 1
        return pb.Error(code=9, message="retired") if answered in (100, 160) else None

    service.behaviour.item_error = error
    # Some by the local engine, which stops; the rest by Ray's, which stops first, too.
    with pytest.raises(vlm2vec.FailedPrecondition):
        run(settings(service, source, output, part_rows=30))
    there = {path: path.stat().st_mtime_ns for path in output.glob("part-*")}
    assert 0 < len(there) < 5
    again = [*flags(service, source, output), "--engine=ray", "--part-rows=30"]
    code = f"""
from vlm2vec.command.main import main
print(main({again!r}))
print(main({again!r}))
"""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        # Where Ray keeps sockets and keys; a longer path would not do.
        variables = {"HOME": folder, "RAY_TMPDIR": folder}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    assert done.stdout.splitlines() == ["2", "300 of 300 rows are in space space-1", "0"], (
        done.stderr
    )
    assert "vlm2vec: error: retired\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert_complete(output, 300)
    assert {path: path.stat().st_mtime_ns for path in there} == there
