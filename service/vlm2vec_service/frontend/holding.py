"""Budgets in bytes for what requests hold in this process, and what one of them holds."""

from typing import Self

from vlm2vec_service.errors import ExhaustedError, InvalidInputError
from vlm2vec_service.scheduling.fair_queue import Flow
from vlm2vec_service.scheduling.shares import Shares


class ByteBudget(Shares):
    """Shares of the bytes that requests may hold together, as many as ``setting`` says."""

    def __init__(self, setting: str, most: int) -> None:
        super().__init__(most)
        self.setting = setting

    def check(self, amount: int, field: str) -> None:
        """Refuses what would never have room: a caller alone may hold half of the budget.

        Raises `InvalidInputError` that names ``field`` and the limit.
        """
        if not self.could_hold(amount):
            raise InvalidInputError(
                field,
                f"it takes {amount} bytes of memory, more than half of {self.setting}, {self.most}",
            )

    def could_hold(self, amount: int) -> bool:
        """Whether there is room for ``amount`` when nobody holds anything."""
        return 2 * amount <= self.most


class Holding:
    """What one request holds of ``budget``, in the name of ``flow``, until `release`."""

    def __init__(self, budget: ByteBudget, flow: Flow) -> None:
        self.budget = budget
        self.flow = flow
        self.amount = 0

    def take(self, amount: int, field: str) -> None:
        """Takes ``amount`` more. Raises `ExhaustedError` where there is no room now, and
        `InvalidInputError` that names ``field`` where there never would be."""
        budget, flow = self.budget, self.flow
        budget.check(self.amount + amount, field)
        if not budget.has_room(flow, amount):
            raise ExhaustedError(
                f"too much memory is held: {budget.taken_by(flow)} bytes by this caller, "
                f"{budget.taken} in all ({budget.setting} {budget.most})",
                retry_after=1.0,
            )
        budget.take(flow, amount)
        self.amount += amount

    async def wait(self, amount: int) -> None:
        """Takes ``amount`` more as soon as there is room; for what never has room it is for ever,
        so `ByteBudget.check` comes first."""
        await self.budget.wait(self.flow, amount)
        self.amount += amount

    def keep(self, amount: int) -> None:
        """Gives back all but ``amount``; or takes what is lacking, room or not."""
        if amount > self.amount:
            self.budget.take(self.flow, amount - self.amount)
        elif amount < self.amount:
            self.budget.give_back(self.flow, self.amount - amount)
        self.amount = amount

    def release(self) -> None:
        """Gives everything back. To be called again does no harm."""
        self.keep(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()
