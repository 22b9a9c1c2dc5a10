"""The addresses that are listened on: which only this host reaches, taking them, and room for the
connections to them."""

import ipaddress
import logging
import os
import resource
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

from vlm2vec_service.errors import StartError

log = logging.getLogger(__name__)

OTHER_FILES = 512
"""Files that a front end has open beside its callers' connections, and to spare."""


def host_and_port(address: str) -> tuple[str, int]:
    """Splits HOST:PORT, where HOST may be an IPv6 address in brackets, or empty for all addresses
    of this host. Raises ValueError for what is none."""
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or "/" in address or (":" in host and not bracketed):
        raise ValueError("is not HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051")
    if not (port.isascii() and port.isdecimal() and int(port) < 65_536):
        raise ValueError(f"has no port between 0 and 65535: {port[:20]!r}")
    return host.strip("[]"), int(port)


def is_local(address: str) -> bool:
    """Whether only this host reaches ``address``, HOST:PORT or unix:PATH."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bind(address: str, shared: bool = False) -> socket.socket:
    """A socket that listens on ``address``, which may be ``shared`` with other processes. Raises
    `StartError` if it is not to be had."""
    try:
        if address.startswith("unix:"):
            return _bind_unix(address.removeprefix("unix:"))
        host, port = host_and_port(address)
        listener = socket.create_server(
            (host, port),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=1024,
            reuse_port=shared,
        )
        # Connections inherit it. asyncio sets it itself only where a socket says that it is TCP's,
        # which this one does not; without it a body waits 40 ms for its head to be acknowledged.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, ValueError, OverflowError) as error:
        raise StartError(f"cannot listen on {address}: {error}") from error


def check_free(addresses: Mapping[str, str]) -> None:
    """Raises `StartError` for an address that cannot be had, or that two settings name; they are by
    the name of their setting, and an empty one is none.

    Nothing holds the addresses afterwards: it is for saying so before what takes minutes.
    """
    taken: dict[str, socket.socket] = {}
    try:
        for name, address in addresses.items():
            if address and not address.startswith("unix-abstract:"):
                try:
                    taken[address] = bind(address)
                except StartError as error:
                    raise StartError(str(error), name) from error
    finally:
        for address, listener in taken.items():
            listener.close()
            if address.startswith("unix:"):
                Path(address.removeprefix("unix:")).unlink()


def allow_connections(most: int) -> None:
    """Lets the process have files enough for ``most`` connections, as far as the system does."""
    needed = most + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        log.warning(
            "the system lets the process open %d files; %d connections may take %d (ulimit -n)",
            allowed, most, needed,
        )  # fmt: skip


def _bind_unix(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        try:
            listener.bind(path)
        except OSError:
            # Left behind by a server that is gone? Then nobody answers there.
            if not stat.S_ISSOCK(os.stat(path).st_mode) or listener.connect_ex(path) == 0:
                raise
            os.unlink(path)
            listener.close()
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
    except OSError:
        listener.close()
        raise
    listener.listen(1024)
    return listener
