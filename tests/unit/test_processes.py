"""What front-end processes share: how many there are, their limits, the registry, the metrics."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from vlm2vec_registry.errors import MissingError, OutageError
from vlm2vec_registry.snapshot import Snapshot
from vlm2vec_service import cores
from vlm2vec_service.frontend.build import Deployment
from vlm2vec_service.processes import exposition, snapshots, start
from vlm2vec_service.processes.exposition import answer_metrics, gather
from vlm2vec_service.processes.member import DIVIDED, Member, Shared
from vlm2vec_service.processes.snapshots import SharedRegistry, write_answer
from vlm2vec_service.processes.start import count_processes
from vlm2vec_service.settings import EngineSettings, ServerSettings

HERE = Deployment({"a": Path("base")})
ELSEWHERE = Deployment({"a": Path("base")}, workers={"a": ["host:1"]})


@pytest.mark.parametrize(
    ("processes", "device", "deployment", "listen", "cores", "count"),
    [
        (3, "cpu", HERE, "127.0.0.1:1", 2.0, 3),
        (0, "cpu", HERE, "127.0.0.1:1", 64.0, 1),
        (0, "cuda:0,cpu", HERE, "127.0.0.1:1", 64.0, 1),
        (0, "cuda", HERE, "127.0.0.1:1", 2.0, 1),
        (0, "cuda", HERE, "127.0.0.1:1", 16.0, 4),
        (0, "cuda", HERE, "127.0.0.1:1", 128.0, 8),
        (0, "cuda", HERE, "unix:/run/a", 128.0, 1),
        (0, "cpu", ELSEWHERE, "127.0.0.1:1", 9.5, 2),
    ],
)
def test_how_many_there_are(
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
    device: str,
    deployment: Deployment,
    listen: str,
    cores: float,
    count: int,
) -> None:
    monkeypatch.setattr(start, "available_cores", lambda: cores)
    settings = ServerSettings(processes=processes, listen=listen)
    assert count_processes(settings, EngineSettings(device=device), deployment) == count


def test_a_containers_quota_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cores, "CGROUP", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(32)))
    assert cores.available_cores() == 32
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    for text, count in (("-1\n", 32), ("150000\n", 1.5)):
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(text)
        assert cores.available_cores() == count
    # A container has one of both; where there are two, the newer counts.
    for text, count in (("max 100000", 32), ("950000 100000", 9.5), ("9900000 100000", 32)):
        (tmp_path / "cpu.max").write_text(text)
        assert cores.available_cores() == count


@pytest.mark.parametrize(
    ("available", "workers", "threads"),
    [(0.5, 1, 1), (1, 1, 1), (2, 1, 2), (3.5, 1, 3), (8.5, 2, 4), (8, 20, 1), (8, 0, 8)],
)
def test_workers_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, available: float, workers: int, threads: int
) -> None:
    monkeypatch.setattr(cores, "available_cores", lambda: available)
    assert cores.threads_of_a_worker(workers) == threads


def test_limits_of_the_server_are_divided() -> None:
    whole = ServerSettings()
    part = Member(Path(), 0, 4).part_of(whole)
    assert part == replace(whole, **{name: getattr(whole, name) // 4 for name in DIVIDED})
    # However many there are, one caller may send the largest message.
    assert Member(Path(), 0, 64).part_of(whole).max_received_bytes == 2 * whole.max_message_bytes
    small = replace(whole, max_received_bytes=1000)
    assert Member(Path(), 0, 4).part_of(small).max_received_bytes == 1000


def test_a_member_is_told_by_its_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert Member.from_environment() is None
    member = Member(tmp_path, 1, 3)
    for name, value in member.environment.items():
        monkeypatch.setenv(name, value)
    assert Member.from_environment() == member
    assert [path.name for path in member.others] == ["member-0.sock", "member-2.sock"]
    shared = Shared({"a": {"cuda:0": "unix:x"}}, {"a": "00"})
    shared.write(tmp_path)
    assert Shared.read(tmp_path) == shared


def test_what_the_registry_says_is_told_to_members(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(snapshots, "LONGEST", 0.2)
    registry = SharedRegistry(tmp_path, lambda: pytest.fail("asked"))
    with pytest.raises(OutageError, match="not answered yet"):
        registry.snapshot("m")
    said = Snapshot("m", {}, {"champion": "1"}, 0.5, {"2": "broken"})
    write_answer(tmp_path, "m", lambda: said)
    assert registry.snapshot("m") == said
    # Nothing new is true for a while, and then still true.
    assert registry.snapshot("m") == said

    def fail(error: Exception) -> Snapshot:
        raise error

    for error, kind in (
        (MissingError("no such model"), MissingError),
        (OutageError("away"), OutageError),
        (ValueError("odd"), OutageError),
    ):
        write_answer(tmp_path, "m", lambda error=error: fail(error))  # type: ignore[misc]
        with pytest.raises(kind, match=str(error)):
            registry.snapshot("m")
    monkeypatch.setattr(snapshots, "LONGEST", 10.0)
    write_answer(tmp_path, "m", lambda: said)
    registry.snapshot("m")
    other = replace(said, canary_share=0.25)
    later = threading.Timer(0.2, write_answer, (tmp_path, "m", lambda: other))
    later.start()
    assert registry.snapshot("m") == other


def test_metrics_of_all_processes_are_one_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = (
        b"# HELP a_total What.\n# TYPE a_total counter\na_total 1.0\n"
        b"# HELP b_seconds How.\n# TYPE b_seconds histogram\n"
        b'b_seconds_bucket{le="1.0",of="x{y} z"} 2.0\nb_seconds_sum 0.5\n'
    )
    monkeypatch.setattr(exposition, "generate_latest", lambda: page)
    for process in ("0", "owner"):
        answer_metrics(tmp_path, process)
    (tmp_path / "metrics-1.sock").touch()  # of one that is gone
    assert gather(tmp_path).decode() == (
        "# HELP a_total What.\n# TYPE a_total counter\n"
        'a_total{process="0"} 1.0\na_total{process="owner"} 1.0\n'
        "# HELP b_seconds How.\n# TYPE b_seconds histogram\n"
        'b_seconds_bucket{process="0",le="1.0",of="x{y} z"} 2.0\nb_seconds_sum{process="0"} 0.5\n'
        'b_seconds_bucket{process="owner",le="1.0",of="x{y} z"} 2.0\n'
        'b_seconds_sum{process="owner"} 0.5\n'
    )
