"""Arrays from the host to a device."""

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor


def to_device(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Copies ``array``, which may be written to, to ``device``.

    On a CPU the tensor shares its memory. For a GPU the copy is queued behind what runs there, from
    pages that the system cannot move: otherwise the host would wait for all of that.
    """
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
