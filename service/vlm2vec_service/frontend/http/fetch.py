"""Media from URLs, where the operator allows their origin; otherwise data URIs only.

A caller must not make the server talk to what only the server can reach. So an origin has to be
allowed, each redirect's as well. A name is resolved once, every address that it has is looked at,
and the connection is made to one of these. Body, time and redirects are limited. Nothing of the
caller's request, no cookie and no proxy is used.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit
from weakref import WeakValueDictionary

import httpcore

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.frontend.access import Call
from vlm2vec_service.frontend.http.errors import OriginError
from vlm2vec_service.frontend.http.origins import PORTS, is_host, is_public, parse_origins
from vlm2vec_service.preprocess.prepared import Medium
from vlm2vec_service.settings import HttpSettings, Limits

AT_ONCE = 32
"""The most fetches under way, for all requests together."""
AT_ONCE_FOR_ONE = 8
"""The most of them that are one caller's, so that slow hosts of its choice hold up nobody else."""
MOST_RETRY_SECONDS = 300
"""What an origin may ask our callers to wait."""


ACCEPTED = "image/*, video/*, audio/*"


@dataclass(frozen=True)
class RemoteMedia:
    """A part of an input that is to be the image, video or audio, as ``medium`` says, to which
    ``url`` points. ``field`` names the URL in errors."""

    part: pb.Part
    medium: Medium
    url: str
    field: str


def fill_part(part: pb.Part, medium: Medium, data: bytes) -> None:
    """Makes ``part`` the image, video or audio in the file ``data``."""
    if medium is Medium.IMAGE:
        part.image = data
    elif medium is Medium.VIDEO:
        part.video.file = data
    else:
        part.audio.file = data


class Refused(Exception):
    """Says why nothing is fetched from a URL: it is not allowed, or its answer is of no use."""


class Failed(Exception):
    """Says why nothing came from an origin this time: ``status`` is that of our answer, and
    ``retry_after`` the seconds after which to try again."""

    def __init__(self, status: int, problem: str, retry_after: float = 1.0) -> None:
        super().__init__(problem)
        self.status = status
        self.retry_after = retry_after


