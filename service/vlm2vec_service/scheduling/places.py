"""Places in a model's queue: how many inputs may be admitted, and whose turn it is to get one."""

import asyncio
from collections import Counter, OrderedDict

from vlm2vec_service.scheduling.fair_queue import FairQueue, Flow


class Places:
    """Counts the inputs that are admitted and not yet answered, by `Flow`.

    A flow may have no more places than it leaves free: alone it gets half of ``max_requests``, two
    get a third each, and whoever comes finds room although the others have all they may. So all
    flows together hold at most ``max_requests`` inputs, and those of one call more, since a call is
    let in as a whole. The same holds for the tokens that wait, and ``max_tokens``. Single-threaded:
    the event loop's.
    """

    def __init__(self, max_requests: int, max_tokens: int, queue: FairQueue) -> None:
        self.max_requests = max_requests
        self.max_tokens = max_tokens
        self.queue = queue
        self.taken = 0
        """Places of all flows."""
        self._taken: Counter[Flow] = Counter()
        self._waiting: OrderedDict[Flow, OrderedDict[asyncio.Future[None], int]] = OrderedDict()
        """Who waits, in order, and for how many places; the flow whose turn it is comes first."""

    def has_room(self, flow: Flow) -> bool:
        """Whether ``flow`` has fewer places, and fewer waiting tokens, than are free."""
        return (
            self._taken[flow] < self.max_requests - self.taken
            and self.queue.tokens_of(flow) < self.max_tokens - self.queue.tokens
        )

    def taken_by(self, flow: Flow) -> int:
        """Places that ``flow`` has."""
        return self._taken[flow]

    def take(self, flow: Flow, inputs: int = 1) -> None:
        """Takes places, whether or not there is room."""
        self.taken += inputs
        self._taken[flow] += inputs

    def give_back(self, flow: Flow, inputs: int = 1) -> None:
        """Gives places back, to those who wait for one."""
        self.taken -= inputs
        self._taken[flow] -= inputs
        if not self._taken[flow]:  # callers come and go
            del self._taken[flow]
        self.hand_out()

    async def wait(self, flow: Flow, inputs: int = 1) -> None:
        """Takes places as soon as there is room: flows in turn, and in each who came first."""
        place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(flow, OrderedDict())[place] = inputs
        self._serve(flow)
        try:
            await place
        except asyncio.CancelledError:
            if place.cancelled():
                self._forget(flow, place)
            else:  # it got its places in the same moment
                self.give_back(flow, inputs)
            raise

    def hand_out(self) -> None:
        """Serves who waits, flows in turn, as long as there is room. To be called when tokens may
        have left the queue without an answer."""
        served = True
        while served:
            served = False
            for flow in list(self._waiting):
                served |= self._serve(flow)

    def _serve(self, flow: Flow) -> bool:
        """Gives places to who has waited longest in ``flow``, if there is room for it."""
        if not self.has_room(flow):
            return False
        place, inputs = next(iter(self._waiting[flow].items()))
        self._forget(flow, place)
        if flow in self._waiting:
            self._waiting.move_to_end(flow)
        if place.cancelled():
            return True
        self.take(flow, inputs)
        place.set_result(None)
        return True

    def _forget(self, flow: Flow, place: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(flow)
        if waiting is not None:
            waiting.pop(place, None)
            if not waiting:
                del self._waiting[flow]
