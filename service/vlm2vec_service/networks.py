"""Networks whose hosts are trusted, and whether an address is in one of them."""

import ipaddress
from dataclasses import dataclass
from urllib.parse import unquote

UNIX = "unix"
"""Stands for every process of this host that connects by the file of a socket."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Networks:
    """Some networks, and with ``unix`` who connects by a file."""

    networks: tuple[Network, ...] = ()
    unix: bool = False

    @classmethod
    def parse(cls, text: str) -> "Networks":
        """Parses networks, addresses and `UNIX`, comma-separated. Raises ValueError for others."""
        words = [word.strip() for word in text.split(",") if word.strip()]
        networks = tuple(ipaddress.ip_network(word) for word in words if word != UNIX)
        return cls(networks, UNIX in words)

    def __bool__(self) -> bool:
        return self.unix or bool(self.networks)

    def __contains__(self, peer: str) -> bool:
        """Whether ``peer``, an address as gRPC writes it, with or without a port, is in one."""
        kind, _, rest = peer.partition(":")
        if kind == "unix":
            return self.unix
        rest = unquote(rest)
        host = rest[1:].partition("]")[0] if rest.startswith("[") else rest.partition(":")[0]
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped in network for network in self.networks)
