"""``vlm2vec embed`` as users run it: the installed command, real files, golden vectors."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from tests.conftest import CASES, adapter_folder, case_request
from vlm2vec_service.preprocess.video import sample_video
from vlm2vec_service.settings import EngineSettings, Limits, VideoSettings

COMMAND = Path(sys.executable).with_name("vlm2vec")
ADAPTERS = ("base", "lora", "dora")

Line = dict[str, Any]
Vector = npt.NDArray[np.float32]
Golden = Mapping[str, Vector]


def vlm2vec(
    *arguments: str | Path,
    environment: Mapping[str, str | Path] | None = None,
    stdin: str = "",
    folder: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs the command. Its environment variables are ``environment`` and nobody else's."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("VLM2VEC")}
    variables.update({key: str(value) for key, value in (environment or {}).items()})
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        env=variables,
        input=stdin,
        cwd=folder,
    )


def case_lines(architecture: str, folder: Path) -> dict[str, Line]:
    """The parity cases by id, as lines without id and adapter; their pictures go to ``folder``."""
    lines = {}
    for case in CASES[architecture]:
        request = case_request(case)
        line: Line = {"prompt": case["text"]}
        for key, pictures in (("images", request.images), ("video", request.video)):
            names = [f"{case['id']}-{key}-{index}.png" for index in range(len(pictures))]
            for name, picture in zip(names, pictures, strict=True):
                picture.save(folder / name)
            if names:
                line[key] = names
        lines[case["id"]] = line
    return lines


def json_lines(lines: Sequence[Line | str]) -> str:
    return "".join(
        (line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)) + "\n"
        for line in lines
    )


def on_every_adapter(cases: Mapping[str, Line]) -> list[Line]:
    """Each case with each adapter, under the key that it has in the golden file."""
    return [
        {"id": f"{adapter}/{id}", **({} if adapter == "base" else {"adapter": adapter}), **line}
        for id, line in cases.items()
        for adapter in ADAPTERS
    ]


def cosine(a: Vector, b: Vector) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def assert_golden(vectors: Mapping[str, Vector], golden: Golden, architecture: str) -> None:
    for id, vector in vectors.items():
        assert vector.dtype == np.float32
        assert cosine(vector, golden[f"{architecture}/{id}"]) > 0.9999, id
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


@dataclass(frozen=True)
class Run:
    """What a run of the command left."""

    result: subprocess.CompletedProcess[str]
    vectors: dict[str, Vector]
    cases: dict[str, Line]


# Lines that cannot be embedded, and what is said of each behind its number.
BAD_LINES: list[tuple[Line | str, str]] = [
    ("{'id': 1}", "line: no JSON: "),
    ({"id": "bad-key", "text": "a", "txet": "b"}, "txet: unknown key; known are "),
    (
        {"id": "bad-adapter", "adapter": "v3", "text": "a"},
        r"\(bad-adapter\): adapter: 'v3' is none of --adapter: lora, dora",
    ),
    ({"id": "bad-image", "text": "a", "images": ["missing.png"]}, r"images\[0\]: .*No such file"),
    (
        {"id": "bad-prompt", "prompt": "<|image_pad|> a"},
        r"\(bad-prompt\): images: 0 given, but the prompt has 1",
    ),
    ({"id": "bad-empty"}, r"\(bad-empty\): text: the input is empty"),
    ({"id": "base/text", "text": "a"}, r"\(base/text\): id: line 1 has the same"),
]


@pytest.fixture(scope="module")
def qwen2_vl_run(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Every case on every adapter, bad and unusual lines, by flags, to .npz."""
    folder = tmp_path_factory.mktemp("qwen2_vl")
    cases = case_lines("qwen2_vl", folder)
    picture = (folder / cases["image"]["images"][0]).read_bytes()
    lines: list[Line | str] = [
        *on_every_adapter(cases),
        "",
        *(line for line, _ in BAD_LINES),
        {
            "id": "data-uri",
            "prompt": cases["image"]["prompt"],
            "images": [f"data:image/png;base64,{base64.b64encode(picture).decode()}"],
        },
        {
            "id": "instruction-and-text",
            "adapter": "lora",
            "instruction": "Represent the given image with the following question:",
            "text": "What is in the image\n",
            "images": cases["image-question"]["images"],
        },
        {"id": 7, "text": CASES["qwen2_vl"][0]["text"], "adapter": None},
    ]
    (folder / "requests.jsonl").write_text(json_lines(lines))
    result = vlm2vec(
        "embed",
        *("--base", checkpoints / "qwen2_vl"),
        *("--adapter", f"lora={adapter_folder('qwen2_vl', 'lora')}"),
        *("--adapter", f"dora={adapter_folder('qwen2_vl', 'dora')}"),
        *("--input", folder / "requests.jsonl"),
        *("--output", folder / "out.npz"),
        *("--dtype", "float32"),
    )
    with np.load(folder / "out.npz") as archive:
        return Run(result, dict(archive), cases)


