"""A notice of MLflow's that one server gets is passed on to all, once, and costs it nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI

from tests.unit.test_webhook import BODY, headers
from vlm2vec_service.errors import StartError
from vlm2vec_service.frontend.http import peers, webhook
from vlm2vec_service.frontend.http.peers import PASSED_ON, Peers
from vlm2vec_service.frontend.pipeline import Pipeline

Heard = list[tuple[dict[str, str], bytes]]


class Followed:
    """What a webhook's route needs of a pipeline: one model, ``v2``, that follows a registry."""

    def __init__(self) -> None:
        self.pokes = 0
        model = SimpleNamespace(name="v2")
        self.served = {"v2": SimpleNamespace(follower=self, model=model)}

    def poke(self) -> None:
        self.pokes += 1


def server_of(tmp_path: Path, pipeline: Followed, peers: Peers | None) -> httpx.AsyncClient:
    """A client of a server in this process whose webhooks are signed with ``s3cret``."""
    (tmp_path / "secret").write_text("s3cret\n")
    app = FastAPI()
    secret = str(tmp_path / "secret")
    app.include_router(webhook.routes(cast("Pipeline", pipeline), secret, peers))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://a")


async def listen(status: bytes, heard: Heard) -> tuple[asyncio.Server, str]:
    """A server that notes what it hears; returns it and its address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:]
        pairs = (line.split(": ", 1) for line in head if line)
        fields = {key.lower(): value for key, value in pairs}
        heard.append((fields, await reader.readexactly(int(fields["content-length"]))))
        writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def found(*addresses: str) -> Callable[[str], Awaitable[set[str]]]:
    """Stands for a DNS that has ``addresses`` for any name."""

    async def lookup(name: str) -> set[str]:
        return set(addresses)

    return lookup


def test_every_server_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        heard: Heard = []
        first, one = await listen(b"204 No Content", heard)
        second, two = await listen(b"401 Unauthorized", heard)  # it has had the notice
        third, broken = await listen(b"503 Service Unavailable", [])
        monkeypatch.setattr(peers, "lookup_aside", found(one, two, broken, "127.0.0.1:1"))
        pipeline = Followed()
        client = server_of(tmp_path, pipeline, Peers("http://all:8080"))

        async def tell(notice: dict[str, str]) -> bool:
            return (await client.post(webhook.PATH, content=BODY, headers=notice)).is_success

        async with first, second, third, client:
            signed = headers()
            assert await tell(signed)
            assert pipeline.pokes == 1
            assert [body for _, body in heard] == [BODY, BODY]
            for fields, _ in heard:
                assert signed.items() <= fields.items()
                assert fields["host"] == "all:8080"
            assert await tell(headers(delivery="2") | {PASSED_ON: "1"})
            assert (pipeline.pokes, len(heard)) == (2, 2)
            assert not await tell(headers(secret="guess", delivery="3"))
            assert (pipeline.pokes, len(heard)) == (2, 2)

    asyncio.run(scene())
    assert [text for text in caplog.messages if "2 of 4 servers could not be told" in text]


def test_a_name_that_nobody_knows_costs_the_notice_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def away(name: str) -> set[str]:
        raise OSError("no DNS")

    async def scene() -> None:
        monkeypatch.setattr(peers, "lookup_aside", away)
        pipeline = Followed()
        async with server_of(tmp_path, pipeline, Peers("https://all")) as client:
            assert (await client.post(webhook.PATH, content=BODY, headers=headers())).is_success
        assert pipeline.pokes == 1

    asyncio.run(scene())
    assert caplog.messages == ["webhook: all:443: no DNS"]


@pytest.mark.parametrize(
    "url", ["all", "all:8080", "ftp://all", "http://", "http://all:x", "http://all/path"]
)
def test_what_is_no_url_is_said(url: Any) -> None:
    with pytest.raises(StartError, match="is not http://HOST:PORT"):
        Peers(url)
