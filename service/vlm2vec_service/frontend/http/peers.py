"""The other servers that follow the registry. MLflow's notice reaches one of them, where its URL is
that of a load balancer or of a Service of Kubernetes, and that one passes it on to all."""

import asyncio
import logging
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpcore

from vlm2vec_registry.webhook import DELIVERY, SIGNATURE, TIMESTAMP
from vlm2vec_service.errors import StartError
from vlm2vec_service.supervision.discovery import lookup_aside

log = logging.getLogger(__name__)

PASSED_ON = "x-vlm2vec-passed-on"
"""The header of a notice that a server passed on, which nobody passes on again."""
KEPT = (SIGNATURE, DELIVERY, TIMESTAMP, "content-type")
SECONDS = 5.0
"""How long the DNS, or one server, may take."""
TAKEN = (204, 401)
"""What a server answers to a notice, and to one that it has had: this server is among its peers."""


class Peers:
    """The servers at every address of the host in ``url``. Raises `StartError` for what is none.

    Over https the certificate has to be of that host, by an authority that the system trusts.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port or {"http": 80, "https": 443}[parts.scheme]
            self._host, rest = parts.hostname or "", parts.path + parts.query + parts.fragment
        except (ValueError, KeyError):
            self._host, rest = "", ""
        if not self._host or rest not in ("", "/"):
            raise StartError(
                f"{url!r} is not http://HOST:PORT or https://HOST:PORT", "webhook_peers"
            )
        self._scheme, self._name = parts.scheme, f"{self._host}:{port}"

    async def tell(self, path: str, headers: Mapping[str, str], body: bytes) -> None:
        """Passes a notice on that came to ``path``. Who cannot be told looks by itself, later."""
        try:
            async with asyncio.timeout(SECONDS):
                addresses = sorted(await lookup_aside(self._name))
        except (OSError, TimeoutError) as error:
            log.warning("webhook: %s: %s", self._name, error or "the DNS does not answer")
            return
        passed = [(key, headers[key]) for key in KEPT if key in headers]
        passed += [("host", self._name), (PASSED_ON, "1")]
        async with httpcore.AsyncConnectionPool(ssl.create_default_context()) as pool:
            problems = await asyncio.gather(
                *(self._post(pool, f"{self._scheme}://{one}{path}", passed, body)
                  for one in addresses)
            )  # fmt: skip
        if failed := [problem for problem in problems if problem]:
            log.warning(
                "webhook: %d of %d servers could not be told: %s",
                len(failed), len(addresses), failed[0],
            )  # fmt: skip

    async def _post(
        self, pool: httpcore.AsyncConnectionPool, url: str, headers: list[tuple[str, str]],
        body: bytes,
    ) -> str:  # fmt: skip
        """Returns why the server at ``url`` did not take the notice; empty where it did."""
        try:
            async with asyncio.timeout(SECONDS):
                answer = await pool.request(
                    "POST", url, headers=headers, content=body,
                    extensions={"sni_hostname": self._host},
                )  # fmt: skip
        except (OSError, TimeoutError, httpcore.NetworkError, httpcore.ProtocolError) as error:
            return f"{url}: {error or type(error).__name__}"
        return "" if answer.status in TAKEN else f"{url}: status {answer.status}"
