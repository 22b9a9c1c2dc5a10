"""The contrastive loss of training."""

import torch
from torch import Tensor
from torch.nn import functional as F


def info_nce(
    queries: Tensor,
    targets: Tensor,
    positive: Tensor,
    temperature: float,
    same: Tensor | None = None,
) -> Tensor:
    """Computes InfoNCE (arXiv:1807.03748): the mean cross entropy of positives among all targets.

    ``queries`` ``(n, dim)`` and ``targets`` ``(m, dim)`` have length 1; ``positive``, int64
    ``(n,)``, is the row of each query's target. Rows of ``targets`` that no query points to are
    hard negatives. ``same``, int64 ``(m,)``, numbers the targets by content: another copy of a
    query's positive is no negative.
    """
    logits = queries @ targets.T / temperature
    if same is not None:
        copies = same[positive][:, None] == same[None]
        copies[torch.arange(len(positive), device=copies.device), positive] = False
        logits = logits.masked_fill(copies, -torch.inf)
    return F.cross_entropy(logits, positive)
