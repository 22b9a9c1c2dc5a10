"""One contrastive step in bounded memory (GradCache, arXiv:2101.06983), over any processes.

All vectors are computed first, without activations; the loss's gradient with respect to them is exact
and small. Then each chunk is computed again, and that gradient sent down through it. Gathering needs no
gradient of its own: every process knows the whole loss, and its parts add up.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vlm2vec_service.preprocess import Prepared
from vlm2vec_training import processes
from vlm2vec_training.loss import info_nce

Embed = Callable[[Sequence[Prepared]], Tensor]


@dataclass(frozen=True)
class Batch:
    """What this process contributes to a step.

    ``targets`` are the positive of each query, in order, and behind them any number of hard
    negatives. ``contents`` numbers the targets: equal ones are equal.
    """

    queries: Sequence[Prepared]
    targets: Sequence[Prepared]
    contents: Sequence[int]


def backward(embed: Embed, batch: Batch, temperature: float, chunk: int) -> float:
    """Adds the gradient of the loss to the parameters behind ``embed``; returns the loss.

    The loss is that of the batch of all processes, joined; each process adds the part of the gradient
    that goes through its own inputs, and `processes.sum_gradients` makes it whole. ``chunk`` inputs have
    activations at a time, 0 all.
    """
    inputs = [*batch.queries, *batch.targets]
    size = chunk or len(inputs)
    parts = [inputs[start : start + size] for start in range(0, len(inputs), size)]
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


def joined_loss(vectors: Tensor, batch: Batch, temperature: float) -> Tensor:
    """The loss over the batches of all processes; only ``vectors``, this one's, have a gradient."""
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
    """For dropout: a chunk has to drop the same when it is computed again."""
    return torch.get_rng_state(), (
        torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    )


def _set_random_state(state: Any) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state_all(state[1])


def parameters_of(model: nn.Module) -> list[nn.Parameter]:
    """What is trained, in a fixed order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
