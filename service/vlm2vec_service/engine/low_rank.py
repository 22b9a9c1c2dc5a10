"""What an adapter adds to a matrix product."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """What one adapter adds to one linear layer.

    With DoRA's ``g = m / ‖W + s·BA‖`` (row norms; arXiv:2402.09353, eq. 5), or 1 without DoRA, the
    layer is ``y = g ⊙ (xWᵀ + s·(xAᵀ)Bᵀ) + b``. It is held in the form that leaves least to do for
    each token: ``a`` is ``A``, ``(rank, in)``, and ``b`` is ``s·g ⊙ B``, ``(out, rank)``; ``gain``
    is ``g``, ``(out,)``, and ``shift`` is ``(1 - g) ⊙ b``, ``(out,)``. ``gain`` is None without
    DoRA, ``shift`` also where the layer has no bias.
    """

    a: Tensor
    b: Tensor
    gain: Tensor | None = None
    shift: Tensor | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """Lists the tensors that are not None."""
        every = (self.a, self.b, self.gain, self.shift)
        return [tensor for tensor in every if tensor is not None]

    @property
    def nbytes(self) -> int:
        """Counts the bytes of the tensors on the device."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def rank(self) -> int:
        """Counts the rows of ``a``."""
        return len(self.a)

    @property
    def pointers(self) -> tuple[int, int, int, int, int]:
        """Lists the addresses of ``a``, ``b``, ``gain`` and ``shift``, 0 for None, and the rank."""
        gain, shift = (
            0 if tensor is None else tensor.data_ptr() for tensor in (self.gain, self.shift)
        )
        return self.a.data_ptr(), self.b.data_ptr(), gain, shift, self.rank

    def to(self, device: torch.device) -> "LowRank":
        """Copies the tensors to ``device``; those that are there already are shared."""
        gain, shift = (
            None if tensor is None else tensor.to(device) for tensor in (self.gain, self.shift)
        )
        return LowRank(self.a.to(device), self.b.to(device), gain, shift)
