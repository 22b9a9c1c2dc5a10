"""Which versions the workers hold: on demand, least lately used out, never under a request."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from tests.unit.scripted_worker import ScriptedWorker
from tests.unit.tiny_adapter import write_adapter
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.errors import AdapterError, ExhaustedError
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.preprocess import Prepared, Request
from vlm2vec_service.preprocess.sampling import FrameCount
from vlm2vec_service.settings import RegistrySettings
from vlm2vec_service.versions import residency as module
from vlm2vec_service.versions.catalog import BASE_VERSION, ServedModel, Version, read_version
from vlm2vec_service.versions.fetching import VersionFiles
from vlm2vec_service.versions.loader import Loader
from vlm2vec_service.versions.residency import Residency, State, VersionState


class OneToken:
    """A preprocessor for whatever comes."""

    def prepare(self, request: Request, embedding: EmbeddingConfig) -> Prepared:
        positions = np.zeros((3, 1), np.int32)
        return Prepared(np.ones(1, np.int32), positions)

    def sampling(self, embedding: EmbeddingConfig, frames: int) -> FrameCount:
        return FrameCount(frames)


class LoaderScene:
    """A loader of versions a to d, each of 100 bytes, on two workers."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        versions = {BASE_VERSION: Version(BASE_VERSION, None, "base", EmbeddingConfig())}
        for byte, name in enumerate("abcd"):
            versions[name] = read_version(name, write_adapter(folder / name, 100, byte), b"")
        self.model = ServedModel("m", folder, "qwen2_vl", b"", versions)
        self.workers = [ScriptedWorker(name="first"), ScriptedWorker(name="second")]
        self.metrics = CollectorRegistry()
        self.residency = Residency(self.model, self.workers)
        self.loader = Loader(
            self.residency,
            VersionFiles(b""),
            self.workers,
            OneToken(),
            RegistrySettings(**settings),
            Metrics(self.metrics),
        )

    def state(self, name: str) -> VersionState:
        return self.residency.state(self.model.versions[name])

    async def ensure(self, names: str) -> None:
        for name in names:
            await self.loader.ensure(self.model.versions[name])

    @property
    def held(self) -> str:
        """Names of what is held, the same by all."""
        held = sorted(one.version.name for one in self.residency.held.values())
        assert all(sorted(worker.held) == held for worker in self.workers)
        return "".join(held)


Check = Callable[[LoaderScene], Coroutine[Any, Any, None]]


def run(folder: Path, check: Check, **settings: Any) -> None:
    async def scene() -> None:
        async with asyncio.timeout(10):
            await check(LoaderScene(folder, **settings))

    asyncio.run(scene())


def test_the_least_lately_used_leaves(tmp_path: Path) -> None:
    async def check(world: LoaderScene) -> None:
        await world.ensure("abac")
        assert world.held == "ac"
        await world.ensure("ab")
        assert world.held == "ab"
        assert world.workers[0].loads == ["a", "b", "c", "b"]
        await world.loader.ensure(world.model.versions[BASE_VERSION])
        assert world.held == "ab"

    run(tmp_path, check, max_adapters=2)


def test_bytes_are_a_limit_too(tmp_path: Path) -> None:
    async def check(world: LoaderScene) -> None:
        await world.ensure("abc")
        assert world.held == "bc"

    run(tmp_path, check, max_adapter_bytes=250)


def test_what_has_traffic_or_answers_stays(tmp_path: Path) -> None:
    async def check(world: LoaderScene) -> None:
        await world.ensure("a")
        world.model.aliases["champion"] = world.model.versions["a"]
        async with world.loader.using(world.model.versions["b"]):
            with pytest.raises(ExhaustedError, match="max_adapters is 2"):
                await world.ensure("c")
            # A promotion has to get through all the same.
            await world.loader.ensure(world.model.versions["d"], traffic=True)
            assert world.held == "abd"
        await world.ensure("c")
        assert world.held == "ac"

    run(tmp_path, check, max_adapters=2)


def test_unloading_waits_for_requests_and_new_ones_load_again(tmp_path: Path) -> None:
    async def check(world: LoaderScene) -> None:
        version = world.model.versions["a"]
        async with world.loader.using(version):
            unloading = asyncio.create_task(world.loader.unload(version))
            await asyncio.sleep(0.05)
            assert world.workers[0].held == ["a"]
            again = asyncio.create_task(world.ensure("a"))
            await asyncio.sleep(0.05)
            assert not unloading.done()
        await unloading
        await again
        assert world.held == "a"
        assert world.workers[0].loads == ["a", "a"]

    run(tmp_path, check)


