"""A server of the digits model that asks for keys, and a browser for its pages."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser

from tests.e2e.auth.guarded import new_key
from tests.e2e.browser import running_browser
from tests.e2e.server import Server, free_ports, running_server

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "demo" / "vlm2vec_demo" / "digits" / "model"


@dataclass(frozen=True)
class Site:
    """The server with a key that may embed, and the browser."""

    server: Server
    key: str
    browser: Browser
    elsewhere: int
    """A port of 127.0.0.1 whose pages may call."""

    @property
    def url(self) -> str:
        """The origin of the server's pages."""
        return f"http://{self.server.http_address}"

    def ask(self, method: str, path: str, **body: Any) -> Any:
        """The answer of the API, which has to be a success."""
        headers = {"authorization": f"Bearer {self.key}"}
        answer = httpx.request(
            method, f"{self.url}{path}", json=body or None, headers=headers, timeout=60
        )
        assert answer.status_code == 200, answer.text
        return answer.json()


@contextlib.contextmanager
def running_site(folder: Path) -> Iterator[Site]:
    """Starts the browser and a server whose version 1 is the champion, and version 2 the canary."""
    with running_browser() as browser:
        key, line = new_key("--name", "page", "--scope", "embed")
        (folder / "callers.jsonl").write_text(line)
        flags: list[str | Path] = ["--model", f"digits={MODEL / 'base'}"]
        for version, alias in (("1", "champion"), ("2", "canary")):
            flags += ["--adapter", f"digits/{version}={MODEL / f'v{version}'}"]
            flags += ["--alias", f"digits@{alias}={version}"]
        (elsewhere,) = free_ports(1)
        flags += ["--http-cors-origins", f"http://127.0.0.1:{elsewhere}"]
        with running_server(folder, *flags, "--callers", folder / "callers.jsonl") as server:
            yield Site(server, key, browser, elsewhere)
