"""What travels to a worker and back, and what the scheduler needs of one.

Nothing here knows how it travels: ``supervision`` does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vlm2vec_service.preprocess.prepared import Prepared

PATHS = ("base", "low_rank", "merged")
"""How a token may pass the linear layers: without an adapter, with one that is added to the base's
products, or with one that is merged into a copy of the weights."""


@dataclass(frozen=True)
class BatchInput:
    """One input of a batch: ``adapter`` is a loaded version's name, or empty for the base model;
    ``normalize`` None leaves it to the adapter whether the vector gets length 1."""

    prepared: Prepared
    adapter: str = ""
    normalize: bool | None = None


@dataclass(frozen=True)
class BatchResult:
    """What a worker made of a batch: ``vectors`` are float32 ``(inputs, dim)``, ``seconds`` is the
    time on the device. The hits and misses of the vision cache count from the start of the worker's
    process; bytes of device memory are 0 where they are not known. ``merged_adapters`` counts those
    with a merged copy, and ``merged_bytes`` what the copies take; ``path_tokens`` are the tokens of
    the batch by their path, one of `PATHS`."""

    vectors: npt.NDArray[np.float32]
    seconds: float
    cache_hits: int = 0
    cache_misses: int = 0
    device_memory_bytes: int = 0
    device_memory_total_bytes: int = 0
    merged_adapters: int = 0
    merged_bytes: int = 0
    path_tokens: Mapping[str, int] = field(default_factory=dict)


class BatchWorker(Protocol):
    """A worker as the scheduler sees it."""

    name: str
    token_budget: int
    batch_timeout: float
    """Seconds that any batch may take at most."""
    shared: bool
    """Whether other front ends may send it batches, too."""

    @property
    def ready(self) -> bool:
        """Whether it can take batches now."""

    @property
    def refused(self) -> Mapping[str, str]:
        """The adapters that it could not load, each with the reason: their inputs have to go to
        another worker."""

    async def run(
        self,
        inputs: Sequence[BatchInput],
        interactive: bool,
        callers: Mapping[str, int],
        begun: Callable[[], None],
    ) -> BatchResult:
        """Runs a batch; an ``interactive`` one overtakes what waits in the worker, and ``callers``,
        its tokens by caller, get equal shares there. ``begun`` is called when the device begins
        with it.

        Raises `WorkerLostError` where the worker is gone, `InvalidInputError` and `NotFoundError`
        for what is wrong with an input, and `ServeError` for any other fault. It has no time limit
        of its own: who calls it cancels it and calls `hung`.
        """

    def hung(self) -> None:
        """Takes down a worker that took too long over a batch, so that it starts anew; whatever
        else runs there is lost with it."""
