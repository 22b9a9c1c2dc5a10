"""The losses of a training step: those of the four meta-tasks on a batch of scenes."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vlm2vec_demo.digits import words
from vlm2vec_demo.digits.preprocessor import ScenePreprocessor
from vlm2vec_demo.digits.world import COLOURS, DIGITS, Drawn, Images, Scene, Thing
from vlm2vec_service.preprocess import Prepared
from vlm2vec_training import processes
from vlm2vec_training.embedder import Embedder, Features
from vlm2vec_training.loss import info_nce

TEMPERATURE = 0.05
LABELS = [*DIGITS, *(words.name(Thing(d, c)) for c in range(len(COLOURS)) for d in range(10))]
"""The labels of classification: ten digits, then sixty coloured ones."""


@dataclass(frozen=True)
class SharedInputs:
    """Inputs whose vectors the processes compute together.

    ``indices`` are the numbers of all of them, and ``inputs`` are this process's, whose numbers
    `mine` picks out.
    """

    indices: Sequence[int]
    inputs: Sequence[Prepared]


def mine(indices: Iterable[int]) -> list[int]:
    """Picks out those of ``indices`` that this process computes."""
    return [index for index in indices if index % processes.world_size() == processes.rank()]


def embed(embedder: Embedder, shares: Sequence[SharedInputs], features: Features) -> list[Tensor]:
    """Computes the vectors of all inputs of each share, in order.

    Only this process's have a gradient. Every process so knows the whole loss, and the gradients
    of all processes add up to that of the loss.
    """
    vectors = embedder([item for share in shares for item in share.inputs], features)
    found = processes.gather(vectors.detach())
    found[processes.rank()] = vectors
    world = processes.world_size()
    orders = [
        [[at for at, index in enumerate(share.indices) if index % world == r] for r in range(world)]
        for share in shares
    ]
    parts = [
        list(whole.split([len(order[r]) for order in orders])) for r, whole in enumerate(found)
    ]
    joined = []
    for number, order in enumerate(orders):
        places = torch.tensor([at for one in order for at in one]).argsort()
        joined.append(torch.cat([part[number] for part in parts])[places])
    return joined


@dataclass(frozen=True)
class SceneBatch:
    """Scenes, and the pictures of those that this process draws.

    ``scenes`` are those of all processes. ``images`` are the pictures of this process's, which
    `mine` picks out, in order, and ``features`` are theirs and those of ``crops``, the crops of the
    things in them.
    """

    scenes: Sequence[Scene]
    images: Images
    features: Features
    crops: Images | None = None


def describe(
    embedder: Embedder, preprocessor: ScenePreprocessor, shown: SceneBatch, rng: random.Random
) -> dict[str, Tensor]:
    """Computes the losses of retrieval both ways, and of classifying the single digits.

    Scenes of a single digit come first.
    """
    scenes, images = shown.scenes, shown.images
    single = [scene for scene in scenes if scene.layout == "single"]
    captions = [words.caption(scene, rng.random() < 0.5) for scene in scenes]
    every, some = range(len(scenes)), range(len(single))

    def texts(items: Sequence[str], instruction: str | None = None) -> SharedInputs:
        own = [items[index] for index in mine(range(len(items)))]
        return SharedInputs(range(len(items)), preprocessor.texts(own, instruction))

    classified, to_caption, plain = embed(
        embedder,
        [
            SharedInputs(some, preprocessor.images(images[: len(mine(some))], words.CLASSIFY)),
            SharedInputs(every, preprocessor.images(images, words.TO_CAPTION)),
            SharedInputs(every, preprocessor.images(images, words.IMAGE)),
        ],
        shown.features,
    )
    labels, written, wanted = embed(
        embedder, [texts(LABELS), texts(captions), texts(captions, words.TO_IMAGE)], {}
    )
    digit = torch.tensor([scene.things[0].digit for scene in single])
    coloured = 10 * torch.tensor([scene.things[0].colour for scene in single]) + digit
    same, each = numbered([words.caption(scene) for scene in scenes]), torch.arange(len(scenes))

    def both_ways(a: Tensor, b: Tensor) -> Tensor:
        there = info_nce(a, b, each, TEMPERATURE, same)
        return (there + info_nce(b, a, each, TEMPERATURE, same)) / 2

    return {
        "digit": info_nce(classified, labels[:10], digit, TEMPERATURE),
        "coloured": info_nce(classified, labels[10:], coloured, TEMPERATURE),
        "captioned": info_nce(to_caption[: len(single)], labels[10:], coloured, TEMPERATURE),
        "to_caption": both_ways(to_caption, written),
        "to_image": both_ways(wanted, plain),
    }


def question(
    embedder: Embedder, preprocessor: ScenePreprocessor, shown: SceneBatch, rng: random.Random
) -> dict[str, Tensor]:
    """Computes the loss of two questions about each scene, each answered among all answers."""
    rounds = [[words.ask_any(scene, rng) for scene in shown.scenes] for _ in range(2)]
    every, own = range(len(shown.scenes)), mine(range(len(shown.scenes)))
    halves = [
        SharedInputs(
            every,
            preprocessor.images(shown.images, words.QUESTION, [asked[index].text for index in own]),
        )
        for asked in rounds
    ]
    vectors = torch.cat(embed(embedder, halves, shown.features))
    among = range(len(words.ANSWERS))
    texts = preprocessor.texts([words.ANSWERS[index] for index in mine(among)])
    (answers,) = embed(embedder, [SharedInputs(among, texts)], {})
    right = torch.tensor([words.ANSWERS.index(item.answer) for asked in rounds for item in asked])
    return {"question": info_nce(vectors, answers, right, TEMPERATURE)}


def ground(
    embedder: Embedder, preprocessor: ScenePreprocessor, shown: SceneBatch, rng: random.Random
) -> dict[str, Tensor]:
    """Computes the loss of finding one thing of each scene of several, among the things of all."""
    assert shown.crops is not None
    many = [i for i, scene in enumerate(shown.scenes) if len(scene.things) > 1]
    owners = [(i, k) for i in many for k in range(len(shown.scenes[i].things))]
    chosen = {i: rng.randrange(len(shown.scenes[i].things)) for i in many}
    phrases = {
        i: words.refer(shown.scenes[i], k, rng.choice(words.REFERENCES)) for i, k in chosen.items()
    }
    own = mine(many)
    images = shown.images[[i // processes.world_size() for i in own]]
    queries, targets = embed(
        embedder,
        [
            SharedInputs(
                many, preprocessor.images(images, words.SELECT, [phrases[i] for i in own])
            ),
            SharedInputs([i for i, _ in owners], preprocessor.images(shown.crops, words.CROP)),
        ],
        shown.features,
    )
    positive = torch.tensor([owners.index(item) for item in chosen.items()])
    things = [words.name(shown.scenes[i].things[k]) for i, k in owners]
    return {"ground": info_nce(queries, targets, positive, TEMPERATURE, numbered(things))}


def cells(heads: torch.nn.Module, features: Features, drawn: Drawn) -> Tensor:
    """Computes this process's part of the loss that helps vision at first.

    ``heads`` name the digit and the colour at each token; tokens of mere paper weigh less.
    """
    logits = heads(torch.stack([*features.values()]).float()).float()
    weights = torch.ones(11)
    weights[10] = 0.3
    colour_weights = torch.ones(7)
    colour_weights[6] = 0.3
    digits, colours = logits[..., :11].flatten(0, 1), logits[..., 11:].flatten(0, 1)
    loss = F.cross_entropy(digits, drawn.digits.flatten(), weights)
    loss = loss + F.cross_entropy(colours, drawn.colours.flatten(), colour_weights)
    return loss / processes.world_size()


def numbered(keys: Sequence[str]) -> Tensor:
    """Numbers ``keys``, int64 ``(n,)``, equal ones equally."""
    first: dict[str, int] = {}
    return torch.tensor([first.setdefault(key, len(first)) for key in keys])
