"""Re-embedding: every kind of row, by both engines, exactly once and in flat memory."""

import hashlib
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
from tests.client.reembedding import assert_complete, flags, settings, write_corpus, write_lines
from tests.client.server import Service
from tests.client.test_command import run as command
from tests.client.vectors import DIMENSION
from vlm2vec.reembed.corpus import read, survey
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
        {"id": 10, "audio": "a.png", "text": "heard"},
        {"id": 11, "audios": ["b.png", "data:audio/wav;base64,Qg=="]},
        {"id": 12, "video": {"frames": ["a.png", "b.png"], "fps": 2}},
        {"id": 13, "videos": ["b.png", ["a.png", "b.png"]]},
        {"id": 14, "parts": ["see", {"image": "a.png"}, {"text": "hear"}, {"audio": "b.png"}]},
    ]
    source = write_lines(tmp_path / "in.jsonl", ["", *rows, " \t"])
    run(settings(service, source, tmp_path / "out", window=1, streams=1))
    assert pq.read_table(tmp_path / "out").column("id").to_pylist() == [row["id"] for row in rows]
    images = {name: pb.Part(image=name) for name in (b"A", b"B")}
    audios = {name: pb.Part(audio=pb.Audio(file=name)) for name in (b"A", b"B")}
    frames = pb.Part(video=pb.Video(frames=pb.Frames(images=[b"A", b"B"])))
    timed = pb.Part(video=pb.Video(frames=pb.Frames(images=[b"A", b"B"], fps=2)))
    assert [request.input for request in service.stream_requests] == [
        pb.Input(instruction="own", parts=[pb.Part(text="words")]),
        pb.Input(instruction="Represent.", parts=[images[b"A"]]),
        pb.Input(
            instruction="Represent.", parts=[images[b"B"], images[b"A"], pb.Part(text="both")]
        ),
        pb.Input(instruction="Represent.", parts=[pb.Part(video=pb.Video(file=b"B"))]),
        pb.Input(prompt="raw", parts=[frames]),
        pb.Input(instruction="Represent.", parts=[pb.Part(text="")]),
        pb.Input(instruction="Represent.", parts=[audios[b"A"], pb.Part(text="heard")]),
        pb.Input(instruction="Represent.", parts=[audios[b"B"], audios[b"B"]]),
        pb.Input(instruction="Represent.", parts=[timed]),
        pb.Input(instruction="Represent.", parts=[pb.Part(video=pb.Video(file=b"B")), frames]),
        pb.Input(
            instruction="Represent.",
            parts=[pb.Part(text="see"), images[b"A"], pb.Part(text="hear"), audios[b"B"]],
        ),
    ]


def test_columns_of_parquet(tmp_path: Path, service: Service) -> None:
    table = pa.table(
        {
            "price": [1.0, 2.0],
            "id": pa.array([3, 4], pa.uint8()),
            "image": pa.array([b"A", b"B"], pa.binary()),
            "text": pa.array(["x", None]).dictionary_encode(),
            "audio": pa.array([None, b"C"], pa.binary()),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    given: dict[str, Any] = {"dimensions": 4, "window": 1, "streams": 1, "truncate": True}
    with pytest.raises(ValueError, match=r"unknown column price; .* give --ignore price"):
        run(settings(service, tmp_path / "in.parquet", tmp_path / "out", **given))
    given["ignore"] = ("price",)
    run(settings(service, tmp_path / "in.parquet", tmp_path / "out", **given))
    found = pq.read_table(tmp_path / "out")
    assert found.schema.field("vector").type == pa.list_(pa.float32(), 4)
    assert found.column("id").to_pylist() == [3, 4]
    assert [request.input.parts for request in service.stream_requests] == [
        [pb.Part(image=b"A"), pb.Part(text="x")],
        [pb.Part(image=b"B"), pb.Part(audio=pb.Audio(file=b"C"))],
    ]
    assert all(request.options.HasField("truncate") for request in service.stream_requests)


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
    assert "vlm2vec-client: error: retired\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert_complete(output, 300)
    assert {path: path.stat().st_mtime_ns for path in there} == there
