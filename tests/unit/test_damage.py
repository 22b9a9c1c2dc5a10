"""Damage that must not last: to the state file, to tags, to the cache, and to tasks."""

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from tests.unit.test_cache import copier, make, refuse
from tests.unit.test_follower import Following, run
from vlm2vec_registry import artifact
from vlm2vec_registry.cache import Cache
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.errors import OutageError
from vlm2vec_registry.snapshot import BASE, DIGESTS, EMBEDDING, SPACE, PublishedVersion, Snapshot
from vlm2vec_registry.strict import FormatError
from vlm2vec_service import tasks
from vlm2vec_service.errors import NotFoundError, UnavailableError, without_paths
from vlm2vec_service.metrics import Metrics

TAGS = {
    SPACE: "0" * 32,
    BASE: "0" * 64,
    DIGESTS: json.dumps(dict.fromkeys(artifact.FILES, "0" * 64)),
    EMBEDDING: EmbeddingConfig().to_json(),
}
BAD_TAGS: list[dict[str, Any]] = [
    *({key: value for key, value in TAGS.items() if key != left_out} for left_out in TAGS),
    *({**TAGS, DIGESTS: text} for text in
      ("", "5", "[]", "null", "{", '{"a": 1}', '"x"', "[" * 9999,
       json.dumps(dict.fromkeys(artifact.FILES, 5)),
       json.dumps(dict.fromkeys(artifact.FILES, "../../etc")))),
    *({**TAGS, EMBEDDING: text} for text in
      ("", "5", "[]", "null", "{", '{"pooling": "first"}', '{"pooling": NaN}', '{"x": 1}')),
    *({**TAGS, SPACE: text} for text in ("", "x" * 32, "0" * 31, "0" * 32 + "\n")),
    *({**TAGS, BASE: text} for text in ("", "no digest", "0" * 65)),
]  # fmt: skip


def test_good_tags_are_read() -> None:
    version = PublishedVersion.from_tags("m", "1", "u", "r", 5, TAGS)
    assert (version.space, version.base) == (TAGS[SPACE], TAGS[BASE])
    assert set(version.digests) == set(artifact.FILES)


@pytest.mark.parametrize("tags", BAD_TAGS, ids=range(len(BAD_TAGS)))
def test_bad_tags_are_refused_and_nothing_else(tags: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r"version 7: .*vlm2vec\."):
        PublishedVersion.from_tags("m", "7", "u", "r", 5, tags)


VERSION: dict[str, Any] = {
    "model": "m", "name": "1", "uri": "u", "run_id": "r", "created": 5, "space": "0" * 32,
    "base": "0" * 64, "digests": json.loads(TAGS[DIGESTS]), "embedding": {}, "tags": {},
}  # fmt: skip
STATE: dict[str, Any] = {
    "model": "m", "versions": {"1": VERSION}, "aliases": {"champion": "1"}, "canary_share": 0.0,
    "broken": {},
}  # fmt: skip
BAD_STATES = [
    "", "\0" * 100, "{", "5", "[]", "null", '"m"', "[" * 99_999, '{"model": NaN}',
    *(json.dumps({**STATE, key: value}) for key, value in (
        ("model", 5), ("model", "other"), ("versions", []), ("versions", 5), ("aliases", [1]),
        ("aliases", {"champion": 1}), ("canary_share", "much"), ("canary_share", 2),
        ("broken", {"1": []}),
    )),
    json.dumps(STATE)[:-40],
]  # fmt: skip


