"""Merged copies: busy adapters get weights of their own, made in small steps between batches."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from vlm2vec_service.engine.adapter import Adapter
from vlm2vec_service.engine.linear import Product
from vlm2vec_service.engine.merge_plan import TokenRates, next_copy
from vlm2vec_service.engine.packing import Share

log = logging.getLogger(__name__)

STEP_ELEMENTS = 1 << 21
"""Of a weight, that one step merges: a few milliseconds' work on two cores, which is what a batch
that comes meanwhile waits for."""


class MergedCopy(dict[str, Tensor]):
    """The weights ``(out, in)`` of ``adapter``, by the name of the product.

    A class of its own also because a plain dict takes no weak references: what was recorded with
    the weights goes when they go.
    """

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.adapter = adapter


class MergedCopies:
    """The merged copies of the adapters of an engine, and what decides who gets one.

    A copy holds, for every product that the adapter touches, the weight ``g ⊙ (W + s·BA)`` of
    DoRA, or of LoRA with ``g`` 1: made in float32 and rounded once. All copies together take at
    most ``budget`` bytes. A group of rows goes through its adapter's copy if there are at least
    ``least_rows`` of them, and an adapter that had ``least_tokens`` lately, in groups that a copy
    would have served, is worth one.

    `step`, `merge` and `free_one` may be called in one thread at a time, the others in any.
    """

    def __init__(
        self,
        products: Sequence[Product],
        budget: int,
        least_rows: int,
        least_tokens: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget = self._first_budget = budget
        self.least_rows = least_rows
        self._products = {product.name: product for product in products}
        self._least_tokens = least_tokens
        self._rates = TokenRates(clock)
        self._lock = threading.Lock()
        self._adapters: dict[str, Adapter] = {}
        self._sizes: dict[str, int] = {}
        self._copies: dict[str, MergedCopy] = {}
        self._making: _Making | None = None

    @property
    def names(self) -> list[str]:
        """Lists the adapters that have a copy."""
        return sorted(self._copies)

    @property
    def nbytes(self) -> int:
        """Counts the bytes of the copies, and of one that is being made."""
        with self._lock:
            return sum(self._sizes[name] for name in self._held())

    def add(self, adapter: Adapter) -> None:
        """Makes ``adapter`` known. It takes the place of another of the same name, which loses its
        copy."""
        self.drop(adapter.name)
        with self._lock:
            self._adapters[adapter.name] = adapter
            self._sizes[adapter.name] = sum(
                self._products[name].weight.nbytes for name in adapter.products
            )

    def drop(self, name: str) -> None:
        """Forgets the adapter ``name`` and its copy, whose memory is free when the batches with it
        are done. The adapter may be unknown."""
        with self._lock:
            self._adapters.pop(name, None)
            self._sizes.pop(name, None)
            self._copies.pop(name, None)
            self._rates.forget(name)
            if self._making is not None and self._making.adapter.name == name:
                self._making = None

    def choose(self, adapter: Adapter, rows: int, alone: bool) -> MergedCopy | None:
        """Returns the copy that ``rows`` rows of ``adapter`` should go through, or None if there is
        none or the adapter is better added to the base's products.

        ``alone`` says that there are no other rows. Then any number of them is worth it: the base's
        weights need not be read beside the copy.
        """
        if not alone and rows < self.least_rows:
            return None
        copy = self._copies.get(adapter.name)
        # An adapter that was unloaded may still be in a batch, and another have its name.
        return copy if copy is not None and copy.adapter is adapter else None

    def count(self, shares: Sequence[Share]) -> None:
        """Counts the ``shares`` of a batch as traffic, as far as a copy would serve them."""
        with self._lock:
            for share in shares:
                adapter = share.adapter
                if adapter is None or self._adapters.get(adapter.name) is not adapter:
                    continue
                if len(shares) == 1 or share.tokens >= self.least_rows:
                    self._rates.add(adapter.name, share.tokens)

    def step(self) -> bool:
        """Does a moment's work on the copy that comes next, if there is one. Says whether it did.

        The copy is used from the moment that it is complete.
        """
        with self._lock:
            self._making = self._making or self._begin()
            making = self._making
        if making is None:
            return False
        try:
            complete = making.step()
        except RuntimeError as error:  # out of memory, for which a CPU has no class of its own
            with self._lock:
                self._making = None
                self.budget = sum(self._sizes[name] for name in self._copies)
            log.warning("merged copies keep to %d bytes from now on: %s", self.budget, error)
            return False
        if complete:
            self._install(making)
        return True

    def merge(self, name: str) -> None:
        """Makes the copy of the adapter ``name`` at once, whatever its traffic and the budget."""
        making = _Making(self._adapters[name], self._products)
        while not making.step():
            pass
        with self._lock:
            self._making = making
        self._install(making)

    def free_one(self) -> bool:
        """Frees a copy because a batch does not fit beside it, the least used of them or one that
        is being made, and keeps to what is left from now on. Says whether there was one.

        Where there is none, what does not fit is too large by itself: the budget is what it was.
        """
        with self._lock:
            if self._making is not None:
                self._making = None
            elif self._copies:
                del self._copies[min(self._copies, key=self._rates.of)]
            else:
                self.budget = self._first_budget
                return False
            self.budget = sum(self._sizes[name] for name in self._copies)
        log.warning("out of memory: merged copies keep to %d bytes from now on", self.budget)
        return True

    def _held(self) -> list[str]:
        making = [] if self._making is None else [self._making.adapter.name]
        return [*self._copies, *(name for name in making if name not in self._copies)]

    def _begin(self) -> "_Making | None":
        """Chooses the next adapter and takes away the copies that leave for it."""
        plan = next_copy(
            self._rates.all(), self._sizes, list(self._copies), self.budget, self._least_tokens
        )
        if plan is None:
            return None
        name, leaving = plan
        for other in leaving:
            del self._copies[other]
            log.info("adapter %s: its merged copy makes room for that of %s", other, name)
        return _Making(self._adapters[name], self._products)

    def _install(self, making: "_Making") -> None:
        """Puts a complete copy to use, unless its adapter was dropped meanwhile."""
        with self._lock:
            if self._making is not making:
                return
            self._making = None
            name = making.adapter.name
            self._copies[name] = making.weights
            log.info("adapter %s is merged, %d bytes", name, self._sizes[name])


class _Making:
    """A copy that is being made: ``weights`` are complete when `step` says so."""

    def __init__(self, adapter: Adapter, products: Mapping[str, Product]) -> None:
        self.adapter = adapter
        self.weights = MergedCopy(adapter)
        self._steps = self._merge([products[name] for name in adapter.products])

    @torch.inference_mode()
    def step(self) -> bool:
        """Does a moment's work, to its end also on a GPU. Says whether the copy is complete."""
        device = next(self._steps, None)
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize(device)
        return device is None

    def _merge(self, products: Sequence[Product]) -> Iterator[torch.device]:
        """Merges block after block of rows, and gives the device after each."""
        for product in products:
            weight = product.weight
            merged = torch.empty_like(weight)
            rows = max(1, STEP_ELEMENTS // product.in_features)
            for part in product.parts:
                added = self.adapter.exact.get(part.name)
                mine = merged[part.start : part.start + part.out_features]
                if added is None:
                    mine.copy_(part.weight)
                    continue
                a, b = added.a.to(weight.device), added.b.to(weight.device)
                gain = None if added.gain is None else added.gain.to(weight.device)
                for start in range(0, part.out_features, rows):
                    block = slice(start, start + rows)
                    base = part.weight[block].float()
                    if gain is not None:
                        base = base * gain[block, None]
                    mine[block] = torch.addmm(base, b[block], a)
                    yield weight.device
            self.weights[product.name] = merged
