"""What one training step asks of the model: the four meta-tasks on a batch of scenes."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vlm2vec_service.preprocess import Prepared
from vlm2vec_training.digits import words
from vlm2vec_training.digits.reader import Reader
from vlm2vec_training.digits.world import COLOURS, DIGITS, Images, Scene, Thing
from vlm2vec_training.embedder import Embedder, Features
from vlm2vec_training.loss import info_nce

TEMPERATURE = 0.05
LABELS = [*DIGITS, *(words.name(Thing(d, c)) for c in range(len(COLOURS)) for d in range(10))]
"""What `words.CLASSIFY` is answered with: ten digits, then sixty coloured ones."""


def embed(
    embedder: Embedder, groups: Sequence[Sequence[Prepared]], features: Features
) -> list[Tensor]:
    """The vectors of each group, all computed together."""
    vectors = embedder([item for group in groups for item in group], features)
    return list(vectors.split([len(group) for group in groups]))


def describe(
    embedder: Embedder,
    reader: Reader,
    scenes: Sequence[Scene],
    images: Images,
    rng: random.Random,
    features: Features,
) -> dict[str, Tensor]:
    """Classification of the single digits, which come first, and retrieval both ways."""
    single = [scene for scene in scenes if scene.layout == "single"]
    captions = [words.caption(scene, rng.random() < 0.5) for scene in scenes]
    shown, to_caption, plain = embed(
        embedder,
        [
            reader.images(images[: len(single)], words.CLASSIFY),
            reader.images(images, words.TO_CAPTION),
            reader.images(images, words.IMAGE),
        ],
        features,
    )
    labels, written, wanted = embed(
        embedder,
        [
            reader.texts(LABELS),
            reader.texts(captions),
            reader.texts(captions, words.TO_IMAGE),
        ],
        {},
    )
    digit = torch.tensor([scene.things[0].digit for scene in single])
    coloured = 10 * torch.tensor([scene.things[0].colour for scene in single]) + digit
    same, each = numbered([words.caption(scene) for scene in scenes]), torch.arange(len(scenes))

    def both_ways(a: Tensor, b: Tensor) -> Tensor:
        there = info_nce(a, b, each, TEMPERATURE, same)
        return (there + info_nce(b, a, each, TEMPERATURE, same)) / 2

    return {
        "digit": info_nce(shown, labels[:10], digit, TEMPERATURE),
        "coloured": info_nce(shown, labels[10:], coloured, TEMPERATURE),
        "captioned": info_nce(to_caption[: len(single)], labels[10:], coloured, TEMPERATURE),
        "to_caption": both_ways(to_caption, written),
        "to_image": both_ways(wanted, plain),
    }


def question(
    embedder: Embedder,
    reader: Reader,
    scenes: Sequence[Scene],
    images: Images,
    rng: random.Random,
    features: Features,
) -> Tensor:
    """Two questions about each scene, answered among all answers."""
    asked = [words.ask_any(scene, rng) for _ in range(2) for scene in scenes]
    halves = [[item.text for item in half] for half in (asked[: len(scenes)], asked[len(scenes) :])]
    (vectors,) = embed(
        embedder,
        [[item for half in halves for item in reader.images(images, words.QUESTION, half)]],
        features,
    )
    (answers,) = embed(embedder, [reader.texts(words.ANSWERS)], {})
    right = torch.tensor([words.ANSWERS.index(item.answer) for item in asked])
    return info_nce(vectors, answers, right, TEMPERATURE)


def ground(
    embedder: Embedder,
    reader: Reader,
    scenes: Sequence[Scene],
    images: Images,
    crops: Images,
    rng: random.Random,
    features: Features,
) -> Tensor:
    """One thing of each scene, among ``crops``: all things of all scenes, in order."""
    owners = [(i, k) for i, scene in enumerate(scenes) for k in range(len(scene.things))]
    chosen = [rng.randrange(len(scene.things)) for scene in scenes]
    by = [rng.choice(words.REFERENCES) for _ in scenes]
    phrases = [words.refer(*each) for each in zip(scenes, chosen, by, strict=True)]
    queries, targets = embed(
        embedder,
        [reader.images(images, words.SELECT, phrases), reader.images(crops, words.CROP)],
        features,
    )
    positive = torch.tensor([owners.index((i, k)) for i, k in enumerate(chosen)])
    things = [words.name(scenes[i].things[k]) for i, k in owners]
    return info_nce(queries, targets, positive, TEMPERATURE, numbered(things))


def cells(heads: torch.nn.Module, features: Tensor, digits: Tensor, colours: Tensor) -> Tensor:
    """The help that vision gets at first: digit and colour at each token, paper weighing less."""
    logits = heads(features.float()).float()
    weights = torch.ones(11)
    weights[10] = 0.3
    colour_weights = torch.ones(7)
    colour_weights[6] = 0.3
    return F.cross_entropy(logits[..., :11].flatten(0, 1), digits.flatten(), weights) + (
        F.cross_entropy(logits[..., 11:].flatten(0, 1), colours.flatten(), colour_weights)
    )


def numbered(keys: Sequence[str]) -> Tensor:
    """int64: equal numbers where the keys are equal."""
    first: dict[str, int] = {}
    return torch.tensor([first.setdefault(key, len(first)) for key in keys])
