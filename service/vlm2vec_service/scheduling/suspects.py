"""Finds the input that takes workers down, or that a batch fails for, at the cost of few deaths.

A death costs seconds, a small batch milliseconds: so a batch that failed is not run again as it
was, but in many small parts, each alone in its worker. Up to `PARTS` inputs that is one by one, and
the next death tells which it was. All others have their answers before it is tried again.
"""

import hashlib
import itertools
import time
from collections import OrderedDict, deque
from collections.abc import Container, Mapping

from vlm2vec_service.errors import WorkerLostError
from vlm2vec_service.scheduling.batch import BatchInput
from vlm2vec_service.scheduling.fair_queue import QueuedInput
from vlm2vec_service.scheduling.lane import Batch

PARTS = 16
"""How many parts a batch is run in after it failed."""
CRASHES = 2
"""Times that an input may take a worker down alone, after the death that made it a suspect."""
OTHERS_FIRST = 8
"""Batches that are answered after a death before what causes it is tried again, unless there are
no others: it costs the rest no more than a share, and has its turn under any load."""
REFUSED_SECONDS = 600.0
"""How long an input that took workers down is refused untried: it may have been the device's fault,
or the machine's, which somebody has mended since."""
REMEMBERED = 1000
"""How many such inputs are remembered; the oldest is forgotten first."""


class Suspects:
    """Batches that are to run alone. Single-threaded: the event loop's."""

    def __init__(self) -> None:
        self._first: deque[Batch] = deque()
        """Parts that may be innocent: they run before anything else."""
        self._last: deque[Batch] = deque()
        """Parts that have an input which took a worker down: they run when others have run."""
        self._answered = 0
        self._culprits: OrderedDict[bytes, float] = OrderedDict()
        """When each input that took workers down may be tried again, by its digest."""

    def answered(self) -> None:
        """Notes that a batch came back with its vectors."""
        self._answered += 1

    def failed(self, batch: Batch, error: Exception) -> list[QueuedInput]:
        """Puts what ``error`` ended in line to be tried again. Returns the inputs for which there
        is nothing left to try, because they failed alone; one that took its worker down is a
        culprit from then on."""
        died = isinstance(error, WorkerLostError)
        if died:
            self._answered = 0
        count = len(batch.inputs)
        if died and batch.waited:
            self._first.appendleft(Batch(batch.inputs, suspect=True))
        elif count > 1:
            line = self._last if died and batch.suspect else self._first
            parts = min(PARTS, count)
            bounds = [count * i // parts for i in range(parts + 1)]
            for start, end in itertools.pairwise(bounds):
                line.append(Batch(batch.inputs[start:end], suspect=True))
        elif died and batch.deaths + batch.suspect < CRASHES:
            deaths = batch.deaths + batch.suspect
            self._last.append(Batch(batch.inputs, suspect=True, deaths=deaths))
        else:
            if died:
                self._remember(batch.inputs[0].input)
            return batch.inputs
        return []

    def is_culprit(self, input: BatchInput) -> bool:
        """Whether the same input, for the same adapter, took workers down in the last
        `REFUSED_SECONDS`."""
        now = time.monotonic()
        while self._culprits and next(iter(self._culprits.values())) <= now:
            self._culprits.popitem(last=False)
        return bool(self._culprits) and _digest(input) in self._culprits

    def _remember(self, input: BatchInput) -> None:
        digest = _digest(input)
        self._culprits[digest] = time.monotonic() + REFUSED_SECONDS
        self._culprits.move_to_end(digest)
        if len(self._culprits) > REMEMBERED:
            self._culprits.popitem(last=False)

    def waiting(self) -> list[QueuedInput]:
        """All inputs that are to be tried again."""
        return [queued for line in (self._first, self._last) for b in line for queued in b.inputs]

    def is_due(self, refused: Mapping[str, str]) -> bool:
        """Whether a batch should run before what is queued, in a worker without the ``refused``
        adapters."""
        return any(not refused.keys() >= batch.adapters for line in self._due() for batch in line)

    def take(self, refused: Container[str], idle: bool = False) -> Batch | None:
        """Takes the next batch, where nothing else is to do (``idle``) also one that is not due;
        without the inputs for ``refused`` adapters, which stay."""
        for line in (self._first, self._last) if idle else self._due():
            for _ in range(len(line)):
                batch = line.popleft()
                alive = [queued for queued in batch.inputs if not queued.is_dead()]
                batch.inputs = [queued for queued in alive if queued.input.adapter not in refused]
                if elsewhere := [queued for queued in alive if queued.input.adapter in refused]:
                    line.append(Batch(elsewhere, suspect=True, deaths=batch.deaths))
                if batch.inputs:
                    return batch
        return None

    def _due(self) -> list[deque[Batch]]:
        return [self._first] + [self._last] * (self._answered >= OTHERS_FIRST)


def _digest(input: BatchInput) -> bytes:
    """Equal for two inputs that a worker computes alike: where media stand, and so the positions,
    follows from the token ids."""
    ids = input.prepared.token_ids.tobytes()
    digest = hashlib.blake2b(f"{input.adapter} {len(ids)} ".encode(), digest_size=16)
    for part in (ids, *(media.digest for media in input.prepared.media)):
        digest.update(part)
    return digest.digest()
