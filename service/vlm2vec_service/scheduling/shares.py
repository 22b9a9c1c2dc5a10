"""An amount that is shared fairly: how much of it each flow may have, and whose turn it is."""

import asyncio
from collections import Counter, OrderedDict

from vlm2vec_service.scheduling.fair_queue import Flow


class Shares:
    """Hands out at most ``most`` of something to flows.

    A flow may have no more than it leaves free: alone it gets half, two get a third each, and
    whoever comes finds room although the others have all they may. Single-threaded: the event
    loop's.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0
        """What all flows have together."""
        self._taken: Counter[Flow] = Counter()
        self._waiting: OrderedDict[Flow, OrderedDict[asyncio.Future[None], int]] = OrderedDict()
        """Who waits, in order, and for how much; the flow whose turn it is comes first."""

    @property
    def waiting(self) -> int:
        """How many wait, of all flows."""
        return sum(map(len, self._waiting.values()))

    def has_room(self, flow: Flow, amount: int = 1) -> bool:
        """Whether ``flow`` would still leave as much free as it has, with ``amount`` more."""
        return self._taken[flow] + amount <= self.most - self.taken - amount

    def taken_by(self, flow: Flow) -> int:
        """What ``flow`` has."""
        return self._taken[flow]

    def take(self, flow: Flow, amount: int = 1) -> None:
        """Takes ``amount``, whether or not there is room."""
        self.taken += amount
        self._taken[flow] += amount

    def give_back(self, flow: Flow, amount: int = 1) -> None:
        """Gives ``amount`` back, to those who wait."""
        self.taken -= amount
        self._taken[flow] -= amount
        if not self._taken[flow]:  # callers come and go
            del self._taken[flow]
        self.hand_out()

    def take_if_free(self, flow: Flow, amount: int = 1) -> bool:
        """Takes ``amount`` if there is room and nobody waits for it; says whether it did."""
        free = not self._waiting and self.has_room(flow, amount)
        if free:
            self.take(flow, amount)
        return free

    async def wait(self, flow: Flow, amount: int = 1) -> None:
        """Takes ``amount`` as soon as there is room: flows in turn, and in each who came first."""
        if self.take_if_free(flow, amount):
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(flow, OrderedDict())[place] = amount
        self.hand_out()
        try:
            await place
        except asyncio.CancelledError:
            if place.cancelled():
                self._forget(flow, place)
                self.hand_out()
            else:  # it got what it waited for in the same moment
                self.give_back(flow, amount)
            raise

    def hand_out(self) -> None:
        """Serves who waits, flows in turn, as long as there is room. To be called when there may be
        more room although nobody gave anything back."""
        served = True
        while served:
            served = False
            for flow in list(self._waiting):
                if self._serve(flow):
                    served = True
                elif not self._taken[flow]:
                    return  # who has nothing and waits for much is not overtaken for ever

    def _serve(self, flow: Flow) -> bool:
        """Gives who has waited longest in ``flow`` its amount, if there is room for it."""
        place, amount = next(iter(self._waiting[flow].items()))
        if not place.cancelled() and not self.has_room(flow, amount):
            return False
        self._forget(flow, place)
        if flow in self._waiting:
            self._waiting.move_to_end(flow)
        if not place.cancelled():
            self.take(flow, amount)
            place.set_result(None)
        return True

    def _forget(self, flow: Flow, place: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(flow)
        if waiting is not None:
            waiting.pop(place, None)
            if not waiting:
                del self._waiting[flow]
