"""How much memory there is for merged copies where no setting says."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

FREE_SHARE = 0.5
"""Of the memory that is free once the base is loaded, what copies may take: the rest is for
activations, adapters and the vision cache."""
RAM_SHARE = 0.25
"""Of the memory of a machine or container, what copies on a CPU may take at most."""


def merged_budget(device: torch.device) -> int:
    """Counts the bytes that merged copies on ``device`` may take, from what is free there now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * FREE_SHARE)
    if device.type == "cpu":
        limit = ram_limit()
        return int(max(0, min(limit * RAM_SHARE, _free(limit) * FREE_SHARE)))
    return 0


def ram_limit(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Counts the bytes of RAM that this process may use: the machine's, or its cgroup's if less.

    ``proc`` and ``cgroups`` are where Linux shows them; of version 1 and 2, what is there is read.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _limit_files(proc, cgroups):
        text = _read(file).strip()
        if text.isdigit():  # version 2 has "max" where there is no limit
            limits.append(int(text))
    return min(limits)


def _limit_files(proc: Path, cgroups: Path) -> Iterator[Path]:
    """Lists the files that may hold a limit: those of the process's cgroup and of all above it."""
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root, name = (
            (cgroups / "memory", "memory.limit_in_bytes") if controllers else
            (cgroups, "memory.max")
        )  # fmt: skip
        # A container may see the path that the host gives it: then only its root is there.
        folder = root / path.lstrip("/")
        for parent in (folder, *folder.parents):
            yield parent / name
            if parent == root:
                break


def _free(limit: int) -> int:
    """Counts the bytes of RAM that are free: on the machine, and below ``limit``."""
    lines = (_read(Path("/proc/meminfo")) + _read(Path("/proc/self/status"))).splitlines()
    numbers = {
        key: int(value.split()[0]) * 1024
        for key, _, value in (line.partition(":") for line in lines)
        if key in ("MemAvailable", "VmRSS")
    }
    return min(numbers.get("MemAvailable", limit), limit - numbers.get("VmRSS", 0))


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
