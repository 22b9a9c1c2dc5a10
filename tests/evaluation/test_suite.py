"""Suite files: what ships, what is refused, and what makes another edition."""

from collections import Counter
from pathlib import Path

import pytest

from tests.evaluation.small import write_suite
from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_evaluation.suite import read_suite, shipped


def test_mmeb_v1_is_that_of_the_paper(tmp_path: Path) -> None:
    assert shipped() == ["mmeb_v1", "mmeb_v2", "mmeb_v3", "omniset"]
    suite = read_suite("mmeb_v1", tmp_path)
    assert len({item.name for item in suite.data_sets}) == 36
    assert Counter(item.meta_task for item in suite.data_sets) == {
        "classification": 10, "vqa": 10, "retrieval": 12, "grounding": 4,
    }  # fmt: skip
    assert Counter(item.split for item in suite.data_sets) == {"ind": 20, "ood": 16}
    # The count of both at once, from the paper's table 1.
    assert Counter((item.meta_task, item.split) for item in suite.data_sets) == {
        ("classification", "ind"): 5, ("classification", "ood"): 5,
        ("vqa", "ind"): 6, ("vqa", "ood"): 4,
        ("retrieval", "ind"): 8, ("retrieval", "ood"): 4,
        ("grounding", "ind"): 1, ("grounding", "ood"): 3,
    }  # fmt: skip
    (visdial,) = [item for item in suite.data_sets if item.query_suffix != "\n"]
    assert (visdial.name, visdial.query_suffix) == ("VisDial", "\n\n")
    with pytest.raises(
        EvaluationError, match=r"data set ImageNet-1K: .* does not exist; .* --data"
    ):
        suite.path(suite.data_sets[0])


def test_digest_is_of_what_the_file_says(tmp_path: Path) -> None:
    path = write_suite(tmp_path / "a")
    digest = read_suite(path).digest
    copy = tmp_path / "elsewhere.yaml"
    copy.write_text("# a comment\n" + path.read_text())
    assert read_suite(copy).digest == digest
    text = path.read_text()
    for old, new in (
        ("split: ood", "split: ind"),
        ("path: classes.jsonl", "path: other.jsonl"),
        ("images: pictures", "images: others"),
        ("name: crops", 'name: crops\n  query_instruction: "Find it:"'),
    ):
        assert old in text
        copy.write_text(text.replace(old, new, 1))
        assert read_suite(copy).digest != digest


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("meta_task: vqa", "meta_task: qa", r"data_sets\[1\]\.meta_task: 'qa' is not one of "),
        ("split: ood", "split: test", r"data_sets\[1\]\.split: 'test' is not one of ind, ood"),
        ("name: questions", "name: classes", "data_sets: classes is there twice"),
        ("name: questions", "name: a/b", r"data_sets\[1\]\.name: 'a/b' is not letters"),
        ("name: questions", "name: vqa", r"data_sets\[1\]\.name: 'vqa' is the name of an average"),
        (
            "images: pictures",
            "picture: here",
            "unknown key picture; known are data_sets, fetch",
        ),
        ("path: classes.jsonl", "paths: x", r"data_sets\[0\]: unknown key paths"),
        ("path: classes.jsonl", "split: ind", r"data_sets\[0\]: path is missing"),
        ("images: pictures", "prompts: own", "prompts: 'own' is not one of mmeb, template"),
        ("name: questions", "name: 3", r"data_sets\[1\]\.name: expected a string, got 3"),
        ("images: pictures", "images: [", "while parsing"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, problem: str) -> None:
    path = write_suite(tmp_path / "suite")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(EvaluationError, match=problem) as caught:
        read_suite(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no such file, and none of those shipped: mmeb_v1, "):
        read_suite(tmp_path / "none.yaml")