class Away(Following):
    """A registry that does not answer."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.follower._registry = self._away
        self.state = folder / "state.json"

    @staticmethod
    def _away() -> Any:
        raise OutageError("away")

    def count(self, name: str) -> float | None:
        return self.counts.get_sample_value(f"vlm2vec_{name}_total", {"model": "m"})


@pytest.mark.parametrize("text", BAD_STATES, ids=range(len(BAD_STATES)))
def test_a_damaged_state_file_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    async def check() -> None:
        one = Away(tmp_path)
        one.state.write_text(text)
        await one.follower.step()
        assert one.model.aliases == {}
        assert one.count("registry_state_errors") == 1
        for named in ({}, {"version": "1"}, {"alias": "canary"}, {"space": "0" * 32}):
            with pytest.raises(UnavailableError):
                one.model.choose(**named)
        # The registry is back: all is well, and the file is whole again.
        one.publish("1", contents=1)
        snapshot = Snapshot("m", dict(one.published), {"champion": "1"})
        one.follower._registry = lambda: cast(Any, one)
        one.snapshot = lambda name: snapshot  # type: ignore[attr-defined]
        await one.follower.step()
        assert one.champion.name == "1"
        with pytest.raises(NotFoundError):
            one.model.choose(version="2")
        assert Snapshot.from_json(one.state.read_text()) == snapshot

    asyncio.run(check())


@pytest.mark.parametrize(
    "version",
    [
        5, [], {}, {**VERSION, "digests": 5}, {**VERSION, "embedding": [1]},
        {**VERSION, "embedding": {"pooling": "first"}}, {**VERSION, "created": "x"},
        {**VERSION, "digests": {}}, {**VERSION, "space": 5}, {**VERSION, "tags": {"a": 1}},
    ],
)  # fmt: skip
def test_a_damaged_version_of_the_state_file_costs_that_version(
    tmp_path: Path, version: object
) -> None:
    async def check() -> None:
        one = Away(tmp_path)
        one.publish("2", contents=2)
        values = json.loads(Snapshot("m", dict(one.published), {"champion": "2"}).to_json())
        values["versions"]["1"] = version
        one.state.write_text(json.dumps(values))
        await one.follower.step()
        assert one.champion.name == "2"
        assert set(one.follower.broken) == {"1"}
        # The registry may know what the file does not: "not found" would be a guess.
        for named in ({"version": "1"}, {"version": "7"}, {"alias": "canary"}, {"space": "0" * 32}):
            with pytest.raises(UnavailableError, match="has not answered yet"):
                one.model.choose(**named)
        snapshot = Snapshot("m", dict(one.published), {"champion": "2"})
        one.follower._registry = lambda: cast(Any, one)
        one.snapshot = lambda name: snapshot  # type: ignore[attr-defined]
        await one.follower.step()
        with pytest.raises(NotFoundError):
            one.model.choose(version="1")

    asyncio.run(check())


def test_a_state_file_that_cannot_be_written_is_told_once_and_counted(tmp_path: Path) -> None:
    async def check(one: Following) -> None:
        (tmp_path / "state.json").mkdir()
        one.publish("1", contents=1)
        snapshot = Snapshot("m", dict(one.published), {"champion": "1"})
        one.follower._registry = lambda: cast(Any, one)
        one.snapshot = lambda name: snapshot  # type: ignore[attr-defined]
        for _ in range(3):
            await one.follower.step()
        assert one.champion.name == "1"
        name = "vlm2vec_registry_state_errors_total"
        assert one.counts.get_sample_value(name, {"model": "m"}) == 3

    run(tmp_path, check)


@pytest.mark.parametrize("error", [TypeError("x"), RuntimeError("y"), KeyError("z"), OSError("w")])
def test_whatever_the_registry_raises_what_is_loaded_serves_on(
    tmp_path: Path, error: Exception
) -> None:
    async def check(one: Following) -> None:
        one.publish("1", contents=1)
        await one.follow(champion="1")

        def fail() -> Any:
            raise error

        one.follower._registry = fail
        await one.follower.step()
        assert one.champion.name == "1"
        name = "vlm2vec_registry_errors_total"
        assert one.counts.get_sample_value(name, {"model": "m"}) == 1

    run(tmp_path, check)


def emptied(cache: Path) -> None:
    shutil.rmtree(cache / "objects")
    shutil.rmtree(cache / "incoming")


def gone(cache: Path) -> None:
    shutil.rmtree(cache)


def without_locks(cache: Path) -> None:
    for lock in (cache / "objects").glob("*.lock"):
        lock.unlink()


def with_rubbish(cache: Path) -> None:
    (cache / "objects" / "rubbish").write_bytes(b"x")
    (cache / "incoming" / "rubbish").write_bytes(b"x")
    os.utime(cache / "incoming" / "rubbish", (0, 0))


def folder_turned_file(cache: Path) -> None:
    (found,) = (path for path in (cache / "objects").iterdir() if path.is_dir())
    shutil.rmtree(found)
    found.write_bytes(b"x")


@pytest.mark.parametrize("damage", [emptied, gone, without_locks, with_rubbish, folder_turned_file])
def test_a_damaged_cache_is_mended(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    digests = make(tmp_path / "source", 1)
    folder = tmp_path / "cache"
    cache = Cache(folder, 1 << 20)
    fetch = copier(tmp_path / "source")
    cache.get(digests, fetch)
    damage(folder)
    assert artifact.digests(cache.get(digests, fetch)) == digests
    assert artifact.digests(Cache(folder, 1 << 20).get(digests, fetch)) == digests


def test_what_is_on_a_disk_that_takes_nothing_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root may write anywhere, the disk's refusals are made here."""
    digests, other = make(tmp_path / "source", 1), make(tmp_path / "other", 2)
    Cache(tmp_path / "cache", 1 << 20).get(digests, copier(tmp_path / "source"))
    opened = Path.open

    def refusing(self: Path, mode: str = "r", *more: Any, **options: Any) -> Any:
        if set(mode) & set("wax+"):
            raise OSError(30, "Read-only file system", str(self))
        return opened(self, mode, *more, **options)

    def refused(*_: Any, **__: Any) -> Any:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "open", refusing)
    for name in ("utime", "mkdir", "rename", "replace"):
        monkeypatch.setattr(os, name, refused)
    cache = Cache(tmp_path / "cache", 0)
    assert cache.get(digests, refuse).is_dir()
    with pytest.raises(OutageError, match="Read-only"):
        cache.get(other, refuse)


