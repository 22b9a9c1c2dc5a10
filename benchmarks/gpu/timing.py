"""Times of work on a device."""

import time
from collections.abc import Callable

import torch


def seconds_of(
    run: Callable[[], object], device: torch.device, rounds: int = 10, most: float = 2.0
) -> float:
    """Finds the least time of ``run`` in up to ``rounds`` turns, or as many as ``most`` seconds
    allow, after two to warm up.

    On a GPU each turn is waited for, so what Python takes counts unless the device takes longer.
    """
    wait = waiting(device)
    for _ in range(2):
        run()
    wait()
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < rounds and (not times or time.perf_counter() - begun < most):
        start = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - start)
    return min(times)


def seconds_on_device(run: Callable[[], object], device: torch.device, rounds: int = 20) -> float:
    """Finds how long ``run`` takes on the device alone, in the mean of ``rounds`` turns that are
    started without waiting; on a CPU that is `seconds_of`."""
    if device.type != "cuda":
        return seconds_of(run, device, 3)
    for _ in range(3):
        run()
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(rounds):
        run()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / 1e3 / rounds


def waiting(device: torch.device) -> Callable[[], None]:
    """Returns a function that waits until the device has done all its work."""
    if device.type != "cuda":
        return lambda: None
    return lambda: torch.cuda.synchronize(device)


def memory_rate(device: torch.device) -> float:
    """Measures the bytes a second that a copy on the device reads and writes."""
    source = torch.zeros(2**29 if device.type == "cuda" else 2**24, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds_on_device(lambda: target.copy_(source), device)
