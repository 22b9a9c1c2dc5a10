"""Rows to inputs: the prompts are upstream's, to the last line break."""

import json
from pathlib import Path

import pytest
import yaml

from tests.evaluation import small
from vlm2vec import Input
from vlm2vec.inputs import InputLike
from vlm2vec_evaluation import prompts
from vlm2vec_evaluation.data import read
from vlm2vec_evaluation.errors import EvaluationError, UnsupportedError
from vlm2vec_evaluation.layouts.source import Source
from vlm2vec_evaluation.suite import Suite, parse_suite, read_suite
from vlm2vec_evaluation.task import PoolTask, Task

QWEN, PHI = "<|image_pad|>", "<|image_1|>"


def tasks(suite: Suite, backbone: str = "qwen2_vl") -> dict[str, Task]:
    found = {item.name: read(Source(suite, item, backbone)) for item in suite.data_sets}
    return {name: task for name, task in found.items() if isinstance(task, Task)}


def prompt(item: InputLike) -> str:
    assert isinstance(item, Input)
    assert item.prompt is not None
    return item.prompt


def images(item: InputLike) -> list[str]:
    assert isinstance(item, Input)
    return [Path(str(path)).name for path in item.images]


def test_upstreams_own_prompts() -> None:
    # As converted by upstream's parsers, e.g. of TextVQA, CIRR and N24News.
    question = "<|image_1|>\nRepresent the given image with the following question:"
    assert prompts.query(question, "what is the brand of this camera?", QWEN, newline=True) == (
        "<|image_pad|>\nRepresent the given image with the following question: "
        "what is the brand of this camera?\n"
    )
    changes = (
        "<|image_1|> Given an image, find a similar everyday image with the described changes:"
    )
    assert prompts.query(changes, "Fewer paper towels per pack.", QWEN, newline=True) == (
        "<|image_pad|>\nGiven an image, find a similar everyday image with the described changes: "
        "Fewer paper towels per pack.\n"
    )
    represent = "<|image_1|>\nRepresent the given image.\n"
    assert prompts.target(represent, "", QWEN, for_text=False) == (
        "<|image_pad|>\nRepresent the given image.\n"
    )
    assert prompts.query("<|image_1|> Represent it", "", PHI, newline=False) == (
        "<|image_1|>  Represent it\n"
    )
    assert prompts.query("Find it:", "a cat", None, newline=True, suffix="\n\n") == (
        "Find it: a cat\n\n"
    )
    assert prompts.target("Represent it", "by name", QWEN, for_text=True) == (
        "<|image_pad|> Represent it by name\n"
    )
    assert prompts.target("ignored", "tench", None, for_text=False) == "tench"


def test_each_meta_task_from_each_format(tmp_path: Path) -> None:
    found = tasks(read_suite(small.write_suite(tmp_path / "suite")))
    assert {name: len(task.records) for name, task in found.items()} == {
        "classes": 6, "questions": 2, "captions": 3, "crops": 2,
    }  # fmt: skip
    record = found["classes"].records[1]
    assert prompt(record.query) == f"{QWEN}  Represent the given image for classification\n"
    assert images(record.query) == ["1.png"]
    assert [prompt(item) for item in record.candidates] == ["flower", "boat", "temple"]
    record = found["questions"].records[0]
    assert prompt(record.query) == (
        f"{QWEN}\nRepresent the given image with the question: What colour is it?\n"
    )
    assert [prompt(item) for item in record.candidates] == ["red", "green", "blue"]
    record = found["captions"].records[2]
    assert prompt(record.query) == (
        "Find me an everyday image that matches the given caption: a roof\n"
    )
    assert images(record.query) == []
    assert {prompt(item) for item in record.candidates} == {f"{QWEN}  Represent the given image.\n"}
    assert [images(item)[0] for item in record.candidates] == [
        "2.png", "3.png", "4.png", "5.png", "0.png", "1.png",
    ]  # fmt: skip
    record = found["crops"].records[0]
    assert prompt(record.query) == (
        f"{QWEN}\nSelect the portion of the image that isolates the object: temple\n"
    )
    assert prompt(record.candidates[0]) == (
        f"{QWEN}\nRepresent the given cropped image of the object."
    )
    assert all(record.right == (0,) for task in found.values() for record in task.records)
    # Equal candidates are one object, so that each is hashed once.
    first, second = (found["captions"].records[index].candidates for index in (0, 1))
    assert first[1] is second[0]


def test_the_placeholder_is_the_backbones(tmp_path: Path) -> None:
    suite = read_suite(small.write_suite(tmp_path / "suite"))
    assert prompt(tasks(suite, "phi3_v")["questions"].records[0].query).startswith(f"{PHI}\nRepr")
    with pytest.raises(EvaluationError, match="backbone 'clip' has no known image placeholder"):
        tasks(suite, "clip")


def test_template_leaves_joining_to_the_adapter(tmp_path: Path) -> None:
    suite = read_suite(small.write_suite(tmp_path / "suite", prompts="template"))
    record = tasks(suite)["crops"].records[0]
    assert record.query == Input(
        instruction="Select the portion of the image that isolates the object:",
        text="temple",
        images=[tmp_path / "suite" / "pictures" / "0.png"],
    )


