"""The server, and both clients behind one face."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeAlias

import grpc
import pytest

import vlm2vec
from tests.client.server import Service, start

DATA = Path(__file__).parent / "data"
"""Certificates and keys of a made-up authority, good for a hundred years."""


class Twin:
    """`vlm2vec.AsyncClient` with the methods of `vlm2vec.Client`, so that one test is for both."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self._client = vlm2vec.AsyncClient(*args, **settings)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()

    def embed(self, *args: Any, **options: Any) -> Any:
        return self._runner.run(self._client.embed(*args, **options))

    def similarity(self, *args: Any, **options: Any) -> Any:
        return self._runner.run(self._client.similarity(*args, **options))

    def rank(self, *args: Any, **options: Any) -> Any:
        return self._runner.run(self._client.rank(*args, **options))

    def models(self, **options: Any) -> Any:
        return self._runner.run(self._client.models(**options))

    def stream(self, *args: Any, **options: Any) -> Any:
        return self._each(self._client.stream(*args, **options))

    def _each(self, stream: Any) -> Iterator[Any]:
        async def following() -> tuple[Any, ...]:
            return (await anext(stream, None),)

        try:
            while (result := self._runner.run(following())[0]) is not None:
                yield result
        finally:
            self._runner.run(stream.aclose())


Connect: TypeAlias = Callable[..., Any]
"""Opens a client of ``service`` with settings."""


@pytest.fixture
def service() -> Iterator[Service]:
    """A server that runs."""
    service = Service()
    server = start(service)
    yield service
    server.stop(None).wait()


@pytest.fixture
def secure() -> Iterator[Service]:
    """A server that asks for a certificate."""
    pair = ((DATA / "server.key").read_bytes(), (DATA / "server.pem").read_bytes())
    authority = (DATA / "ca.pem").read_bytes()
    service = Service()
    server = start(service, credentials=grpc.ssl_server_credentials([pair], authority, True))
    yield service
    server.stop(None).wait()


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest, service: Service) -> Iterator[Connect]:
    """Opens a client, the blocking one and the one for asyncio in turn."""
    opened: list[Any] = []

    def open_client(**settings: Any) -> Any:
        kind: Any = vlm2vec.Client if request.param == "sync" else Twin
        client = kind(
            settings.pop("server", service.address), **{"initial_backoff": 0.01, **settings}
        )
        opened.append(client)
        return client.__enter__()

    yield open_client
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def client(connect: Connect) -> Any:
    """A client of the server."""
    return connect()
