"""Following a registry whose labels may lie: contents decide, and what answers goes on."""

import asyncio
import json
import shutil
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from tests.unit.scripted_worker import ScriptedWorker
from tests.unit.test_loader import OneToken
from tests.unit.tiny_adapter import write_adapter
from vlm2vec_registry import artifact
from vlm2vec_registry.cache import Cache
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.errors import OutageError
from vlm2vec_registry.snapshot import PublishedVersion, Snapshot
from vlm2vec_registry.space import space_of, spaces_of
from vlm2vec_service.errors import AdapterError, NotFoundError, UnavailableError
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.settings import RegistrySettings
from vlm2vec_service.supervision.backoff import LONGEST_PAUSE, Backoff
from vlm2vec_service.versions.catalog import BASE_VERSION, ServedModel, Version, read_version
from vlm2vec_service.versions.fetching import VersionFiles
from vlm2vec_service.versions.follower import Follower
from vlm2vec_service.versions.loader import Loader
from vlm2vec_service.versions.residency import Residency, State

BASE = b"base"


class Following:
    """A model that follows a registry in memory, on one worker. ``published`` are the versions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.published: dict[str, PublishedVersion] = {}
        base = read_version(BASE_VERSION, None, BASE)
        self.model = ServedModel("m", folder, "toy", BASE, {BASE_VERSION: base})
        self.worker = ScriptedWorker()
        self.counts = CollectorRegistry()
        metrics = Metrics(self.counts)
        self.residency = Residency(self.model, [self.worker])
        files = VersionFiles(BASE, Cache(folder / "cache", 0), self._fetch)
        settings = RegistrySettings()
        self.loader = Loader(
            self.residency, files, [self.worker], OneToken(), settings, metrics
        )  # fmt: skip
        self.follower = Follower(
            self.residency, self.loader, lambda: pytest.fail("not asked"), folder / "state.json",
            1.0, metrics,
        )  # fmt: skip

    @staticmethod
    def _fetch(version: PublishedVersion, place: Path) -> None:
        shutil.copytree(version.uri, place, dirs_exist_ok=True)

    def publish(self, name: str, contents: int) -> PublishedVersion:
        """Makes version ``name`` an adapter of these ``contents``, as publishing would."""
        folder = self.folder / f"published-{len(list(self.folder.iterdir()))}"
        write_adapter(folder, byte=contents)
        config = EmbeddingConfig(backbone="toy")
        (folder / "embedding.json").write_text(config.to_json())
        self.published[name] = PublishedVersion(
            "m", name, str(folder), "", 0, space_of(BASE, folder), BASE.hex(),
            artifact.digests(folder), json.loads(config.to_json()),
        )  # fmt: skip
        return self.published[name]

    def publish_base(self, name: str, **said: str) -> None:
        """Makes version ``name`` the base; what is ``said`` of it is not so."""
        base = {"space": self.model.versions[BASE_VERSION].space, "base": BASE.hex(), **said}
        digests = dict.fromkeys(artifact.BASE_FILES, "00")
        self.published[name] = PublishedVersion(
            "m", name, "", "", 0, base["space"], base["base"], digests, {}
        )

    async def follow(self, **aliases: str) -> None:
        await self.follower.follow(Snapshot("m", dict(self.published), aliases))

    @property
    def champion(self) -> Version:
        return self.model.choose()

    @property
    def changed(self) -> float | None:
        name = "vlm2vec_registry_versions_changed_total"
        return self.counts.get_sample_value(name, {"model": "m"})


class Flaky:
    """A registry that is away for the first ``times`` looks, with another reason each time."""

    def __init__(self, times: int) -> None:
        self.times = times

    def snapshot(self, model: str) -> Snapshot:
        if self.times:
            self.times -= 1
            raise OutageError(f"away, {self.times}")
        return Snapshot(model, {}, {})


def run(folder: Path, check: Callable[[Following], Coroutine[Any, Any, None]]) -> None:
    async def scene() -> None:
        async with asyncio.timeout(20):
            await check(Following(folder))

    asyncio.run(scene())


def test_a_number_that_is_used_again_is_another_version(tmp_path: Path) -> None:
    async def check(one: Following) -> None:
        first = one.publish("1", contents=1)
        await one.follow(champion="1")
        before = one.champion
        assert (before.space, one.worker.holds) == (first.space, [before.key])
        # Deleted, and published anew: the same name, other bytes.
        second = one.publish("1", contents=2)
        await one.follow(champion="1")
        after = one.champion
        assert after.space == second.space != first.space
        assert one.worker.holds == [after.key] != [before.key]
        assert one.changed == 1
        assert one.model.choose(version="1").space == second.space
        assert one.model.choose(space=second.space).key == after.key
        with pytest.raises(AdapterError, match="retired"):
            one.model.choose(space=first.space)

    run(tmp_path, check)


def lie_of_space(version: PublishedVersion, other: PublishedVersion) -> PublishedVersion:
    return replace(version, space=other.space)


def lie_of_embedding(version: PublishedVersion, other: PublishedVersion) -> PublishedVersion:
    return replace(version, embedding={**version.embedding, "prompt": {"suffix": "!"}})


def lie_of_digests(version: PublishedVersion, other: PublishedVersion) -> PublishedVersion:
    return replace(version, digests=other.digests)


def lie_of_base(version: PublishedVersion, other: PublishedVersion) -> PublishedVersion:
    return replace(version, base="00" * 4)


@pytest.mark.parametrize("lie", [lie_of_space, lie_of_embedding, lie_of_digests, lie_of_base])
def test_labels_that_change_on_a_live_version_change_no_answer(
    tmp_path: Path, lie: Callable[[PublishedVersion, PublishedVersion], PublishedVersion]
) -> None:
    async def check(one: Following) -> None:
        true, other = one.publish("1", contents=1), one.publish("2", contents=2)
        await one.follow(champion="1", other="2")
        before = one.champion
        one.published["1"] = lie(true, other)
        await one.follow(champion="1", other="2")
        # The champion is what it was; the version as it is labelled now cannot be loaded.
        assert one.champion.key == before.key
        assert one.worker.holds == [before.key]
        assert one.model.choose(space=true.space).key == before.key
        labelled = one.model.choose(version="1")
        with pytest.raises(AdapterError, match="version '1' could not be loaded"):
            await one.loader.ensure(labelled)
        assert one.residency.state(labelled).state is State.FAILED
        assert one.residency.ready
        assert one.changed == 1
        # A pin of the other's space never gets the first one's vectors.
        answers = []
        for version in one.model.in_space(other.space):
            try:
                await one.loader.ensure(version)
                answers.append(version.published.digests if version.published else None)
            except AdapterError:
                pass
        assert answers == [other.digests]
        # The label is mended: all is as it was.
        one.published["1"] = true
        await one.follow(champion="1", other="2")
        assert one.model.choose(version="1").key == before.key

    run(tmp_path, check)


def test_what_left_the_registry_leaves_the_workers(tmp_path: Path) -> None:
    async def check(one: Following) -> None:
        for number in (1, 2, 3):
            one.publish(str(number), contents=number)
        await one.follow(champion="1")
        await one.loader.ensure(one.model.choose(version="2"))
        assert one.worker.held == ["1", "2"]
        gone = one.published.pop("2")
        await one.follow(champion="1")
        assert one.worker.held == ["1"]
        with pytest.raises(NotFoundError):
            one.model.choose(version="2")
        with pytest.raises(AdapterError, match="retired"):
            one.model.choose(space=gone.space)
        # The champion itself is deleted: it answers until the alias points elsewhere.
        kept = one.published.pop("1")
        await one.follow(champion="1")
        assert one.champion.space == kept.space
        assert one.model.choose(space=kept.space).key == one.champion.key
        await one.follow(champion="3")
        assert one.worker.held == ["3"]
        with pytest.raises(AdapterError, match="retired"):
            one.model.choose(space=kept.space)

    run(tmp_path, check)


def test_an_alias_is_not_unknown_while_its_first_version_loads(tmp_path: Path) -> None:
    async def check(one: Following) -> None:
        for number in (1, 2):
            one.publish(str(number), contents=number)
        one.worker.gate = asyncio.Event()
        following = asyncio.create_task(one.follow(champion="1", canary="2", nightly="2"))
        while not one.worker.loads:
            await asyncio.sleep(0)
        for alias in ("", "champion"):
            with pytest.raises(UnavailableError, match="version '1', its champion, is not loaded"):
                one.model.choose(alias)
        with pytest.raises(UnavailableError, match="version '2', its canary, is not loaded"):
            one.model.choose("canary")
        with pytest.raises(NotFoundError, match="there are nightly"):
            one.model.choose("shadow")
        assert one.model.choose("nightly").name == "2"
        assert one.residency.starting
        assert one.residency.unready == "version 1 is being loaded"
        one.worker.gate.set()
        await following
        assert (one.champion.name, one.model.choose("canary").name) == ("1", "2")
        assert one.residency.ready
        await one.follow(champion="1")
        with pytest.raises(NotFoundError):
            one.model.choose("canary")

    run(tmp_path, check)


def test_a_champion_that_cannot_be_loaded_keeps_nobody_waiting(tmp_path: Path) -> None:
    async def check(one: Following) -> None:
        one.publish("1", contents=1)
        one.worker.unloadable = {"1"}
        await one.follow(champion="1")
        assert not one.residency.starting
        assert one.residency.unready == "version 1 could not be loaded: no"
        with pytest.raises(UnavailableError, match="is not loaded"):
            one.model.choose("champion")

    run(tmp_path, check)


def test_the_base_is_champion_and_has_nothing_to_load(tmp_path: Path) -> None:
    async def check(one: Following) -> None:
        one.publish("1", contents=1)
        one.publish_base("2")
        await one.follow(champion="2", canary="1")
        assert (one.champion.name, one.champion.key) == ("2", "")
        assert one.champion.space == one.model.versions[BASE_VERSION].space
        assert one.residency.ready
        assert one.worker.held == ["1"]
        assert one.model.aliases_of(one.champion) == ["champion"]
        assert one.model.aliases_of(one.model.versions[BASE_VERSION]) == []
        # The number is used again, for an adapter.
        one.publish("2", contents=2)
        await one.follow(champion="2")
        assert one.changed == 1
        assert not one.champion.is_base
        assert "2" in one.worker.held

    run(tmp_path, check)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"base": "00" * 32}, "another base (digest 000000000000"),
        ({"space": "00" * 16}, "not 00000000000000000000000000000000; publish and serve"),
    ],
)
def test_a_base_that_is_not_the_one_served_leaves_the_champion(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, said: dict[str, str], problem: str
) -> None:
    async def check(one: Following) -> None:
        one.publish("1", contents=1)
        one.publish_base("2", **said)
        await one.follow(champion="1")
        await one.follow(champion="2")
        await one.follow(champion="2")
        assert one.champion.name == "1"
        assert problem in one.follower.broken["2"]
        with pytest.raises(NotFoundError):
            one.model.choose(version="2")

    run(tmp_path, check)
    # Once of the version, and once of the champion that stays.
    assert sum(problem in message for message in caplog.messages) == 2


def test_a_version_published_by_the_first_rule_keeps_its_space(tmp_path: Path) -> None:
    async def check(one: Following) -> None:
        version = one.publish("1", contents=1)
        old = spaces_of(BASE, Path(version.uri))[1]
        one.published["1"] = replace(version, space=old)
        await one.follow(champion="1")
        assert one.champion.space == old
        assert one.model.choose(space=old).key == one.champion.key

    run(tmp_path, check)


def test_a_worker_that_restarts_gets_the_files_again(tmp_path: Path) -> None:
    async def check(one: Following) -> None:
        one.publish("1", contents=1)
        await one.follow(champion="1")
        (weights,) = (tmp_path / "cache").glob("objects/*/adapter_model.safetensors")
        whole = weights.read_bytes()
        wanted = one.worker.wanted[one.champion.key]
        weights.write_bytes(whole[:-1] + b"\xff")
        assert (await wanted.find() / weights.name).read_bytes() == whole
        shutil.rmtree(weights.parent)
        assert (await wanted.find() / weights.name).read_bytes() == whole

    run(tmp_path, check)


def test_an_outage_is_said_once_and_so_is_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def check(one: Following) -> None:
        registry = Flaky(3)
        one.follower._registry = lambda: registry

        def value(name: str) -> float | None:
            return one.counts.get_sample_value(f"vlm2vec_registry_{name}", {"model": "m"})

        assert value("away_seconds") == 0
        assert [await one.follower.step() for _ in range(3)] == [False] * 3
        assert value("errors_total") == 3
        away = value("away_seconds")
        assert away
        assert away > 0
        assert await one.follower.step()
        assert value("away_seconds") == 0
        assert await one.follower.step()

    run(tmp_path, check)
    said = [message for message in caplog.messages if "the registry" in message]
    assert len(said) == 2
    assert "cannot be asked: away, 2" in said[0]
    assert "answers again" in said[1]


def test_a_registry_that_is_away_is_asked_less_and_less_often() -> None:
    pauses = Backoff(5.0, LONGEST_PAUSE)
    assert [pauses.after() for _ in range(6)] == [5, 10, 20, 40, 60, 60]
    pauses.forget()
    assert pauses.after() == 5
    rare = Backoff(3600.0, max(3600.0, LONGEST_PAUSE))
    assert [rare.after(), rare.after()] == [3600, 3600]
