"""Computes a contrastive step in bounded memory, over any processes (GradCache, arXiv:2101.06983).

All vectors are computed first, without activations; the loss's gradient with respect to them is
exact and small. Then each chunk is computed again, and that gradient sent down through it.
Gathering needs no gradient of its own: every process knows the whole loss, and its parts add up.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vlm2vec_service.preprocess import Prepared
from vlm2vec_training import processes
from vlm2vec_training.loss import info_nce

T = TypeVar("T")

Embed = Callable[[Sequence[Prepared]], Tensor]
"""Computes the vectors ``(n, dim)`` of n inputs, in order."""


@dataclass(frozen=True)
class ContrastiveBatch:
    """The queries and targets that this process contributes to a step.

    ``targets`` are the positive of each query, in order, and behind them any number of hard
    negatives. ``contents`` has a number for each target, equal for targets of equal contents.
    """

    queries: Sequence[Prepared]
    targets: Sequence[Prepared]
    contents: Sequence[int]


def backward(embed: Embed, batch: ContrastiveBatch, temperature: float, chunk: int) -> float:
    """Adds the gradient of the loss to the parameters behind ``embed``; returns the loss.

    The loss is that of the batch of all processes, joined; each process adds the part of the
    gradient that goes through its own inputs, and `processes.sum_gradients` makes it whole.
    ``chunk`` inputs have activations at a time, or all of them if it is 0.
    """
    inputs = [*batch.queries, *batch.targets]
    parts = list(chunks(inputs, chunk or len(inputs)))
    whole = len(parts) == 1
    states, outputs = [], []
    with torch.set_grad_enabled(whole):
        for part in parts:
            states.append(_random_state())
            outputs.append(embed(part))
    vectors = torch.cat(outputs).detach().requires_grad_()
    loss = joined_loss(vectors, batch, temperature)
    loss.backward()
    assert vectors.grad is not None
    gradients = vectors.grad.split([len(part) for part in parts])
    if whole:
        outputs[0].backward(gradients[0])
        return loss.item()
    for part, state, gradient in zip(parts, states, gradients, strict=True):
        _set_random_state(state)
        embed(part).backward(gradient)
    return loss.item()


def joined_loss(vectors: Tensor, batch: ContrastiveBatch, temperature: float) -> Tensor:
    """Computes the loss over the batches of all processes.

    Only ``vectors``, which are this process's queries and then its targets, get a gradient.
    """
    count, here = len(batch.queries), processes.rank()
    contents = torch.tensor(batch.contents, device=vectors.device)
    queries = processes.gather(vectors[:count].detach())
    targets = processes.gather(vectors[count:].detach())
    numbers = torch.cat(processes.gather(contents))
    starts = torch.tensor([len(part) for part in targets], device=vectors.device).cumsum(0)
    positive = torch.cat(
        [
            int(end) - len(part) + torch.arange(len(query), device=vectors.device)
            for end, part, query in zip(starts, targets, queries, strict=True)
        ]
    )
    queries[here], targets[here] = vectors[:count], vectors[count:]
    return info_nce(torch.cat(queries), torch.cat(targets), positive, temperature, numbers)


def _random_state() -> Any:
    """Takes the state for dropout: a chunk has to drop the same when it is computed again."""
    return torch.get_rng_state(), (
        torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    )


def _set_random_state(state: Any) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state_all(state[1])


def parameters_of(model: nn.Module) -> list[nn.Parameter]:
    """Lists the parameters that are trained, in a fixed order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Cuts ``items`` into parts of ``size``, of which the last may be smaller."""
    return (items[start : start + size] for start in range(0, len(items), size))
