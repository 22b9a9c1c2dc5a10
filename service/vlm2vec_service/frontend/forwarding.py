"""What headers say of a caller: the address that a proxy saw, and the key that routes it."""

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vlm2vec_service.networks import Networks
from vlm2vec_service.settings import AuthSettings

FORWARDED_FOR = "x-forwarded-for"

Headers = Callable[[str], Sequence[str]]
"""The values of a header by its name in lower case, in their order; none where it is missing."""


@dataclass(frozen=True)
class Forwarding:
    """What is believed: the addresses that ``trusted`` proxies forward, and the routing key in the
    header of that name; an empty name is none."""

    trusted: Networks
    routing_key_header: str

    @classmethod
    def of(cls, settings: AuthSettings) -> "Forwarding":
        """Makes it as the settings say."""
        return cls(Networks.parse(settings.trusted_proxies), settings.routing_key_header.lower())

    def client(self, peer: str, headers: Headers) -> str:
        """The address from which a call came to the first of the trusted proxies that forwarded
        it, as gRPC writes one, without a port; empty where ``peer``, who connects, is none of them,
        or says nothing.

        Each proxy adds whom it saw at the end, and anybody may have written what is before that: so
        it is read from the end, as long as who wrote is trusted.
        """
        if not self.trusted:
            return ""
        hops = ",".join(headers(FORWARDED_FOR)).split(",")
        found, writer = "", peer
        while hops and writer in self.trusted:
            address = _parsed(hops.pop())
            if address is None:
                break
            found = writer = address
        return found

    def routing_key(self, headers: Headers) -> str:
        """The key that routes the call; empty where no header has one."""
        if not self.routing_key_header:
            return ""
        return ",".join(headers(self.routing_key_header))


def _parsed(hop: str) -> str | None:
    """An address of X-Forwarded-For, with or without a port, as gRPC writes it; None for none."""
    hop = hop.strip()
    host = hop[1:].partition("]")[0] if hop.startswith("[") else hop
    if hop.count(":") == 1:
        host = hop.partition(":")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return f"ipv6:[{address}]"
        address = address.ipv4_mapped
    return f"ipv4:{address}"