class Fetcher:
    """Fetches media from the origins that the settings allow, over connections that it keeps."""

    def __init__(self, settings: HttpSettings, limits: Limits) -> None:
        self.settings = settings
        self.limits = limits
        self.origins = parse_origins(settings.fetch_origins)
        self._places = asyncio.Semaphore(AT_ONCE)
        self._places_of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context(),
            network_backend=_CheckedBackend(settings.fetch_private_addresses),
            max_connections=AT_ONCE,
            keepalive_expiry=5.0,
        )

    async def fill(self, items: Sequence[RemoteMedia], call: Call) -> None:
        """Fetches all ``items`` for ``call``, each URL once, as many at once as the caller has
        places; their bytes together are limited like a request's body, and held by the call.

        Raises the error of the first that fails, and gives up the others: `InvalidInputError`,
        `OriginError` where trying again may help, or what `Call.hold` raises.
        """
        if not self.origins:
            raise InvalidInputError(
                items[0].field, "URLs are not fetched here; send a data URI: data:TYPE;base64,..."
            )
        left = [self.settings.http_max_body_bytes]
        equal: dict[tuple[Medium, str], list[RemoteMedia]] = {}
        for item in items:
            equal.setdefault((item.medium, item.url.partition("#")[0]), []).append(item)
        places = self._places_of.setdefault(call.caller, asyncio.Semaphore(AT_ONCE_FOR_ONE))
        try:
            async with asyncio.TaskGroup() as group:
                for same in equal.values():
                    group.create_task(self._fill(same, call, places, left))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def close(self) -> None:
        """Closes all connections."""
        await self._pool.aclose()

    async def _fill(
        self, items: Sequence[RemoteMedia], call: Call, places: asyncio.Semaphore, left: list[int]
    ) -> None:
        """Fills ``items``, which are of one medium and URL."""
        field, medium = items[0].field, items[0].medium
        most = getattr(self.limits, f"max_{medium.value}_bytes")
        seconds = self.settings.fetch_seconds
        try:
            async with places, self._places, asyncio.timeout(seconds):
                data = await self._follow(items, call, most, left)
        except (TimeoutError, httpcore.TimeoutException) as error:
            raise OriginError(504, field, f"not there after {seconds:g} s") from error
        except Failed as error:
            raise OriginError(error.status, field, str(error), error.retry_after) from error
        except Refused as error:
            raise InvalidInputError(field, str(error)) from error
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError, ValueError) as error:
            problem = f"fetching failed: {type(error).__name__}"
            if isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN:
                raise InvalidInputError(field, f"{problem}: there is no such host") from error
            raise OriginError(502, field, problem) from error
        for item in items:
            fill_part(item.part, medium, data)

    async def _follow(
        self, items: Sequence[RemoteMedia], call: Call, most: int, left: list[int]
    ) -> bytes:
        """The body behind the items' URL, through redirects; a copy for each of them counts."""
        url, copies = items[0].url, len(items)
        for _ in range(self.settings.fetch_redirects + 1):
            url = self._checked(url)
            async with self._pool.stream(
                "GET", url, headers={"accept": ACCEPTED, "user-agent": "vlm2vec-serve"}
            ) as answer:
                headers = {k.lower(): v.decode("latin-1") for k, v in answer.headers}
                if answer.status in (301, 302, 303, 307, 308) and b"location" in headers:
                    url = _redirected(url, headers[b"location"])
                    continue
                _check_status(answer.status, headers.get(b"retry-after", ""))
                data = bytearray()
                async for chunk in answer.aiter_stream():
                    left[0] -= copies * len(chunk)
                    if len(data) + len(chunk) > most or left[0] < 0:
                        raise Refused(f"more than {most} bytes, or too much in one request")
                    call.hold(copies * len(chunk), items[0].field)
                    data += chunk
                return bytes(data)
        raise Refused(f"more than fetch_redirects, {self.settings.fetch_redirects}, redirects")

    def _checked(self, url: str) -> str:
        """The URL without fragment. Raises `Refused` unless its origin is allowed."""
        try:
            parts = urlsplit(url)
            scheme, host = parts.scheme.lower(), (parts.hostname or "").lower()
            port = parts.port or PORTS.get(scheme, 0)
            plain = url.isascii() and url.isprintable() and " " not in url
        except ValueError as error:
            raise Refused("no URL") from error
        if not plain or not is_host(host) or parts.username is not None or "\\" in url:
            raise Refused(
                "no URL: give https://HOST/PATH, percent-encoded, without user and password"
            )
        if not any(origin.allows(scheme, host, port) for origin in self.origins):
            raise Refused(
                f"{scheme[:20]}://{host}:{port} is not an origin that this server fetches from"
            )
        return parts._replace(fragment="").geturl()


def _check_status(status: int, retry_after: str) -> None:
    """Raises `Failed` for an answer that may be another one soon: to be asked less often becomes
    503 with the origin's own ``retry_after``, as far as it is a number of seconds, a time-out 504,
    and what else is the origin's fault 502. Raises `Refused` for any other that is not 200."""
    problem = f"fetching failed with status {status}"
    if status in (425, 429, 503):
        seconds = int(retry_after[:9]) if retry_after.isdecimal() else 1
        raise Failed(503, problem, min(max(seconds, 1), MOST_RETRY_SECONDS))
    if status in (408, 504):
        raise Failed(504, problem)
    if status >= 500:
        raise Failed(502, problem)
    if status != 200:
        raise Refused(problem)


def _redirected(url: str, location: str) -> str:
    """Where a redirect from ``url`` leads. Raises `Refused` where that is no URL."""
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise Refused("a redirect leads to no URL") from error


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were looked at, not to names that may change meanwhile."""

    def __init__(self, private: bool) -> None:
        self.private = private
        self._inner = httpcore.AnyIOBackend()
        # Lookups outlast the fetches that gave up on them; the rest of the process has threads of
        # its own.
        self._lookups = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="lookup")

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connects to one of the addresses of ``host``, all of which have to be public."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._lookups, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        addresses = [str(info[4][0]).partition("%")[0] for info in found]
        if not self.private and not all(is_public(ipaddress.ip_address(a)) for a in addresses):
            raise Refused("the host has an address that is not public")
        return await self._inner.connect_tcp(
            addresses[0], port, timeout, local_address, socket_options
        )

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Refuses: no URL leads to a Unix socket."""
        raise Refused("no URL")

    async def sleep(self, seconds: float) -> None:
        """Waits for ``seconds``, as the pool asks for between tries."""
        await asyncio.sleep(seconds)
