"""Which origins may be allowed, and what an allowed page and any other is told."""

import asyncio

import httpx
import pytest
from fastapi import FastAPI

from vlm2vec_service.errors import StartError
from vlm2vec_service.frontend.http.cors import allow_origins

PAGE = "https://app.example.com"


def ask(origins: str, method: str, headers: dict[str, str]) -> httpx.Response:
    """The answer of an application whose only path is ``/``."""
    app = FastAPI()
    app.get("/")(lambda: "here")
    allow_origins(app, origins)

    async def answer() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.request(method, "/", headers=headers)

    return asyncio.run(answer())


@pytest.mark.parametrize(
    "origin",
    [
        "app.example.com", "https://", "https://app.example.com/", "https://App.example.com",
        "https://*.example.com", "https://a.example.com:port", "null", "https://a b", "**",
        "https://user@app.example.com", "https://app.example.com?x", "//app.example.com",
    ],
)  # fmt: skip
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(StartError, match=r"--http-cors-origins: .* nor an origin") as refused:
        allow_origins(FastAPI(), f"{PAGE}, {origin}")
    assert repr(origin) in str(refused.value)


@pytest.mark.parametrize(
    "origin", [PAGE, "http://localhost:3000", "http://[::1]:8080", "chrome-extension://abcdef"]
)
def test_origins_are_exact(origin: str) -> None:
    for asking in (origin, origin + ".example.org", origin + "0", origin[:-1], "null"):
        found = ask(f"https://else.example.com, {origin}", "GET", {"origin": asking})
        assert found.text == '"here"'
        allowed = found.headers.get("access-control-allow-origin")
        assert allowed == (origin if asking == origin else None)
        assert "Origin" in found.headers["vary"]


def test_nobody_is_told_to_send_what_the_browser_keeps() -> None:
    preflight = {"origin": PAGE, "access-control-request-method": "POST"}
    for origins in ("*", PAGE, f"*, {PAGE}"):
        for method, headers in (("GET", {"origin": PAGE}), ("OPTIONS", preflight)):
            found = ask(origins, method, headers)
            assert found.headers["access-control-allow-origin"] in ("*", PAGE)
            assert "access-control-allow-credentials" not in found.headers


def test_none_is_allowed_by_default() -> None:
    for origins in ("", " , "):
        found = ask(origins, "GET", {"origin": PAGE})
        assert not [name for name in found.headers if name.startswith("access-control")]
