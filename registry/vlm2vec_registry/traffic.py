"""Who gets a model's traffic: champion, canary and shadow, as aliases and two tags in MLflow."""

from vlm2vec_registry.errors import MissingError
from vlm2vec_registry.snapshot import CANARY, CHAMPION, SHADOW
from vlm2vec_registry.store import PREVIOUS, SHARE, Registry


def promote(registry: Registry, model: str, name: str) -> str:
    """Makes a version (by name or alias) the champion; returns its name.

    The champion before is remembered for `rollback`. Where the version was canary or shadow, that
    ends. Raises `MissingError`.
    """
    version = registry.version(model, name).name
    before = registry.snapshot(model).aliases
    if before.get(CHAMPION) != version:
        registry.set_model_tag(model, PREVIOUS, before.get(CHAMPION, ""))
    registry.set_alias(model, CHAMPION, version)
    if before.get(CANARY) == version:
        stop_canary(registry, model)
    if before.get(SHADOW) == version:
        registry.delete_alias(model, SHADOW)
    return version


def champion_before(registry: Registry, model: str) -> tuple[str, str]:
    """Finds the version that a rollback makes the champion, and the champion that there is.

    Raises `MissingError` where there was none.
    """
    previous = registry.model_tags(model).get(PREVIOUS, "")
    current = registry.snapshot(model).aliases.get(CHAMPION, "")
    if not previous:
        raise MissingError(
            f"model {model!r} had no champion before {current or 'now'}; promote one"
        )
    return registry.version(model, previous).name, current


def rollback(registry: Registry, model: str) -> tuple[str, str]:
    """Makes the champion before the champion again; returns both names, the new one first.

    A second rollback undoes the first. Raises as `champion_before`.
    """
    version, current = champion_before(registry, model)
    registry.set_alias(model, CHAMPION, version)
    registry.set_model_tag(model, PREVIOUS, current)
    return version, current


def start_canary(registry: Registry, model: str, name: str, share: float) -> str:
    """Gives a version ``share``, 0 to 1, of the calls that name none; returns its name.

    Raises `MissingError`, and ValueError for a share that is none.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share is {share}, not between 0 and 1")
    version = registry.version(model, name).name
    if registry.snapshot(model).aliases.get(CANARY) != version:
        # Else the new one would have the old one's share for a moment.
        registry.set_model_tag(model, SHARE, "0")
        registry.set_alias(model, CANARY, version)
    registry.set_model_tag(model, SHARE, repr(share))
    return version


def stop_canary(registry: Registry, model: str) -> None:
    """All calls that name no version go to the champion."""
    registry.set_model_tag(model, SHARE, "0")
    registry.delete_alias(model, CANARY)
