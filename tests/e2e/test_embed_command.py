"""``vlm2vec embed`` as users run it: the installed command, real files, golden vectors."""

import base64
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import CASES, adapter_folder
from tests.e2e.cases import Golden, Vector, cosine
from tests.e2e.embed_command import (
    ADAPTERS,
    Line,
    assert_golden_vectors,
    case_lines,
    json_lines,
    on_every_adapter,
    read_npz,
    vlm2vec,
)


@dataclass(frozen=True)
class Run:
    """What a run of the command left."""

    result: subprocess.CompletedProcess[str]
    vectors: dict[str, Vector]
    cases: dict[str, Line]


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
    return Run(result, read_npz(folder / "out.npz"), cases)


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
    return Run(result, read_npz(folder / "out.npz"), cases)


def test_qwen2_vl_vectors_are_the_golden_ones(qwen2_vl_run: Run, golden: Golden) -> None:
    expected = {f"{adapter}/{id}" for adapter in ADAPTERS for id in qwen2_vl_run.cases}
    assert set(qwen2_vl_run.vectors) == {*expected, "data-uri", "instruction-and-text", "7"}
    vectors = {id: vector for id, vector in qwen2_vl_run.vectors.items() if id in expected}
    assert_golden_vectors(vectors, golden, "qwen2_vl")


def test_phi3_v_vectors_are_the_golden_ones(phi3_v_run: Run, golden: Golden) -> None:
    assert phi3_v_run.result.returncode == 0, phi3_v_run.result.stderr
    expected = {f"{adapter}/{id}" for adapter in ADAPTERS for id in phi3_v_run.cases}
    assert set(phi3_v_run.vectors) == {*expected, "templated"}
    vectors = {id: vector for id, vector in phi3_v_run.vectors.items() if id in expected}
    assert_golden_vectors(vectors, golden, "phi3_v")


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
