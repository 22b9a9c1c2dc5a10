"""Workers on other hosts, found by a name of the DNS: those that come, and those that went."""

import asyncio
import functools
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence

from vlm2vec_service.supervision.process import Worker
from vlm2vec_service.tasks import in_daemon_thread

log = logging.getLogger(__name__)

PREFIX = "dns:"
"""Before HOST:PORT: every address of the host is a worker."""
LOOK_SECONDS = 5.0
"""Between looks at the DNS."""
NOBODY = {socket.EAI_NONAME, socket.EAI_NODATA}
"""The DNS answers, and the name has no address."""


def lookup(name: str) -> set[str]:
    """Returns the addresses, as HOST:PORT, of a ``name`` with a port; none where the DNS knows of
    none. Raises `OSError` where it cannot be asked."""
    host, _, port = name.rpartition(":")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in NOBODY:
            return set()
        raise
    addresses = [str(address[0]) for *_, address in found]
    return {f"[{one}]:{port}" if ":" in one else f"{one}:{port}" for one in addresses}


async def lookup_aside(name: str) -> set[str]:
    """Does as `lookup` in a thread of its own, since the DNS may take its time."""
    return await in_daemon_thread(functools.partial(lookup, name))


class Discovery:
    """Keeps ``workers``, those of one model, the ones that ``names`` stand for; ``make`` makes one
    of its address."""

    def __init__(
        self,
        names: Sequence[str],
        workers: list[Worker],
        make: Callable[[str], Worker],
        addresses_of: Callable[[str], Awaitable[set[str]]] = lookup_aside,
    ) -> None:
        self.names = names
        self.workers = workers
        self.make = make
        self.addresses_of = addresses_of
        self._trouble = ""

    async def run(self, came: Callable[[Worker], None], went: Callable[[Worker], None]) -> None:
        """Looks every few seconds, until cancelled; see `look`."""
        while True:
            await self.look(came, went)
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self, came: Callable[[Worker], None], went: Callable[[Worker], None]) -> None:
        """Asks the DNS once, and calls ``came`` with each worker that is new, ``went`` with each
        that is gone. Nothing changes while the DNS is away, and one that answers stays."""
        try:
            found = set[str]().union(*[await self.addresses_of(name) for name in self.names])
        except OSError as error:
            if self._trouble != str(error):
                log.warning("workers at %s cannot be looked up: %s", ", ".join(self.names), error)
            self._trouble = str(error)
            return
        self._trouble = ""
        for address in sorted(found - {worker.address for worker in self.workers}):
            worker = self.make(address)
            log.info("worker %s was found", worker.name)
            self.workers.append(worker)
            came(worker)
        for worker in list(self.workers):
            if worker.address not in found and not worker.ready:
                log.info("worker %s is gone", worker.name)
                self.workers.remove(worker)
                went(worker)
