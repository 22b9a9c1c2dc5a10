"""Where PEFT puts an adapter, and how it scales there: the meaning of its settings for a base.

PEFT asks its patterns with the names that modules have in the model it is given, and versions of
``transformers`` name them differently (`Backbone.known_as`). So an adapter has a placement for each
generation of names, and each is exactly PEFT's on a model of that generation: names of two
generations never mix. `placements` makes them all; the tensors tell which is meant.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from vlm2vec_service.engine.adapter_config import AdapterConfig
from vlm2vec_service.engine.patterns import Pattern, matches

T = TypeVar("T")


@dataclass(frozen=True)
class Placement:
    """What PEFT does with an adapter on a model of one generation, by the names of layers here.

    ``ranks`` and ``scalings`` have every linear layer that the generation has, targeted or not.
    ``alphas_used`` counts the keys of ``alpha_pattern`` that match the name of a targeted layer.
    """

    targets: frozenset[str]
    ranks: dict[str, int]
    scalings: dict[str, float]
    alphas_used: int


@dataclass(frozen=True)
class _Answers:
    """What the patterns of an adapter match, by the names they were asked with."""

    target: Mapping[str, str]
    exclude: Mapping[str, str]
    ranks: Sequence[Mapping[str, str]]
    alphas: Sequence[Mapping[str, str]]
    layers: Sequence[Mapping[str, str]]


def placements(config: AdapterConfig, names: Mapping[str, Sequence[str | None]]) -> list[Placement]:
    """Places an adapter on the linear layers ``names``, which are known as their values: one name
    of each generation, the oldest first, or None where the model of one has no such layer.

    Returns a placement of each generation. Raises `AdapterError` that names a pattern which is
    malformed or takes too long.
    """
    answers = _ask(config, sorted({name for known in names.values() for name in known if name}))
    return [
        _place(
            config, answers, {layer: name for layer, name in zip(names, known, strict=True) if name}
        )
        for known in zip(*names.values(), strict=True)
    ]


def _ask(config: AdapterConfig, names: Sequence[str]) -> _Answers:
    """Asks all patterns at once, for that may take a process."""
    target, exclude = config.target_modules, config.exclude_modules
    whole = [
        Pattern(field, "whole", text)
        for field, text in (("target_modules", target), ("exclude_modules", exclude))
        if isinstance(text, str) and text and not (field == "target_modules" and _is_all(text))
    ]
    ranks = [Pattern("rank_pattern", "end", text) for text in config.rank_pattern]
    alphas = [Pattern("alpha_pattern", "end", text) for text in config.alpha_pattern]
    layers: list[Pattern] = []
    if config.layers_to_transform is not None and not isinstance(target, str):
        layers = [Pattern("layers_pattern", "layer", text) for text in config.layers_pattern]
        layers = layers or [Pattern("layers_pattern", "any layer", "")]
    found = iter(matches([*whole, *ranks, *alphas, *layers], names))
    by_field = {pattern.field: next(found) for pattern in whole}
    return _Answers(
        by_field.get("target_modules", {}),
        by_field.get("exclude_modules", {}),
        [next(found) for _ in ranks],
        [next(found) for _ in alphas],
        [next(found) for _ in layers],
    )


def _place(config: AdapterConfig, answers: _Answers, known: Mapping[str, str]) -> Placement:
    """Places the adapter on layers that are ``known`` to PEFT by their values."""
    targets = frozenset(layer for layer, name in known.items() if _targets(config, answers, name))
    rank_of = _first(config.rank_pattern.values(), answers.ranks)
    alpha_of = _first(config.alpha_pattern.values(), answers.alphas)
    ranks = {layer: rank_of.get(name, config.r) for layer, name in known.items()}
    return Placement(
        targets,
        ranks,
        {
            layer: alpha_of.get(name, config.lora_alpha)
            / (math.sqrt(ranks[layer]) if config.use_rslora else ranks[layer])
            for layer, name in known.items()
        },
        sum(any(known[layer] in found for layer in targets) for found in answers.alphas),
    )


def _targets(config: AdapterConfig, answers: _Answers, name: str) -> bool:
    """Says whether PEFT would put the adapter on a linear layer called ``name``."""
    if name in answers.exclude or _listed(config.exclude_modules, name):
        return False
    if isinstance(config.target_modules, str):
        # PEFT leaves out the output layer, which never reaches a vector.
        return _is_all(config.target_modules) or name in answers.target
    if name in config.target_modules or config.layers_to_transform is None:
        return _listed(config.target_modules, name)
    found = next((layers[name] for layers in answers.layers if name in layers), None)
    return (
        found is not None
        and int(found) in config.layers_to_transform
        and _listed(config.target_modules, name)
    )


def _is_all(text: str) -> bool:
    return text.lower() == "all-linear"


def _listed(modules: str | frozenset[str], name: str) -> bool:
    """Whether ``name`` or what it has behind one of its dots is in the list ``modules``."""
    if isinstance(modules, str):
        return False
    parts = name.split(".")
    return any(".".join(parts[start:]) in modules for start in range(len(parts)))


def _first(values: Iterable[T], found: Sequence[Mapping[str, str]]) -> dict[str, T]:
    """Gives each name the value of the first pattern that matches it, which is PEFT's choice."""
    chosen: dict[str, T] = {}
    for value, names in zip(values, found, strict=True):
        for name in names:
            chosen.setdefault(name, value)
    return chosen
