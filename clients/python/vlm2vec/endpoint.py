"""How a server is reached: the target, the credentials and the options of a gRPC channel."""

import json
import os
import re
from dataclasses import dataclass

import grpc

from vlm2vec.media import FilePath
from vlm2vec.version import __version__

# Every address that the name resolves to takes its turn.
_SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
# A server that restarts is back within seconds; gRPC itself would wait up to two minutes.
_RECONNECT_MILLISECONDS = (200, 5_000)
_KEEPALIVE_TIMEOUT_MILLISECONDS = 20_000
_MOST_MILLISECONDS = 2**31 - 1
_NAMED = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "xds:")
"""How a target begins that names a resolver of gRPC."""
_HOST_AND_PORT = re.compile(r"(?:\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]]+):\d{1,5}")
_URL = re.compile(
    r"(?P<scheme>https?|grpcs?)://(?:[^/@]*@)?(?P<host>\[[^]]*\]|[^/:]*)", re.IGNORECASE
)


@dataclass(frozen=True)
class Endpoint:
    """All that it takes to open a channel to a server and to make calls on it."""

    target: str
    """The server as gRPC names it, such as ``dns:///localhost:50051``."""
    options: tuple[tuple[str, str | int], ...]
    """Names and values of gRPC's channel arguments."""
    credentials: grpc.ChannelCredentials | None
    """The keys and certificates for TLS; None is a connection without it."""
    metadata: tuple[tuple[str, str], ...]
    """Names and values of the headers that are sent with every call."""


def endpoint(
    server: str,
    *,
    tls: bool | FilePath,
    certificate: tuple[FilePath, FilePath] | None,
    api_key: str | None,
    max_message_bytes: int,
    keepalive: float,
    user_agent: str,
) -> Endpoint:
    """Returns the `Endpoint` for the settings of a client, which `BaseClient` describes.

    Raises ValueError if they contradict each other or the server is a URL, and OSError for a file
    that cannot be read.
    """
    initial, longest = _RECONNECT_MILLISECONDS
    return Endpoint(
        target=_target(server),
        options=(
            ("grpc.service_config", _SERVICE_CONFIG),
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.keepalive_time_ms", round(min(1000 * keepalive, _MOST_MILLISECONDS))),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MILLISECONDS),
            # Else a new client of a server that was away inherits the waits of an older one.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", initial),
            ("grpc.max_reconnect_backoff_ms", longest),
            ("grpc.dns_min_time_between_resolutions_ms", longest),
            ("grpc.primary_user_agent", f"{user_agent} vlm2vec-client/{__version__}".strip()),
        ),
        credentials=_credentials(tls, certificate),
        metadata=(("authorization", f"Bearer {_header(api_key)}"),) if api_key else (),
    )


def _target(server: str) -> str:
    """Returns a target that gRPC resolves by DNS, unless ``server`` names a resolver itself.

    Raises ValueError for a URL, as what is usually at hand is that of the HTTP port, and for what
    has no port, where gRPC would take that of HTTPS.
    """
    if not isinstance(server, str):
        raise TypeError(f"server is {type(server).__name__}, not host:port")
    if url := _URL.match(server):
        tls = ", tls=True" if url["scheme"].lower().endswith("s") else ""
        host = url["host"] or "localhost"
        raise ValueError(
            f"server is host:port, not a URL like {server!r}: write Client('{host}:50051'{tls}), "
            "with the port of gRPC, which is not that of HTTP (8080)"
        )
    if server.startswith(_NAMED):
        return server
    if not _HOST_AND_PORT.fullmatch(server):
        raise ValueError(
            f"server is {server!r}, not host:port, such as 'localhost:50051' or '[::1]:50051'"
        )
    return f"dns:///{server}"


def _header(api_key: str) -> str:
    """Returns the key without white space around it, which files and variables often have.

    Raises ValueError for one that no header can hold. gRPC would, too, and show it.
    """
    key = api_key.strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError("api_key has a character that a header cannot have, such as a line break")
    return key


def _credentials(
    tls: bool | FilePath, certificate: tuple[FilePath, FilePath] | None
) -> grpc.ChannelCredentials | None:
    if not tls:
        if certificate is not None:
            raise ValueError("a client certificate needs tls=True, or the path of a CA")
        return None
    chain, key = certificate or (None, None)
    return grpc.ssl_channel_credentials(
        root_certificates=None if isinstance(tls, bool) else _read(tls),
        private_key=None if key is None else _read(key),
        certificate_chain=None if chain is None else _read(chain),
    )


def _read(path: FilePath) -> bytes:
    with open(os.fspath(path), "rb") as file:
        return file.read()