def test_many_who_want_it_load_it_once_and_may_leave(tmp_path: Path) -> None:
    async def check(world: LoaderScene) -> None:
        gate = world.workers[0].gate = asyncio.Event()
        waiting = [asyncio.create_task(world.ensure("a")) for _ in range(5)]
        await asyncio.sleep(0.05)
        assert world.state("a").state is State.LOADING
        waiting[0].cancel()
        gate.set()
        await asyncio.gather(*waiting[1:])
        assert world.held == "a"
        assert world.workers[0].loads == ["a"]
        assert world.state("a") == VersionState(State.HELD)

    run(tmp_path, check)


def test_a_refusal_is_cleaned_up_remembered_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(world: LoaderScene) -> None:
        for worker in world.workers:
            worker.unloadable.add("a")
        for _ in range(3):  # only the first asks the workers
            with pytest.raises(AdapterError, match="version 'a' could not be loaded: no"):
                await world.ensure("a")
        assert world.held == ""
        assert world.workers[1].loads == ["a"]
        failures = world.metrics.get_sample_value(
            "vlm2vec_adapter_load_failures_total", {"model": "m"}
        )
        assert failures == 1
        assert world.state("a") == VersionState(State.FAILED, "no")
        for worker in world.workers:
            worker.unloadable.clear()
        await asyncio.sleep(0.06)
        await world.ensure("a")
        assert world.held == "a"
        assert world.residency.failures == {}

    monkeypatch.setattr(module, "FIRST_RETRY", 0.05)
    run(tmp_path, check)


@pytest.mark.parametrize(
    ("component", "reason"),
    [(float("nan"), "not finite"), (float("inf"), "not finite"), (0.0, "cannot be normalised")],
)
def test_what_has_no_unit_vector_never_answers(
    tmp_path: Path, component: float, reason: str
) -> None:
    async def check(world: LoaderScene) -> None:
        for worker in world.workers:
            worker.vectors[1] = component
        with pytest.raises(AdapterError, match=reason):
            await world.ensure("a")
        assert world.held == ""

    run(tmp_path, check)


@pytest.mark.parametrize("reason", ["no", "its vectors are not finite numbers"])
def test_what_one_of_two_workers_cannot_answer_the_other_does(tmp_path: Path, reason: str) -> None:
    async def check(world: LoaderScene) -> None:
        first, second = world.workers
        if reason == "no":
            first.unloadable.add("a")
        else:
            first.vectors[1] = float("nan")
        world.model.aliases["champion"] = world.model.versions["a"]
        await world.ensure("a")
        assert (first.held, second.held) == ([], ["a"])
        assert list(first.refused.values()) == [reason]
        found = world.state("a")
        assert found == VersionState(State.HELD, f"worker first: {reason}")
        assert world.residency.ready
        failures = world.metrics.get_sample_value(
            "vlm2vec_adapter_load_failures_total", {"model": "m"}
        )
        assert failures == 1
        # The other goes: nobody answers with it, and everybody says so.
        second.ready = False
        assert world.state("a") == VersionState(State.FAILED, reason)
        assert not world.residency.ready
        first.ready = False
        assert world.state("a") == VersionState(State.LOADING)

    run(tmp_path, check)


def test_a_folder_that_changed_under_a_version_is_not_loaded_as_that_version(
    tmp_path: Path,
) -> None:
    async def check(world: LoaderScene) -> None:
        write_adapter(tmp_path / "a", byte=99)
        with pytest.raises(AdapterError, match=r"not .* as when the server started"):
            await world.ensure("a")
        assert world.held == ""
        await world.ensure("b")
        assert world.held == "b"

    run(tmp_path, check)


def test_what_no_worker_could_load_again_is_loaded_anew_after_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(world: LoaderScene) -> None:
        await world.ensure("a")
        key = world.model.versions["a"].key
        # Both restarted, and neither could load it.
        for worker in world.workers:
            worker.holds.remove(key)
            worker.refused[key] = "no memory"
        assert world.state("a") == VersionState(State.FAILED, "no memory")
        with pytest.raises(AdapterError, match="could not be loaded: no memory"):
            await world.ensure("a")
        assert world.state("a") == VersionState(State.FAILED, "no memory")
        await asyncio.sleep(0.06)
        await world.ensure("a")
        assert world.state("a") == VersionState(State.HELD)
        assert world.held == "a"

    monkeypatch.setattr(module, "FIRST_RETRY", 0.05)
    run(tmp_path, check)
