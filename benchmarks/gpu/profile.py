"""Which kernels the time goes to."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity

from benchmarks.gpu.timing import waiting

KERNELS = 40


def profile(run: Callable[[], object], device: torch.device, file: Path) -> float:
    """Writes the kernels of ``run`` that take most of the time to ``file``; returns the seconds
    that all kernels take together."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    run()
    waiting(device)()
    with torch.profiler.profile(activities=activities) as watched:
        run()
        waiting(device)()
    averages = watched.key_averages()
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    file.write_text(averages.table(sort_by=key.replace("device", "cuda"), row_limit=KERNELS) + "\n")
    return sum(getattr(event, key) for event in averages) / 1e6
