"""Files that ``vlm2vec embed`` reads and writes: standard input, videos, JSON lines and Parquet."""

import json
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq

from tests.conftest import adapter_folder
from tests.e2e.cases import Golden, cosine
from tests.e2e.embed_command import Line, assert_golden_vectors, case_lines, json_lines, vlm2vec
from vlm2vec_service.preprocess.video import sample_video
from vlm2vec_service.settings import Limits


def write_video(path: Path) -> None:
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 112, 84, "yuv420p"
        for _ in range(9):
            blocks = rng.integers(0, 256, (3, 4, 3), np.uint8).repeat(28, 0).repeat(28, 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(blocks, format="rgb24")))
        container.mux(stream.encode(None))


def test_jsonl_from_standard_input_with_a_video_file(
    checkpoints: Path, tmp_path: Path, golden: Golden
) -> None:
    cases = case_lines("qwen2_vl", tmp_path)
    write_video(tmp_path / "clip.avi")
    sampled = sample_video((tmp_path / "clip.avi").read_bytes(), 4, Limits())
    for index, frame in enumerate(sampled.frames("viewed")):
        frame.save(tmp_path / f"{index}.png")
    lines: list[Line] = [
        {"id": "lora/image-two", "adapter": "lora", **cases["image-two"]},
        {"id": "base/text-unicode", **cases["text-unicode"]},
        {"id": "file", "text": "a", "video": "clip.avi"},
        {"id": "frames", "text": "a", "video": [f"{index}.png" for index in range(4)]},
    ]
    result = vlm2vec(
        "embed",
        *("--base", checkpoints / "qwen2_vl"),
        *("--adapter", f"lora={adapter_folder('qwen2_vl', 'lora')}"),
        *("--input", "-", "--output", "out.jsonl"),
        *("--dtype", "float32", "--video-frames", "4", "--threads", "1"),
        stdin=json_lines(lines),
        folder=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == "4 embedded, 0 failed: out.jsonl\n"
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["id"], row["adapter"]) for row in rows] == [
        ("lora/image-two", "lora"),
        ("base/text-unicode", None),
        ("file", None),
        ("frames", None),
    ]
    vectors = {row["id"]: np.asarray(row["vector"], np.float32) for row in rows}
    assert cosine(vectors.pop("file"), vectors.pop("frames")) > 0.999999
    assert_golden_vectors(vectors, golden, "qwen2_vl")


def test_parquet_of_a_base_without_adapters(
    checkpoints: Path, tmp_path: Path, golden: Golden
) -> None:
    cases = case_lines("qwen2_vl", tmp_path)
    lines = [{"id": f"base/{id}", **cases[id]} for id in ("video", "text", "image-tiny")]
    lines.append({"id": "long", "text": "a cat and a dog " * 3000})
    (tmp_path / "requests.jsonl").write_text(json_lines(lines))
    result = vlm2vec(
        "embed",
        *("--base", checkpoints / "qwen2_vl"),
        *("--input", tmp_path / "requests.jsonl"),
        *("--output", tmp_path / "out.parquet"),
        *("--truncate", "1000"),
        # The flag wins over the variable.
        *("--dtype", "float32"),
        environment={"VLM2VEC_EMBED_DTYPE": "float16"},
    )
    assert result.returncode == 0, result.stderr
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["id"] for row in rows] == [line["id"] for line in lines]
    assert [row["adapter"] for row in rows] == [None] * 4
    assert result.stderr.startswith("4 embedded (1 of them truncated), 0 failed: ")
    vectors = {row["id"]: np.asarray(row["vector"], np.float32) for row in rows}
    del vectors["long"]
    assert_golden_vectors(vectors, golden, "qwen2_vl")
