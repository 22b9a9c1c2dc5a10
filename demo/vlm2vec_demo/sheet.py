"""Draws the contact sheet: queries, and what each version found best among their candidates."""

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlm2vec import Input
from vlm2vec_evaluation import Record, Task
from vlm2vec_evaluation.source import Key, key_of
from vlm2vec_evaluation.vector_file import Vectors

ROWS = (
    ("Retrieval", "caption_to_scene", 2),
    ("Question", "digit_by_colour", 1),
    ("Question", "digit_by_place", 1),
    ("Grounding", "select_anywhere", 2),
)
"""The rows of the sheet: a title, a task, and how many of its queries are shown."""
NOTES = (
    "Green: right. The digits are test digits, which no training saw. Of questions and grounding, "
    "the first\nqueries for which the versions' best answers differ; of retrieval, the first of "
    "each four captions that are alike."
)
TRAINED = ("trained on classification and retrieval", "and on questions and grounding too")
"""What is written above each version."""
TOP = 3
TILE, GAP, MARGIN, HEADER, FOOTER = 112, 10, 28, 96, 64
QUERY = 330
"""The width of the queries' column, in pixels."""
VERSION = TOP * TILE + (TOP - 1) * GAP
BETWEEN = 40
SIZE = (
    2 * MARGIN + QUERY + 2 * (BETWEEN + VERSION),
    HEADER + sum(count for _, _, count in ROWS) * (TILE + 2 * GAP) + FOOTER,
)
"""The width and height of the sheet, in pixels."""
PAPER, TEXT, FAINT, LINE, RIGHT = "#ffffff", "#1c2024", "#6b7280", "#d5d9df", "#16a34a"


def draw(path: Path, tasks: Sequence[Task], versions: Sequence[tuple[str, Vectors]]) -> None:
    """Draws the sheet as the PNG file ``path``.

    ``versions`` are two, each a title and the vectors of all inputs of ``tasks``.
    """
    sheet = Image.new("RGB", SIZE, PAPER)
    pen = ImageDraw.Draw(sheet)
    columns = [MARGIN + QUERY + BETWEEN + i * (VERSION + BETWEEN) for i in range(len(versions))]
    pen.text((MARGIN, MARGIN - 8), "Query", TEXT, _font(22))
    for left, (title, _), trained in zip(columns, versions, TRAINED, strict=True):
        pen.text((left, MARGIN - 8), f"{title}: the best three", TEXT, _font(22))
        pen.text((left, MARGIN + 22), trained, FAINT, _font(15))
    pen.line((MARGIN, HEADER - 12, SIZE[0] - MARGIN, HEADER - 12), LINE, 1)
    by_name = {task.name: task for task in tasks}
    top = HEADER
    for title, name, count in ROWS:
        for record in _chosen(by_name[name], [vectors for _, vectors in versions])[:count]:
            _query(sheet, pen, (MARGIN, top), title, _as_input(record.query))
            for left, (_, vectors) in zip(columns, versions, strict=True):
                for place, index in enumerate(best(record, vectors)):
                    corner = (left + place * (TILE + GAP), top)
                    right = index in record.right
                    _tile(sheet, pen, corner, _as_input(record.candidates[index]), right)
            top += TILE + 2 * GAP
    pen.multiline_text((MARGIN, top + 4), NOTES, FAINT, _font(15), spacing=6)
    # Few colours: a third of the bytes, and no difference to be seen.
    sheet.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def _chosen(task: Task, versions: Sequence[Vectors]) -> Sequence[Record]:
    """The queries in the order in which they are worth showing: see `NOTES`."""
    if task.meta_task == "retrieval":
        return task.records[::4]

    def is_alike(record: Record) -> bool:
        return len({best(record, vectors)[0] for vectors in versions}) == 1

    return sorted(task.records, key=is_alike)


def best(record: Record, vectors: Vectors) -> list[int]:
    """Finds the `TOP` candidates of the largest cosine; returns their indices, the largest first.

    Of equal candidates one is taken, and the right one rather than another.
    """
    query = vectors[key_of(record.query)]
    seen: dict[Key, int] = {}
    for index, item in enumerate(record.candidates):
        seen.setdefault(key_of(item), index)
    for index in record.right:
        seen[key_of(record.candidates[index])] = index
    matrix = np.stack([vectors[key] for key in seen])
    scores = matrix @ query / np.linalg.norm(matrix, axis=1)
    return [list(seen.values())[place] for place in np.argsort(-scores, kind="stable")[:TOP]]


def _query(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, corner: tuple[int, int], title: str, item: Input
) -> None:
    left, top = corner
    if item.images:
        _tile(sheet, pen, corner, Input(images=item.images), right=False)
        left += TILE + GAP + 4
    pen.text((left, top), title, FAINT, _font(14))
    # An instruction that goes on in the text is one sentence with it.
    words = f"{item.instruction} {item.text}" if title == "Grounding" else item.text or ""
    width = (MARGIN + QUERY - left) // 10
    pen.multiline_text((left, top + 22), textwrap.fill(words, width), TEXT, _font(18), spacing=5)


def _tile(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, corner: tuple[int, int], item: Input, right: bool
) -> None:
    """A picture, or a word in its place, in a frame."""
    left, top = corner
    for image in item.images:
        assert isinstance(image, bytes)
        sheet.paste(Image.open(io.BytesIO(image)).convert("RGB").resize((TILE, TILE)), corner)
    if not item.images:
        middle = (left + TILE // 2, top + TILE // 2)
        pen.text(middle, item.text or "", TEXT, _font(22), anchor="mm")
    frame = (left - 1, top - 1, left + TILE, top + TILE)
    if right:
        pen.rectangle((left - 4, top - 4, left + TILE + 3, top + TILE + 3), None, RIGHT, 4)
    else:
        pen.rectangle(frame, None, LINE, 1)


def _as_input(item: object) -> Input:
    assert isinstance(item, Input)
    return item


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
