"""The artifact cache: whole or not there, whatever happens and whoever else uses it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vlm2vec_registry import artifact
from vlm2vec_registry.cache import Cache
from vlm2vec_registry.errors import ArtifactError, OutageError

MIB = 1 << 20


def make(folder: Path, seed: int, size: int = 1000) -> dict[str, str]:
    """An artifact that exists nowhere else, and its digests."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(artifact.FILES):
        (folder / name).write_bytes(bytes([seed, number]) * (size // 2))
    return artifact.digests(folder)


def copier(source: Path) -> Callable[[Path], None]:
    def fetch(place: Path) -> None:
        for name in artifact.FILES:
            (place / name).write_bytes((source / name).read_bytes())

    return fetch


def refuse(place: Path) -> None:
    raise OutageError("the registry is away")


def test_fetched_once_and_kept(tmp_path: Path) -> None:
    digests = make(tmp_path / "source", 1)
    first = Cache(tmp_path / "cache", MIB).get(digests, copier(tmp_path / "source"))
    assert artifact.digests(first) == digests
    assert Cache(tmp_path / "cache", MIB).get(digests, refuse) == first


def test_whoever_may_read_the_cache_may_read_all_of_it(tmp_path: Path) -> None:
    digests = make(tmp_path / "source", 1)
    found = Cache(tmp_path / "cache", MIB).get(digests, copier(tmp_path / "source"))
    (tmp_path / "plain").mkdir()
    assert found.stat().st_mode == (tmp_path / "plain").stat().st_mode
    modes = {path.stat().st_mode for path in found.iterdir()}
    assert modes == {path.stat().st_mode for path in (tmp_path / "source").iterdir()}


def test_wrong_bytes_never_get_in(tmp_path: Path) -> None:
    digests = make(tmp_path / "source", 1)
    make(tmp_path / "other", 2)
    cache = Cache(tmp_path / "cache", MIB)
    with pytest.raises(ArtifactError, match="not the bytes"):
        cache.get(digests, copier(tmp_path / "other"))
    with pytest.raises(OutageError, match="away"):
        cache.get(digests, refuse)
    assert not any((tmp_path / "cache" / "incoming").iterdir())
    assert cache.get(digests, copier(tmp_path / "source")).is_dir()


@pytest.mark.parametrize("damage", [b"", b"other bytes"])
def test_damaged_on_disk_is_fetched_anew(tmp_path: Path, damage: bytes) -> None:
    digests = make(tmp_path / "source", 1)
    folder = Cache(tmp_path / "cache", MIB).get(digests, copier(tmp_path / "source"))
    (folder / artifact.WEIGHTS).write_bytes(damage)
    with pytest.raises(OutageError, match="away"):
        Cache(tmp_path / "cache", MIB).get(digests, refuse)
    again = Cache(tmp_path / "cache", MIB).get(digests, copier(tmp_path / "source"))
    assert artifact.digests(again) == digests


def test_least_lately_used_leaves_unless_some_process_holds_it(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 7000)
    folders = []
    for seed in range(4):  # each takes 3000 bytes, two fit
        digests = make(tmp_path / str(seed), seed)
        folders.append(cache.get(digests, copier(tmp_path / str(seed))))
        if seed:
            cache.release(digests)
        # What was used when is told by modification times.
        os.utime(folders[-1], (seed, seed))
    cache.get(make(tmp_path / "last", 9), copier(tmp_path / "last"))
    assert [folder.exists() for folder in folders] == [True, False, False, False]

    other = Cache(tmp_path / "cache", 0)
    other.get(make(tmp_path / "more", 10), copier(tmp_path / "more"))
    assert folders[0].exists()
    cache.release(artifact.digests(folders[0]))
    other.get(make(tmp_path / "most", 11), copier(tmp_path / "most"))
    assert not folders[0].exists()


def test_stale_downloads_are_removed(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", MIB)
    old, new = (tmp_path / "cache" / "incoming" / name for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (1, 1))
    cache.get(make(tmp_path / "source", 1), copier(tmp_path / "source"))
    assert not old.exists()
    assert new.exists()


PROCESS = """
import shutil, sys, time
from pathlib import Path
from vlm2vec_registry import artifact
from vlm2vec_registry.cache import Cache

def fetch(place):
    print("fetching", flush=True)
    shutil.copytree(sys.argv[1], place, dirs_exist_ok=True)
    time.sleep(float(sys.argv[3]))

folder = Cache(Path(sys.argv[2]), 1 << 20).get(artifact.digests(Path(sys.argv[1])), fetch)
artifact.verify(folder, artifact.digests(Path(sys.argv[1])))
print("done", flush=True)
time.sleep(60)
"""


def start(source: Path, cache: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(source), str(cache), str(seconds)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_kills_at_any_point_leave_it_whole(tmp_path: Path) -> None:
    digests = make(tmp_path / "source", 1, 4 * MIB)
    for attempt in range(6):
        process = start(tmp_path / "source", tmp_path / "cache", 0.05)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(attempt * 0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    folder = Cache(tmp_path / "cache", MIB).get(digests, copier(tmp_path / "source"))
    assert artifact.digests(folder) == digests


def test_processes_that_fetch_the_same_at_once(tmp_path: Path) -> None:
    digests = make(tmp_path / "source", 1, MIB)
    processes = [start(tmp_path / "source", tmp_path / "cache", 0.3) for _ in range(4)]
    try:
        for process in processes:
            assert process.stdout is not None
            # One that started late finds it there, and fetches nothing.
            assert "done" in map(str.strip, process.stdout)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    (entry,) = [path for path in (tmp_path / "cache" / "objects").iterdir() if path.is_dir()]
    assert artifact.digests(entry) == digests
