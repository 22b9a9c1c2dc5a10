"""The gate: decides by recorded evaluations whether a version may become the champion."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_evaluation.record import Recorded, read
from vlm2vec_evaluation.suite import Suite, read_suite

if TYPE_CHECKING:
    from vlm2vec_registry.snapshot import PublishedVersion
    from vlm2vec_registry.store import Registry

EXAMPLE = "suite.yaml:min_hit1=0.60,max_drop=0.005"
ROUNDING = 1e-9


@dataclass(frozen=True)
class Requirement:
    """The scores on a suite that a candidate has to have.

    ``min_hit1`` is the least overall hit@1. ``max_drop`` is how much lower than the champion's
    hit@1 may be, on each data set and overall.
    """

    suite: Suite
    min_hit1: float = 0.0
    max_drop: float = 0.0


def parse(text: str) -> Requirement:
    """Parses a requirement ``SUITE[:KEY=VALUE,...]``, such as `EXAMPLE`.

    Raises `EvaluationError`.
    """
    source, _, settings = text.rpartition(":") if "=" in text else (text, "", "")
    values: dict[str, float] = {}
    for setting in filter(None, settings.split(",")):
        key, _, value = setting.partition("=")
        if key not in ("min_hit1", "max_drop") or key in values:
            raise EvaluationError(f"{text!r}: {setting!r} is not as in {EXAMPLE}")
        try:
            values[key] = float(value)
        except ValueError as error:
            raise EvaluationError(f"{text!r}: {key}: {value!r} is no number") from error
        if not 0.0 <= values[key] <= 1.0:
            raise EvaluationError(f"{text!r}: {key}: {value} is not between 0 and 1")
    return Requirement(read_suite(source), **values)


def check(registry: "Registry", model: str, version: str, requirement: Requirement) -> list[str]:
    """Lists why ``version``, a name or an alias, may not become the champion of ``model``.

    The list is empty if it may. Reads the registry alone, and embeds nothing. Raises what
    `Registry.version` raises.
    """
    from vlm2vec_registry.errors import MissingError
    from vlm2vec_registry.snapshot import CHAMPION

    candidate = registry.version(model, version)
    try:
        champion = registry.version(model, CHAMPION)
    except MissingError:
        champion = None
    return reasons(requirement, candidate, champion)


def reasons(
    requirement: Requirement,
    candidate: "PublishedVersion",
    champion: "PublishedVersion | None",
) -> list[str]:
    """Lists why ``candidate`` may not become the champion in place of ``champion``.

    Without a champion, or where it is the candidate, no score can drop.
    """
    try:
        mine = _current(requirement.suite, candidate)
        problems = _too_low(requirement, mine)
        if champion is not None and champion.name != candidate.name:
            problems += _dropped(requirement, mine, _current(requirement.suite, champion))
    except EvaluationError as error:
        return [str(error)]
    return problems


def _current(suite: Suite, version: "PublishedVersion") -> Recorded:
    """The evaluation of ``version``. Raises `EvaluationError` if there is none or it is stale."""
    where = f"{version.model} version {version.name}"
    found = read(version, suite)
    again = f"run vlm2vec evaluate --model {version.model}@{version.name} --record"
    if found is None:
        raise EvaluationError(f"{where} has no recorded evaluation on {suite.name}: {again}")
    if found.suite_digest != suite.digest:
        raise EvaluationError(
            f"{where}: its evaluation is of another edition of suite {suite.name} "
            f"({found.suite_digest}, now {suite.digest}): {again}"
        )
    if found.space != version.space:
        raise EvaluationError(
            f"{where}: its evaluation is of space {found.space}, its space is {version.space}: "
            f"{again}"
        )
    names = {item.name for item in suite.data_sets}
    if set(found.hit1) != names or set(found.data) != names or "hit1" not in found.overall:
        raise EvaluationError(f"{where}: its evaluation on {suite.name} is incomplete: {again}")
    return found


def _too_low(requirement: Requirement, mine: Recorded) -> list[str]:
    hit1 = mine.overall["hit1"]
    if hit1 >= requirement.min_hit1 - ROUNDING:
        return []
    return [f"overall hit@1 is {hit1:.4f}, min_hit1 is {requirement.min_hit1:.4f}"]


def _dropped(requirement: Requirement, mine: Recorded, champions: Recorded) -> list[str]:
    other = sorted(name for name in mine.data if mine.data[name] != champions.data[name])
    if other:
        sets = ", ".join(other)
        return [f"the champion was evaluated on other data of {sets}: evaluate both on the same"]
    pairs = {name: (champions.hit1[name], mine.hit1[name]) for name in mine.hit1}
    pairs["overall"] = champions.overall["hit1"], mine.overall["hit1"]
    return [
        f"{name}: hit@1 fell by {before - after:.4f}, from {before:.4f} to {after:.4f}; max_drop "
        f"is {requirement.max_drop:.4f}"
        for name, (before, after) in pairs.items()
        if before - after > requirement.max_drop + ROUNDING
    ]
