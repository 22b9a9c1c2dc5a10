"""When a model has started: it is ready, or waiting helps no more."""

from pathlib import Path

from tests.unit.scripted_worker import ScriptedWorker
from vlm2vec_registry.snapshot import CHAMPION
from vlm2vec_service.versions.catalog import BASE_VERSION, ServedModel, Version, read_version
from vlm2vec_service.versions.residency import Residency, State

BASE = read_version(BASE_VERSION, None, b"base")
OTHER = Version("1", Path("adapter"), "space", BASE.config)


def residency(champion: Version | None = BASE) -> Residency:
    model = ServedModel("m", Path("base"), "toy", b"base", {BASE_VERSION: BASE})
    if champion is not None:
        model.aliases[CHAMPION] = champion
    return Residency(model, [ScriptedWorker()])


def test_a_model_whose_worker_starts_is_waited_for() -> None:
    one = residency()
    worker = one.workers[0]
    assert isinstance(worker, ScriptedWorker)
    worker.ready = False
    assert one.starting
    worker.ready = True
    assert one.ready
    assert not one.starting


def test_a_champion_is_waited_for_until_it_is_known_that_it_cannot_be_loaded() -> None:
    one = residency(OTHER)
    assert one.starting
    one.under_way(OTHER, State.FETCHING)
    assert one.starting
    one.under_way(OTHER, None)
    one.fail(OTHER, "a file is missing")
    assert not one.starting
    assert not one.ready


def test_a_registry_is_waited_for_and_what_it_does_not_have_is_not() -> None:
    one = residency(champion=None)
    one.await_registry()
    assert one.starting
    one.take({BASE_VERSION: BASE})
    assert not one.starting
    assert not one.ready
