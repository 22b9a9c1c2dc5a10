"""Which addresses the front end takes, and what it refuses to start with."""

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from vlm2vec_service.addresses import bind, is_local
from vlm2vec_service.errors import StartError
from vlm2vec_service.frontend.auth.callers import new_key
from vlm2vec_service.frontend.credentials import Exposure, open_access
from vlm2vec_service.frontend.holding import ByteBudget
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.settings import AuthSettings, HttpSettings, ServerSettings


def service(listen: str) -> Any:
    """As much of a `Service` as a gate needs."""
    settings, metrics = ServerSettings(listen=listen), Metrics(CollectorRegistry())
    return SimpleNamespace(
        settings=settings, metrics=metrics, draining=asyncio.Event(), member=None,
        received=ByteBudget("max_received_bytes", settings.max_received_bytes),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:1", True), ("127.1.2.3:1", True), ("[::1]:1", True), ("localhost:1", True),
        ("unix:/run/a", True), ("0.0.0.0:1", False), ("[::]:1", False), ("10.0.0.1:1", False),
        (":1", False), ("example.com:1", False), ("localhost.example.com:1", False),
    ],
)  # fmt: skip
def test_local_addresses(address: str, local: bool) -> None:
    assert is_local(address) == local


@pytest.mark.parametrize(
    ("listen", "http_listen", "field"),
    [
        ("127.0.0.1:1", "127.0.0.1:2", ""),
        ("unix:/run/a", "", ""),
        ("0.0.0.0:1", "127.0.0.1:2", "listen"),
        ("0.0.0.0:1", "", "listen"),
        ("127.0.0.1:1", "[::]:2", "http_listen"),
    ],
)
def test_strangers_are_let_in_only_on_demand(
    tmp_path: Path, listen: str, http_listen: str, field: str
) -> None:
    http = HttpSettings(http_listen=http_listen)
    if field:
        with pytest.raises(StartError, match="--allow-anonymous") as refused:
            open_access(service(listen), Exposure(http))
        assert refused.value.field == field
    else:
        open_access(service(listen), Exposure(http))
    gate, _ = open_access(service(listen), Exposure(http, auth=AuthSettings(allow_anonymous=True)))
    assert not gate.authenticator.required
    file = tmp_path / "callers"
    file.write_text(new_key("a", ["embed"])[1])
    # Who asks for credentials asks everybody.
    asking = AuthSettings(callers=str(file), allow_anonymous=True)
    gate, _ = open_access(service(listen), Exposure(http, auth=asking))
    assert gate.authenticator.required


def test_sockets(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    first = bind(f"unix:{path}")
    with pytest.raises(StartError, match=r"http\.sock"):
        bind(f"unix:{path}")
    first.close()  # the file stays, and is in nobody's way
    bind(f"unix:{path}").close()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(StartError):
        bind(f"unix:{tmp_path / 'file'}")
    assert (tmp_path / "file").read_text() == "precious"
    with bind("127.0.0.1:0") as taken, pytest.raises(StartError, match="cannot listen"):
        bind(f"127.0.0.1:{taken.getsockname()[1]}")
    with (
        bind("127.0.0.1:0") as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    with bind("[::1]:0") as six:
        assert six.family == socket.AF_INET6
    for wrong in ("127.0.0.1", "127.0.0.1:http", "127.0.0.1:99999", "no.such.host.invalid:1"):
        with pytest.raises(StartError):
            bind(wrong)
