"""Where URLs of callers may point to: origins, hosts that DNS can have, and public addresses."""

import ipaddress
import re
from dataclasses import dataclass

from vlm2vec_service.errors import StartError

ORIGIN = re.compile(r"(https?)://((?:\*\.)?[a-z0-9.-]+|\[[0-9a-f:]+\])(?::(\d{1,5}))?/?")
PORTS = {"http": 80, "https": 443}
NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses that stand for IPv4 ones (RFC 6052)."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Origin:
    """Where URLs may point to: a scheme, a port, and a host or ``*.`` and a domain."""

    scheme: str
    host: str
    port: int

    def allows(self, scheme: str, host: str, port: int) -> bool:
        """Whether a URL of ``scheme``, ``host`` and ``port`` is of this origin."""
        fits = host.endswith(self.host[1:]) if self.host.startswith("*.") else host == self.host
        return fits and (scheme, port) == (self.scheme, self.port)


def parse_origins(text: str) -> tuple[Origin, ...]:
    """Parses a comma-separated list of origins. Raises `StartError`."""
    origins = []
    for item in text.lower().split(","):
        if not item.strip():
            continue
        match = ORIGIN.fullmatch(item.strip())
        if match is None:
            raise StartError(
                f"{item.strip()!r} is not https://HOST or https://*.DOMAIN", "fetch_origins"
            )
        scheme, host, port = match.groups()
        origins.append(Origin(scheme, host.strip("[]"), int(port or PORTS[scheme])))
    return tuple(origins)


def is_public(address: Address) -> bool:
    """Whether ``address`` is one of the public internet, and so is an IPv4 address inside it."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.teredo:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def is_host(host: str) -> bool:
    """Whether ``host`` is an IPv6 address, or labels of 1 to 63 characters, 253 in all, as DNS has
    them: others do not get as far as DNS."""
    labels = host.split(".")
    return ":" in host or (len(host) <= 253 and all(1 <= len(label) <= 63 for label in labels))