def test_instructions_of_the_suite_stand_in_for_the_rows(tmp_path: Path) -> None:
    path = small.write_suite(tmp_path / "suite")
    values = yaml.safe_load(path.read_text())
    values["data_sets"][0] |= {"query_instruction": "Name it", "target_instruction": "This is:"}
    record = tasks(parse_suite(values, "small", path.parent))["classes"].records[0]
    assert prompt(record.query) == f"{QWEN} Name it\n"
    assert prompt(record.candidates[0]) == "This is: temple"


def test_a_row_may_say_that_several_are_right(tmp_path: Path) -> None:
    row = {"qry_text": "which", "tgt_text": ["a", "b", "c"]}
    rows = [row, {**row, "tgt_right": 2}, {**row, "tgt_right": 4}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(item) + "\n" for item in rows))
    values = {"data_sets": [{"name": "a", "path": "rows.jsonl", "meta_task": "vqa"}]}
    suite = parse_suite(values, "small", tmp_path)
    task = read(Source(suite, suite.data_sets[0], "qwen2_vl", 2))
    assert isinstance(task, Task)
    records = task.records
    assert [record.right for record in records] == [(0,), (0, 1)]
    with pytest.raises(EvaluationError, match="row 3: tgt_right: expected a number from 1 to 3"):
        read(Source(suite, suite.data_sets[0], "qwen2_vl"))


@pytest.mark.parametrize("prompts", ["template", "mmeb"])
def test_a_row_may_have_audio(tmp_path: Path, prompts: str) -> None:
    suite = read_suite(small.write_suite(tmp_path / "suite", prompts=prompts))
    rows = [
        {"qry_inst": "What is heard?", "qry_text": "", "qry_audio_path": "q.wav",
         "tgt_text": ["rain", "wind"]},
        {"qry_inst": "Find the audio:", "qry_text": "rain", "tgt_inst": "", "tgt_text": [""],
         "tgt_audio_path": ["a.wav", "b.wav"]},
        {"qry_inst": "Find it:", "qry_text": "rain", "tgt_inst": "", "tgt_text": ["", "x"],
         "tgt_img_path": ["0.png", ""], "tgt_audio_path": ["", "b.wav"]},
    ]  # fmt: skip
    small.lines(tmp_path / "suite" / "classes.jsonl", rows)
    heard, sought, mixed = tasks(suite, "qwen2_5_omni")["classes"].records
    folder = tmp_path / "suite" / "pictures"
    assert isinstance(heard.query, Input)
    assert heard.query.audios == (folder / "q.wav",)
    words = [heard.query.instruction, heard.query.text]
    assert " ".join(filter(None, words)).strip() == "What is heard?"
    for record, expected in (
        (sought, [([], ["a.wav"]), ([], ["b.wav"])]), (mixed, [(["0.png"], []), ([], ["b.wav"])]),
    ):  # fmt: skip
        found = [one for one in record.candidates if isinstance(one, Input)]
        assert [
            (images(one), [path.name for path in one.audios if isinstance(path, Path)])
            for one in found
        ] == expected
    # A model without audio leaves the whole data set out.
    task = read(Source(suite, suite.data_sets[0], "qwen2_vl"))
    assert isinstance(task, PoolTask)
    with pytest.raises(UnsupportedError, match="takes no audio"):
        list(task.queries())


def test_limit_takes_the_first_rows(tmp_path: Path) -> None:
    suite = read_suite(small.write_suite(tmp_path / "suite"))
    task = read(Source(suite, suite.data_sets[0], "qwen2_vl", 2))
    assert isinstance(task, Task)
    assert len(task.records) == 2


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"qry_text": "a"}, "row 1: tgt_text is missing"),
        ({"qry_text": "a", "tgt_text": []}, "row 1: tgt_text has 0 and tgt_img_path 0 candidates"),
        (
            {"qry_text": "a", "tgt_text": ["a", "b"], "tgt_img_path": ["", "", ""]},
            "row 1: tgt_text has 2 and tgt_img_path 3 candidates",
        ),
        (
            {"qry_text": "a", "tgt_text": ["a", "b"], "tgt_audio_path": [""]},
            "row 1: tgt_text has 2 and tgt_audio_path 1 candidates",
        ),
        ({"qry_text": 3, "tgt_text": ["a"]}, "row 1: qry_text: expected a string, got int"),
        ({"qry_text": "a", "tgt_text": [3]}, "row 1: tgt_text: expected a list of strings"),
        (["a"], "line 1: expected a JSON object"),
        (None, "classes.jsonl has no rows"),
    ],
)
def test_what_is_wrong_with_a_row_is_named(tmp_path: Path, row: object, problem: str) -> None:
    suite = read_suite(small.write_suite(tmp_path / "suite"))
    path = tmp_path / "suite" / "classes.jsonl"
    path.write_text("") if row is None else small.lines(path, [row])  # type: ignore[list-item]
    with pytest.raises(EvaluationError, match=problem):
        tasks(suite)
