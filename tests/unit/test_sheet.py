"""What the demo's contact sheet shows."""

from pathlib import Path

import numpy as np
from PIL import Image

from vlm2vec import Input
from vlm2vec_demo import sheet
from vlm2vec_evaluation import Record, Task
from vlm2vec_evaluation.source import key_of
from vlm2vec_evaluation.vector_file import Vectors

WORDS = [Input(text=word) for word in ("zero", "one", "two", "three")]
VECTORS: dict[str, tuple[float, float]] = {
    "zero": (1, 0),
    "one": (0, 1),
    "two": (3, 3),
    "three": (-1, 0),
}
QUESTION = Input(text="Which?")


def vectors(question: tuple[float, float]) -> Vectors:
    known = {key_of(word): VECTORS[str(word.text)] for word in WORDS}
    known[key_of(QUESTION)] = question
    return {key: np.array(value, np.float32) for key, value in known.items()}


def test_the_best_are_those_of_the_largest_cosine() -> None:
    record = Record(QUESTION, WORDS, right=(1,))
    # By inner product alone, two would be before zero.
    assert sheet.best(record, vectors((2, 0.5))) == [0, 2, 1]
    assert sheet.best(record, vectors((-1, 0.1))) == [3, 1, 2]


def test_equal_candidates_are_shown_once_and_as_the_right_one() -> None:
    record = Record(QUESTION, [WORDS[0], WORDS[1], Input(text="zero")], right=(2,))
    assert sheet.best(record, vectors((1, 0.1))) == [2, 1]


def test_queries_on_which_the_versions_differ_come_first(tmp_path: Path) -> None:
    other = Input(text="Which other?")
    alike, different = Record(QUESTION, WORDS), Record(other, WORDS)
    first, second = vectors((1, 0)), vectors((1, 0))
    first[key_of(other)], second[key_of(other)] = np.eye(2, dtype=np.float32)
    names = {name for _, name, _ in sheet.ROWS}
    tasks = [Task(name, "vqa", [alike, different]) for name in names]
    sheet.draw(tmp_path / "a.png", tasks, [("v1", first), ("v2", second)])
    with Image.open(tmp_path / "a.png") as drawn:
        assert drawn.size == sheet.SIZE
    tasks = [Task(name, "vqa", [different, alike]) for name in names]
    sheet.draw(tmp_path / "b.png", tasks, [("v1", first), ("v2", second)])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
