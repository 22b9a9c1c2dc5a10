"""Who changed a model's traffic, and when: a run of MLflow's for each change.

A run is made before the change and ends after it, so that a change which failed half way is there
too, as a run that failed. MLflow says who made it: the name in its credentials, else the user.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vlm2vec_registry.lineage import USER, recorded_run
from vlm2vec_registry.mlflow_errors import mlflow_errors
from vlm2vec_registry.snapshot import CHAMPION
from vlm2vec_registry.store import Registry, quoted

EXPERIMENT = "vlm2vec-traffic"
MODEL, ACTION, VERSION, BEFORE, NOTE = (
    f"vlm2vec.{key}" for key in ("model", "action", "version", "before", "note")
)
"""Tags of such a run."""
GATE = "vlm2vec.gate"
"""The tag of a version that holds the last verdict on its promotion."""
REFUSED = "refused"
"""How the note of a promotion begins that did not meet what was required."""
MOST_EVENTS = 1000
MOST_CHARACTERS = 1000
"""Of a note."""


@dataclass(frozen=True)
class Event:
    """One change: what ``who`` did ``at`` a time in milliseconds. ``version`` is the one that it
    was about, and ``before`` the one that had its place. ``status`` is MLflow's: FINISHED, FAILED,
    or RUNNING, of a change that was cut off."""

    at: int
    who: str
    action: str
    version: str
    before: str
    note: str
    status: str = "FINISHED"

    @property
    def made_champion(self) -> bool:
        """Whether ``version`` became the champion by it."""
        made = self.action in ("promote", "rollback", f"alias {CHAMPION}")
        return made and self.status == "FINISHED" and not _refused(self.note)


@contextlib.contextmanager
def recorded(
    registry: Registry, model: str, action: str, version: str = "", before: str = "", note: str = ""
) -> Iterator[None]:
    """Records the change that the block makes. Raises `OutageError`, before the block is run."""
    values = (model, action, version, before, note[:MOST_CHARACTERS])
    tags = dict(zip((MODEL, ACTION, VERSION, BEFORE, NOTE), values, strict=True))
    experiment = registry.experiment(EXPERIMENT)
    name = f"{action} {model} {version}".strip() + (f", {REFUSED}" if _refused(note) else "")
    with recorded_run(registry.client, experiment, name, tags):
        yield


def history(registry: Registry, model: str) -> list[Event]:
    """What was done to ``model``, the newest first: versions published, and the last `MOST_EVENTS`
    changes of its traffic. Raises `MissingError`."""
    published = [
        Event(version.created, version.tags.get(USER, ""), "publish", version.name, "", "")
        for version in registry.versions(model)
    ]
    return sorted([*_changes(registry, model), *published], key=lambda event: -event.at)


def _refused(note: str) -> bool:
    return note.startswith(REFUSED)


def _changes(registry: Registry, model: str) -> list[Event]:
    with mlflow_errors():
        experiment = registry.client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return []
        runs = registry.client.search_runs(
            [experiment.experiment_id], quoted(f"tags.`{MODEL}` = ", model),
            max_results=MOST_EVENTS, order_by=["attributes.start_time DESC"],
        )  # fmt: skip
    return [_event(run) for run in runs if run.data.tags.get(MODEL) == model]


def _event(run: Any) -> Event:
    tags = run.data.tags
    return Event(
        run.info.start_time, tags.get(USER, ""), tags.get(ACTION, ""), tags.get(VERSION, ""),
        tags.get(BEFORE, ""), tags.get(NOTE, ""), run.info.status,
    )  # fmt: skip
