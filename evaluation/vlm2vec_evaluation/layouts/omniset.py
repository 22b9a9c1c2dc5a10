"""OmniSET: the same scenes as text, image, video and audio, each of which looks for another."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_evaluation.layouts.source import FRAMES, Row, Source, listed, rows, sample
from vlm2vec_evaluation.layouts.source import value as value_of
from vlm2vec_evaluation.task import PoolTask, Query

if TYPE_CHECKING:
    from vlm2vec import Input
    from vlm2vec.inputs import InputLike

KINDS = ("text", "image", "video", "audio")
REPRESENT = "Represent the given text, image, video, or audio."


def read(source: Source) -> PoolTask:
    """Reads one direction: the option ``asks`` names what is shown, ``sought`` what is looked for.

    A query's candidates are the right scene and others like it, each in every kind that the family
    takes: a system that passes over the kind that was asked for finds the wrong one.
    """
    asks, sought = source.text("asks"), source.text("sought")
    kinds = KINDS if "audio" in source.writer.takes else KINDS[:3]

    def catalog() -> dict[str, Row]:
        file = source.path / "catalog.jsonl"
        return {str(value_of(row, "a scene", "image_id")): row for row in rows(file)}

    def scenes(row: Row, where: str) -> list[str]:
        others = listed(value_of(row, where, "hard_negatives"))
        return [str(one) for one in (value_of(row, where, "image_id"), *others)]

    def candidates() -> "Iterator[tuple[str, InputLike]]":
        known, met = catalog(), set()
        for number, row in source.some(rows(source.path / "omniset.jsonl")):
            for scene in scenes(row, f"query {number}"):
                if scene in met:
                    continue
                met.add(scene)
                if scene not in known:
                    raise EvaluationError(f"query {number}: no scene {scene} in catalog.jsonl")
                for kind in kinds:
                    words = _caption(known[scene]) if kind == "text" else REPRESENT
                    yield f"{scene}/{kind}", _item(source, known[scene], kind, words)

    def queries() -> Iterator[Query]:
        known = catalog()
        # Behind a picture the sentence ends in a space; a text follows it by one.
        asked = f"Find the {sought} that best matches the given {asks}"
        for number, row in source.some(rows(source.path / "omniset.jsonl")):
            names = scenes(row, f"query {number}")
            query = (
                source.writer.write(
                    asked, str(value_of(row, f"query {number}", "qry_text")), between=": "
                )
                if asks == "text"
                else _item(source, known[names[0]], asks, f"{asked}: ")
            )
            yield Query(
                query,
                {f"{names[0]}/{sought}": 1.0},
                [f"{scene}/{kind}" for scene in names for kind in kinds],
            )

    return source.task(queries, candidates, "audio" if "audio" in (asks, sought) else "")


def _item(source: Source, scene: Row, kind: str, words: str) -> "Input":
    folder: Path = source.path
    if kind == "image":
        return source.writer.write(words, images=[folder / "val2014" / scene["image_filename"]])
    if kind == "video":
        name = Path(str(scene["video_filename"])).stem
        frames = sample(source.pictures(folder / "frames_omni" / name), FRAMES)
        return source.writer.write(words, video=frames, moving=True)
    if kind == "audio":
        return source.writer.write(words, audios=[folder / "audios" / scene["audio_filename"]])
    return source.writer.write(text=words)


def _caption(scene: Row) -> str:
    return str(listed(scene["captions"])[0])
