"""Places in a model's queue: how many inputs may be admitted, and whose turn it is to get one."""

from vlm2vec_service.scheduling.fair_queue import FairQueue, Flow
from vlm2vec_service.scheduling.shares import Shares


class Places(Shares):
    """Shares of ``max_requests``: the inputs that are admitted and not yet answered.

    A flow gets places while it has fewer than are free. So all flows together hold at most
    ``max_requests`` inputs, and one call's window more, since that is let in as a whole. The same
    holds for the tokens that wait, and ``max_tokens``.
    """

    def __init__(self, max_requests: int, max_tokens: int, queue: FairQueue) -> None:
        super().__init__(max_requests)
        self.max_tokens = max_tokens
        self.queue = queue

    def has_room(self, flow: Flow, amount: int = 1) -> bool:
        """Whether ``flow`` has fewer places, and fewer waiting tokens, than are free; for how many
        inputs it asks makes no difference."""
        return (
            self.taken_by(flow) < self.most - self.taken
            and self.queue.tokens_of(flow) < self.max_tokens - self.queue.tokens
        )
