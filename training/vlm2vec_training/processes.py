"""What processes that train together exchange: those that torchrun starts, or one alone."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


@contextmanager
def group(device: torch.device) -> Iterator[None]:
    """Joins the processes that torchrun started, if it did: by NCCL on GPUs, by gloo on CPUs."""
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Returns this process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Returns how many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(part: Tensor) -> list[Tensor]:
    """Returns ``part`` of every process, by rank; they may differ in their first dimension."""
    if world_size() == 1:
        return [part]
    count = torch.tensor([len(part)], device=part.device)
    counts = [torch.zeros_like(count) for _ in range(world_size())]
    dist.all_gather(counts, count)
    sizes = [int(item) for item in counts]
    padded = part.new_zeros(max(sizes), *part.shape[1:])
    padded[: len(part)] = part
    parts = [torch.zeros_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return [item[:size] for item, size in zip(parts, sizes, strict=True)]


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Adds up each parameter's gradient over all processes; None counts as zero."""
    if world_size() == 1:
        return
    for parameter in (parameters := list(parameters)):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    # One message: many small ones take longer than their bytes.
    whole = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(whole)
    for gradient, part in zip(
        gradients, whole.split([gradient.numel() for gradient in gradients]), strict=True
    ):
        gradient.copy_(part.view_as(gradient))


def wait() -> None:
    """Waits until every process has come to this call."""
    if world_size() > 1:
        dist.barrier()


def total(value: float, device: torch.device) -> float:
    """Adds up ``value`` over all processes."""
    summed = torch.tensor([value], dtype=torch.float32, device=device)
    if world_size() > 1:
        dist.all_reduce(summed)
    return float(summed)
