"""The gate: decides by recorded evaluations whether a version may become the champion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlm2vec_evaluation.compare import Earlier, difference
from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_evaluation.record import Recorded, read, read_whole
from vlm2vec_evaluation.suite import OVERALL, Suite, read_suite

if TYPE_CHECKING:
    from vlm2vec_registry.snapshot import PublishedVersion
    from vlm2vec_registry.store import Registry

EXAMPLE = "suite.yaml:min_hit1=0.60,max_drop=0.005"
METRICS = ("hit1", "hit5", "hit10", "mrr", "ndcg5", "score")
"""What may be required; ``score`` is each data set's own metric."""
NAMES = {"hit1": "hit@1", "hit5": "hit@5", "hit10": "hit@10", "mrr": "MRR", "ndcg5": "nDCG@5"}
ROUNDING = 1e-9


@dataclass(frozen=True)
class Requirement:
    """The scores on a suite that a candidate has to have.

    ``minimum`` is the least that ``metric``, one of `METRICS`, may be overall. ``max_drop`` is how
    much lower than the champion's it may be, on each data set and overall. With ``significant`` a
    drop counts only where it is more than chance.
    """

    suite: Suite
    minimum: float = 0.0
    max_drop: float = 0.0
    metric: str = METRICS[0]
    significant: bool = False


def parse(text: str) -> Requirement:
    """Parses a requirement ``SUITE[:KEY=VALUE,...]``, such as `EXAMPLE`.

    Keys are ``min_METRIC``, ``max_drop``, ``metric``, and ``significant=yes``, which is for the
    metric ``score``. Raises `EvaluationError`.
    """
    source, _, settings = text.rpartition(":") if "=" in text else (text, "", "")
    values: dict[str, Any] = {}
    for setting in filter(None, settings.split(",")):
        key, _, value = setting.partition("=")
        found = _setting(text, key, value)
        if not found or found.keys() & values.keys() - {"metric"}:
            raise EvaluationError(f"{text!r}: {setting!r} is not as in {EXAMPLE}")
        if values.get("metric", found.get("metric")) != found.get("metric", values.get("metric")):
            raise EvaluationError(f"{text!r}: a requirement has one metric; give several")
        values |= found
    requirement = Requirement(read_suite(source), **values)
    if requirement.significant and requirement.metric != "score":
        raise EvaluationError(f"{text!r}: significant=yes is for metric=score, a data set's own")
    return requirement


def _setting(text: str, key: str, value: str) -> dict[str, Any]:
    """The fields of a `Requirement` that one setting gives; none for one that is unknown."""
    if key == "metric" and value in METRICS:
        return {"metric": value}
    if key == "significant" and value in ("yes", "no"):
        return {"significant": value == "yes"}
    metric = key.removeprefix("min_")
    if key != "max_drop" and (metric == key or metric not in METRICS):
        return {}
    try:
        number = float(value)
    except ValueError as error:
        raise EvaluationError(f"{text!r}: {key}: {value!r} is no number") from error
    if not 0.0 <= number <= 1.0:
        raise EvaluationError(f"{text!r}: {key}: {value} is not between 0 and 1")
    return {"max_drop": number} if key == "max_drop" else {"minimum": number, "metric": metric}


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
    try:
        mine = _current(requirement.suite, candidate)
        problems = _too_low(requirement, mine)
        # Without a champion, or where it is the candidate, no score can drop.
        if champion is not None and champion.name != candidate.name:
            problems += _dropped(registry, requirement, mine, _current(requirement.suite, champion))
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
    metric = requirement.metric
    if metric not in mine.overall:
        return [f"its evaluation has no {metric}: it is an older one, evaluate again"]
    found = mine.overall[metric]
    if found >= requirement.minimum - ROUNDING:
        return []
    named = NAMES.get(metric, metric)
    return [f"overall {named} is {found:.4f}, min_{metric} is {requirement.minimum:.4f}"]


def _dropped(
    registry: "Registry", requirement: Requirement, mine: Recorded, champions: Recorded
) -> list[str]:
    other = sorted(name for name in mine.data if mine.data[name] != champions.data[name])
    if other:
        sets = ", ".join(other)
        return [f"the champion was evaluated on other data of {sets}: evaluate both on the same"]
    metric = requirement.metric
    if metric == METRICS[0]:
        pairs = {name: (champions.hit1[name], mine.hit1[name]) for name in mine.hit1}
        pairs[OVERALL] = champions.overall[metric], mine.overall[metric]
        return _fallen(requirement, pairs)
    before, after = (read_whole(registry, one) for one in (champions, mine))
    try:
        pairs = {
            name: (float(before["data_sets"][name][metric]), float(row[metric]))
            for name, row in after["data_sets"].items()
        }
        pairs[OVERALL] = champions.overall[metric], mine.overall[metric]
    except KeyError as error:
        return [f"the champion's evaluation has no {error}: it is an older one, evaluate it again"]
    fallen = _fallen(requirement, pairs)
    return _certain(before, after, fallen) if requirement.significant else fallen


def _fallen(requirement: Requirement, pairs: Mapping[str, tuple[float, float]]) -> list[str]:
    named = NAMES.get(requirement.metric, requirement.metric)
    return [
        f"{name}: {named} fell by {before - after:.4f}, from {before:.4f} to {after:.4f}; max_drop "
        f"is {requirement.max_drop:.4f}"
        for name, (before, after) in pairs.items()
        if before - after > requirement.max_drop + ROUNDING
    ]


def _certain(
    before: Mapping[str, Any], after: Mapping[str, Any], fallen: Sequence[str]
) -> list[str]:
    """Keeps those of the ``fallen`` whose drop is more than chance."""
    earlier, later = Earlier.parse(before), Earlier.parse(after)
    pairs = {name: (earlier.each[name], later.each[name]) for name in later.each}
    kept = []
    for reason in fallen:
        name = reason.partition(":")[0]
        found = difference(list(pairs.values()) if name == OVERALL else [pairs[name]])
        if found.certain:
            kept.append(f"{reason}; the drop is from {-found.high:.4f} to {-found.low:.4f}")
    return kept
