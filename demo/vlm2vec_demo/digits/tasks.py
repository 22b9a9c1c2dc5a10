"""Makes evaluation sets of test digits, for the four meta-tasks of MMEB.

They are the same in every run. In split ``ood`` are questions in wordings that no training saw.
"""

import io
import random
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from vlm2vec import Input
from vlm2vec_demo.digits import words
from vlm2vec_demo.digits.held_out import HELD_OUT
from vlm2vec_demo.digits.losses import LABELS
from vlm2vec_demo.digits.world import (
    COLOURS,
    DIGITS,
    DigitWorld,
    Images,
    Scene,
    crop,
    draw_scene,
    variants,
)
from vlm2vec_evaluation.task import Record, Task

SEED = 11
ANSWERS = {"digit": DIGITS, "colour": COLOURS, "count": DIGITS[1:4]}


def tasks(singles: int = 500, pairs: int = 1000, scenes: int = 400) -> Iterator[Task]:
    """Makes all tasks, one after the other; fewer scenes make it quicker.

    Classification is of ``singles`` scenes of one digit, retrieval is among ``pairs`` scenes, and
    questions and grounding are about ``scenes`` of two or three digits.
    """
    world, rng, shapes = DigitWorld(), random.Random(SEED), np.random.default_rng(SEED)
    yield from _classification(world, [draw_scene(rng, 1) for _ in range(singles)], shapes)
    yield from _retrieval(world, _distinct(rng, pairs), shapes)
    asked = [draw_scene(rng) for _ in range(scenes)]
    drawn = world.draw(asked, shapes, test=True)
    images = pictures(drawn.images)
    for kind in words.KINDS:
        yield _questions(kind, "ind", asked, images, [words.PLAIN[kind]], rng)
    for kind in words.KINDS:
        yield _questions(f"{kind}_held_out", "ood", asked, images, HELD_OUT[kind], rng)
    owners = [(i, k) for i, boxes in enumerate(drawn.boxes) for k in range(len(boxes))]
    cut = crop(drawn.images[[i for i, _ in owners]], [drawn.boxes[i][k] for i, k in owners], shapes)
    yield from _grounding(asked, images, owners, pictures(cut), rng)


def pictures(images: Images) -> list[bytes]:
    """Writes each of ``images``, uint8 ``(n, height, width, 3)``, as the bytes of a PNG file."""
    files = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        files.append(file.getvalue())
    return files


def _classification(
    world: DigitWorld, scenes: Sequence[Scene], shapes: np.random.Generator
) -> Iterator[Task]:
    images = pictures(world.draw(scenes, shapes, test=True).images)
    queries = [Input(instruction=words.CLASSIFY, images=[image]) for image in images]
    labels = [Input(text=label) for label in LABELS]
    for name, among, right in (
        ("digit", labels[:10], [scene.things[0].digit for scene in scenes]),
        (
            "coloured_digit",
            labels[10:],
            [10 * scene.things[0].colour + scene.things[0].digit for scene in scenes],
        ),
    ):
        records = [Record(query, among, (at,)) for query, at in zip(queries, right, strict=True)]
        yield Task(name, "classification", records)


def _retrieval(
    world: DigitWorld, scenes: Sequence[Scene], shapes: np.random.Generator
) -> Iterator[Task]:
    images: list[bytes] = []
    for start in range(0, len(scenes), 100):
        images += pictures(world.draw(scenes[start : start + 100], shapes, test=True).images)
    captions = [words.caption(scene) for scene in scenes]
    shown = [Input(instruction=words.TO_CAPTION, images=[image]) for image in images]
    found = [Input(instruction=words.IMAGE, images=[image]) for image in images]
    texts = [Input(text=text) for text in captions]
    wanted = [Input(instruction=words.TO_IMAGE, text=text) for text in captions]
    for name, queries, candidates in (
        ("scene_to_caption", shown, texts),
        ("caption_to_scene", wanted, found),
    ):
        yield Task(
            name, "retrieval", [Record(query, candidates, (i,)) for i, query in enumerate(queries)]
        )


def _questions(
    name: str,
    split: str,
    scenes: Sequence[Scene],
    images: Sequence[bytes],
    wordings: Sequence[str],
    rng: random.Random,
) -> Task:
    kind = name.removesuffix("_held_out")
    answers = ANSWERS[kind.partition("_")[0]]
    candidates = [Input(text=answer) for answer in answers]
    records = []
    for scene, image in zip(scenes, images, strict=True):
        asked = words.ask(scene, rng.randrange(len(scene.things)), kind, rng.choice(wordings))
        query = Input(instruction=words.QUESTION, text=asked.text, images=[image])
        records.append(Record(query, candidates, (answers.index(asked.answer),)))
    return Task(name, "vqa", records, split)


def _grounding(
    scenes: Sequence[Scene],
    images: Sequence[bytes],
    owners: Sequence[tuple[int, int]],
    crops: Sequence[bytes],
    rng: random.Random,
) -> Iterator[Task]:
    """Among the crops of the scene; and among all, where any that shows the same thing is right."""
    candidates = [Input(instruction=words.CROP, images=[image]) for image in crops]
    things = [scenes[i].things[k] for i, k in owners]
    near, far = [], []
    for index, (scene, image) in enumerate(zip(scenes, images, strict=True)):
        chosen = rng.randrange(len(scene.things))
        phrase = words.refer(scene, chosen, rng.choice(words.REFERENCES))
        query = Input(instruction=words.SELECT, text=phrase, images=[image])
        right = owners.index((index, chosen))
        own = [at for at, (owner, _) in enumerate(owners) if owner == index]
        near.append(Record(query, [candidates[at] for at in own], (own.index(right),)))
        alike = [at for at, thing in enumerate(things) if thing == scene.things[chosen]]
        far.append(Record(query, candidates, tuple(alike)))
    yield Task("select_in_scene", "grounding", near)
    yield Task("select_anywhere", "grounding", far)


def _distinct(rng: random.Random, count: int) -> list[Scene]:
    """Scenes in fours that are hard to tell apart, no two of the same caption."""
    scenes: dict[str, Scene] = {}
    while len(scenes) < count:
        for scene in variants(draw_scene(rng), rng):
            if len(scenes) < count:
                scenes.setdefault(words.caption(scene), scene)
    return list(scenes.values())
