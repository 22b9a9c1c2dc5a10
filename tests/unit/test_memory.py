"""What memory merged copies may take by default: a share of what the machine or container has."""

from pathlib import Path

import pytest
import torch

from vlm2vec_service.engine import memory

HUGE = 1 << 60


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        # Version 2: the least of the process's own cgroup and those above it.
        ("0::/pod/worker\n", {"pod/worker/memory.max": "max\n", "pod/memory.max": "5000\n"}, 5000),
        ("0::/pod/worker\n", {"pod/worker/memory.max": "300\n", "pod/memory.max": "5000\n"}, 300),
        # A container that sees the host's path, but only its own root.
        ("0::/host/path\n", {"memory.max": "700\n"}, 700),
        # Version 1, which has a large number where there is no limit.
        ("4:memory:/pod\n1:cpu:/x\n", {"memory/pod/memory.limit_in_bytes": "900\n",
                                       "x/memory.max": "5\n"}, 900),
        ("4:memory:/pod\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, HUGE),
        # Nothing there.
        ("0::/\n", {}, HUGE),
        ("", {"memory.max": "5\n"}, HUGE),
    ],
)  # fmt: skip
def test_ram_limit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cgroup: str,
    files: dict[str, str],
    expected: int,
) -> None:
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": HUGE}.__getitem__)
    write(tmp_path, {"proc/self/cgroup": cgroup})
    write(tmp_path / "fs", files)
    assert memory.ram_limit(tmp_path / "proc", tmp_path / "fs") == expected


def test_ram_limit_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 10}.__getitem__)
    write(tmp_path, {"self/cgroup": "0::/\n", "memory.max": "50000\n"})
    assert memory.ram_limit(tmp_path, tmp_path) == 40960


def test_budget_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert 0 < memory.merged_budget(cpu) <= memory.ram_limit() / 4
    # A process that already fills its container leaves nothing.
    monkeypatch.setattr(memory, "ram_limit", lambda: 1000)
    assert memory.merged_budget(cpu) == 0
    assert memory.merged_budget(torch.device("meta")) == 0
