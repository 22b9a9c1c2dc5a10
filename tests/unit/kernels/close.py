"""What the tests of kernels have in common."""

import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}
"""One unit in the last place: Triton's interpreter cuts off what a GPU rounds to bfloat16."""


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Random values of a normal distribution, the same for the same ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(DEVICE, dtype)


def assert_close(ours: Tensor, exact: Tensor, scale: float = 1.0) -> None:
    """``ours`` is ``exact``, which is float64, rounded to its type.

    ``scale`` is the size of what was summed, where that is more than the sum.
    """
    tolerance = TOLERANCE[ours.dtype]
    torch.testing.assert_close(ours.double(), exact, rtol=tolerance, atol=tolerance * scale)
