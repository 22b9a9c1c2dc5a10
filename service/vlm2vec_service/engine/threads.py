"""The threads that share an operation on the CPU."""

import torch

from vlm2vec_service.cores import available_cores


def use_threads(count: int) -> None:
    """Has operations of this thread, and of those it starts, run in ``count`` threads; 0 is as many
    as PyTorch takes by itself, and no more than the container has cores."""
    own = min(torch.get_num_threads(), max(1, int(available_cores())))
    torch.set_num_threads(count or own)
