"""Questions about a video, with the answers to choose from.

The five data sets differ in their keys and in how a question lists its answers; a row becomes a
`Question`, and the rest is alike. Answers are candidates of their own query alone.
"""

import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_evaluation.layouts.source import Row, Source, files, listed, rows, value
from vlm2vec_evaluation.task import PoolTask, Query

if TYPE_CHECKING:
    from vlm2vec.inputs import InputLike


@dataclass(frozen=True)
class Question:
    """One question. ``answers`` are by name, in order; ``right`` is a name; ``video`` is the folder
    of its frames, below that of the data set."""

    video: str
    text: str
    answers: dict[str, str]
    right: str


def read(source: Source) -> PoolTask:
    """Reads a data set of questions; its option ``style`` is one of `STYLES`."""
    parse = STYLES[source.text("style")]

    def questions() -> Iterator[tuple[int, Question]]:
        for number, row in source.some(_rows(source.path)):
            yield number, parse(row, f"row {number}")

    def candidates() -> "Iterator[tuple[str, InputLike]]":
        for _, question in questions():
            for answer in question.answers.values():
                yield answer, source.writer.write(text=answer)

    def queries() -> Iterator[Query]:
        for number, question in questions():
            if question.right not in question.answers:
                raise EvaluationError(f"row {number}: {question.right!r} is no answer")
            video = source.frames(_folder(source.folder("frames"), question.video))
            yield Query(
                source.writer.write(source.text("instruction"), question.text, video=video),
                {question.answers[question.right]: 1.0},
                list(question.answers.values()),
            )

    return source.task(queries, candidates)


def _rows(path: Path) -> Iterator[Row]:
    """Reads the rows of all files; where they lie in one file a subset, it is their subset."""
    for file in files(path):
        for row in rows(file):
            yield row if "subset" in row else {**row, "subset": file.stem}


def _folder(frames: Path, video: str) -> Path:
    """Finds the frames of a video, whose name may be that of its file."""
    folder = frames / video
    return folder if folder.is_dir() else folder.with_suffix("")


def mvbench(row: Row, where: str) -> Question:
    """MVBench: answers are texts, which candidates name with their letter."""
    texts = [str(item) for item in listed(value(row, where, "candidates"))]
    answers = dict(zip(texts, _lettered(texts), strict=True))
    return Question(
        f"{value(row, where, 'subset')}/{value(row, where, 'video')}",
        _with_options(value(row, where, "question"), texts),
        answers, str(value(row, where, "answer")),
    )  # fmt: skip


def nextqa(row: Row, where: str) -> Question:
    """NExT-QA: five answers ``a0`` to ``a4``, of which ``answer`` is an index."""
    texts = [str(value(row, where, f"a{index}")) for index in range(5)]
    right = texts[int(value(row, where, "answer"))]
    return Question(
        str(value(row, where, "video")), _with_options(value(row, where, "question"), texts),
        {text: text for text in texts}, right,
    )  # fmt: skip


def video_mme(row: Row, where: str) -> Question:
    """Video-MME: answers are lettered, ``answer`` is the letter."""
    options = [str(item) for item in listed(value(row, where, "options"))]
    letter = str(value(row, where, "answer"))
    right = next((option for option in options if option.startswith(letter)), letter)
    text = str(value(row, where, "question")) + "\n" + "\n".join(options)
    return Question(str(value(row, where, "videoID", "video_id")), text, _bare(options), right)


def egoschema(row: Row, where: str) -> Question:
    """EgoSchema: answers are lettered and follow the question at once; ``answer`` is an index."""
    options = [str(item) for item in listed(value(row, where, "option"))]
    right = options[int(value(row, where, "answer"))]
    text = str(value(row, where, "question")) + " ".join(options)
    return Question(str(value(row, where, "video_idx")), text, _bare(options), right)


def activitynet(row: Row, where: str) -> Question:
    """ActivityNet-QA: yes or no."""
    text = f"{value(row, where, 'question')}? (A) yes; (B) no."
    answers = {"yes": "yes", "no": "no"}
    return Question(
        f"v_{value(row, where, 'video_name')}", text, answers, str(value(row, where, "answer"))
    )


STYLES: dict[str, Callable[[Row, str], Question]] = {
    "mvbench": mvbench, "nextqa": nextqa, "video_mme": video_mme, "egoschema": egoschema,
    "activitynet": activitynet,
}  # fmt: skip
"""The five data sets' ways to write a row."""


def _lettered(texts: Sequence[str]) -> list[str]:
    return [
        f"({letter}) {text}" for letter, text in zip(string.ascii_uppercase, texts, strict=False)
    ]


def _with_options(question: object, texts: Sequence[str]) -> str:
    return (f"{question}\nOptions:\n" + "\n".join(_lettered(texts))).rstrip()


def _bare(options: Sequence[str]) -> dict[str, str]:
    """Takes the letter from each option, by the whole option."""
    return {option: option[max(option.find(". "), 0) :].strip(". ") for option in options}
