"""The cores that this process may use, and how many of them a worker on the CPU gets."""

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def available_cores() -> float:
    """Counts the cores that this process may use, by its affinity and its container's quota."""
    cores = float(len(os.sched_getaffinity(0)))
    quota = _quota()
    return cores if quota is None else min(cores, quota)


def threads_of_a_worker(workers: int) -> int:
    """Divides the cores among so many workers on this CPU: more threads than cores wait for each
    other."""
    return max(1, int(available_cores()) // max(1, workers))


def _quota() -> float | None:
    """The container's quota in cores, by either version of cgroups; None where there is none."""
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota, period = (
            (CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
        )
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):
        return None