def test_a_task_that_dies_is_told_counted_and_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tasks, "FIRST_PAUSE", 0.001)
    counts = CollectorRegistry()
    runs = 0

    async def flaky() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise ValueError("broken")
        if runs == 2:
            return
        await asyncio.Event().wait()

    async def check() -> None:
        task = tasks.supervised("flaky", flaky, Metrics(counts))
        while runs < 3:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(check())
    assert counts.get_sample_value("vlm2vec_task_deaths_total", {"task": "flaky"}) == 2
    told = [record for record in caplog.records if record.levelname == "ERROR"]
    assert ["broken" in str(record.exc_info) for record in told] == [True, False]


def test_nobody_waits_for_a_daemon_thread_at_the_end() -> None:
    async def check() -> None:
        assert await tasks.in_daemon_thread(lambda: 5) == 5
        with pytest.raises(ValueError, match="no"):
            await tasks.in_daemon_thread(lambda: int("no"))
        hung = asyncio.create_task(tasks.in_daemon_thread(lambda: __import__("time").sleep(30)))
        await asyncio.sleep(0.05)
        hung.cancel()

    started = asyncio.new_event_loop().time()
    asyncio.run(check())
    assert asyncio.new_event_loop().time() - started < 20


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/srv/cache/objects/ab12/adapter_model.safetensors: cut off",
         "adapter_model.safetensors: cut off"),
        ("[Errno 2] No such file: '/root/.cache/x/embedding.json'",
         "[Errno 2] No such file: 'embedding.json'"),
        ("two (/a/b/c and /d/e)", "two (c and e)"),
        ("see https://example.com/a/b and 1/2", "see https://example.com/a/b and 1/2"),
        ("model.layers.0/x", "model.layers.0/x"),
    ],
)  # fmt: skip
def test_paths_of_the_server_are_left_out(text: str, shown: str) -> None:
    assert without_paths(text) == shown