@pytest.fixture(scope="module")
def phi3_v_run(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Every case on every adapter and an adapter with its own template, by environment
    variables alone, to .npz."""
    folder = tmp_path_factory.mktemp("phi3_v")
    cases = case_lines("phi3_v", folder)
    shutil.copytree(adapter_folder("phi3_v", "lora"), folder / "templated")
    (folder / "templated" / "embedding.json").write_text(
        '{"backbone": "phi3_v", "prompt": {"media_separator": "\\n", "suffix": "\\n"}}'
    )
    lines = [
        *on_every_adapter(cases),
        {
            "id": "templated",
            "adapter": "templated",
            "instruction": "Represent the given image with the following question:",
            "text": "What is in the image",
            "images": cases["image-newline"]["images"],
        },
    ]
    (folder / "requests.jsonl").write_text(json_lines(lines))
    adapters = {name: adapter_folder("phi3_v", name) for name in ("lora", "dora")}
    adapters["templated"] = folder / "templated"
    result = vlm2vec(
        "embed",
        environment={
            "VLM2VEC_EMBED_BASE": checkpoints / "phi3_v",
            "VLM2VEC_EMBED_ADAPTER": " ".join(f"{name}={path}" for name, path in adapters.items()),
            "VLM2VEC_EMBED_INPUT": folder / "requests.jsonl",
            "VLM2VEC_EMBED_OUTPUT": folder / "out.npz",
            "VLM2VEC_EMBED_DTYPE": "float32",
            "VLM2VEC_EMBED_TOKEN_BUDGET": "3000",
        },
    )
    with np.load(folder / "out.npz") as archive:
        return Run(result, dict(archive), cases)


def test_qwen2_vl_vectors_are_the_golden_ones(qwen2_vl_run: Run, golden: Golden) -> None:
    expected = {f"{adapter}/{id}" for adapter in ADAPTERS for id in qwen2_vl_run.cases}
    assert set(qwen2_vl_run.vectors) == {*expected, "data-uri", "instruction-and-text", "7"}
    vectors = {id: vector for id, vector in qwen2_vl_run.vectors.items() if id in expected}
    assert_golden(vectors, golden, "qwen2_vl")


def test_phi3_v_vectors_are_the_golden_ones(phi3_v_run: Run, golden: Golden) -> None:
    assert phi3_v_run.result.returncode == 0, phi3_v_run.result.stderr
    expected = {f"{adapter}/{id}" for adapter in ADAPTERS for id in phi3_v_run.cases}
    assert set(phi3_v_run.vectors) == {*expected, "templated"}
    vectors = {id: vector for id, vector in phi3_v_run.vectors.items() if id in expected}
    assert_golden(vectors, golden, "phi3_v")


def test_bad_lines_are_reported_by_number_and_the_others_embedded(qwen2_vl_run: Run) -> None:
    result = qwen2_vl_run.result
    assert result.returncode == 1
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    *reports, summary = result.stderr.splitlines()
    # The blank line counts, but is no failure.
    first = len(ADAPTERS) * len(qwen2_vl_run.cases) + 2
    assert len(reports) == len(BAD_LINES)
    for number, (report, (_, problem)) in enumerate(zip(reports, BAD_LINES, strict=True), first):
        assert re.match(rf"line {number}\b.*{problem}", report), report
    assert re.fullmatch(r"33 embedded, 7 failed: .*/out\.npz", summary)


def test_data_uri_is_as_good_as_a_path(qwen2_vl_run: Run) -> None:
    vectors = qwen2_vl_run.vectors
    assert cosine(vectors["data-uri"], vectors["base/image"]) > 0.999999


def test_instruction_and_text_are_joined_to_the_prompt(
    qwen2_vl_run: Run, phi3_v_run: Run, golden: Golden
) -> None:
    joined = qwen2_vl_run.vectors["instruction-and-text"]
    assert cosine(joined, golden["qwen2_vl/lora/image-question"]) > 0.9999
    assert cosine(qwen2_vl_run.vectors["7"], golden["qwen2_vl/base/text"]) > 0.9999
    # This adapter brings the template that the case was written by.
    assert cosine(phi3_v_run.vectors["templated"], golden["phi3_v/lora/image-newline"]) > 0.9999


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
    for index, frame in enumerate(sampled):
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
    assert_golden(vectors, golden, "qwen2_vl")


def test_parquet_of_a_base_without_adapters(
    checkpoints: Path, tmp_path: Path, golden: Golden
) -> None:
    cases = case_lines("qwen2_vl", tmp_path)
    lines = [{"id": f"base/{id}", **cases[id]} for id in ("video", "text", "image-tiny")]
    (tmp_path / "requests.jsonl").write_text(json_lines(lines))
    result = vlm2vec(
        "embed",
        *("--base", checkpoints / "qwen2_vl"),
        *("--input", tmp_path / "requests.jsonl"),
        *("--output", tmp_path / "out.parquet"),
        # The flag wins over the variable.
        *("--dtype", "float32"),
        environment={"VLM2VEC_EMBED_DTYPE": "float16"},
    )
    assert result.returncode == 0, result.stderr
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["id"] for row in rows] == [line["id"] for line in lines]
    assert [row["adapter"] for row in rows] == [None] * 3
    vectors = {row["id"]: np.asarray(row["vector"], np.float32) for row in rows}
    assert_golden(vectors, golden, "qwen2_vl")


def refuse_missing_weights(folder: Path) -> list[str]:
    (folder / "base" / "model.safetensors").unlink()
    return []


def refuse_model_type(folder: Path) -> list[str]:
    path = folder / "base" / "config.json"
    path.write_text(path.read_text().replace('"model_type": "qwen2_vl"', '"model_type": "gpt2"', 1))
    return []


def refuse_adapter_of_another_base(folder: Path) -> list[str]:
    return ["--adapter", f"v2={adapter_folder('phi3_v', 'lora')}"]


def refuse_adapter_without_name(folder: Path) -> list[str]:
    return ["--adapter", str(adapter_folder("qwen2_vl", "lora"))]


def refuse_adapter_name_given_twice(folder: Path) -> list[str]:
    return [f"--adapter=v2={adapter_folder('qwen2_vl', name)}" for name in ("lora", "dora")]


@pytest.mark.parametrize(
    ("prepare", "problem"),
    [
        (refuse_missing_weights, r"Error: .*/base: neither model\.safetensors\.index\.json nor "),
        (refuse_model_type, r"Error: .*/base/config\.json: model_type 'gpt2' is not one of "),
        (refuse_adapter_of_another_base, r"Error: .*adapters/phi3_v/lora: "),
        (refuse_adapter_without_name, "Error: Invalid value for '--adapter': '.*' is not NAME=DIR"),
        (refuse_adapter_name_given_twice, "Error: Invalid value for '--adapter': 'v2' is given"),
    ],
)
def test_what_cannot_start_is_one_sentence_and_status_2(
    checkpoints: Path, tmp_path: Path, prepare: Callable[[Path], list[str]], problem: str
) -> None:
    shutil.copytree(checkpoints / "qwen2_vl", tmp_path / "base")
    (tmp_path / "requests.jsonl").write_text('{"id": 1, "text": "a"}\n')
    result = vlm2vec(
        "embed",
        *("--base", tmp_path / "base"),
        *("--input", tmp_path / "requests.jsonl"),
        *("--output", tmp_path / "out.npz"),
        *prepare(tmp_path),
    )
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    sentence = result.stderr.splitlines()[-1]
    assert re.match(problem, sentence), result.stderr
    # Click shows the usage above errors of its own; ours have nothing beside them.
    assert result.stderr.count("\n") == 1 or result.stderr.startswith("Usage: vlm2vec embed")
    assert {path.name for path in tmp_path.iterdir()} == {"base", "requests.jsonl"}


def test_help_has_every_setting_with_its_sentence_and_default() -> None:
    result = vlm2vec("embed", "--help", environment={"COLUMNS": "100"})
    assert result.returncode == 0
    text = " ".join(result.stdout.split())
    for settings in (EngineSettings, Limits, VideoSettings):
        for item in fields(settings):
            assert f"--{item.name.replace('_', '-')} " in text
            assert item.metadata["help"] in text
            assert f"[default: {item.default}]" in text
