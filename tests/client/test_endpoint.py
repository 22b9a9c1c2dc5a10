"""How the server is reached: keys, certificates, addresses."""

import re
from pathlib import Path
from typing import Any

import pytest

import vlm2vec
from tests.client.conftest import DATA, Connect
from tests.client.server import Service, start


def test_api_key_and_user_agent(connect: Connect, service: Service) -> None:
    client = connect(api_key="secret", user_agent="indexer/7")
    client.embed("a")
    client.rank("a", ["b"])
    client.models()
    list(client.stream(["a"]))
    seen = [metadata for _, metadata in service.calls] + service.streams
    assert len(seen) == 4
    for metadata in seen:
        assert metadata["authorization"] == "Bearer secret"
        assert str(metadata["user-agent"]).startswith("indexer/7 vlm2vec-client/")


def test_no_key(client: Any, service: Service) -> None:
    client.models()
    assert "authorization" not in service.calls[0][1]


def test_mutual_tls(connect: Connect, secure: Service) -> None:
    client = connect(
        server=secure.address,
        tls=DATA / "ca.pem",
        certificate=(DATA / "client.pem", DATA / "client.key"),
        api_key="secret",
    )
    assert len(list(client.stream(["a", "b"]))) == 2
    client.models()
    assert secure.calls[0][1]["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"tls": DATA / "ca.pem"}, r"want TLS \(tls=True\), or a certificate="),
        ({"tls": True}, r"name its authority: tls='ca\.pem'"),
        ({}, r"want TLS \(tls=True\), or a certificate="),
    ],
)
def test_without_what_the_server_asks_for(
    connect: Connect, secure: Service, settings: Any, hint: str
) -> None:
    assert_hint(connect, secure, hint, settings)


def test_tls_where_the_server_has_none(connect: Connect, service: Service) -> None:
    assert_hint(connect, service, "no TLS there: leave out tls", {"tls": True})


def assert_hint(connect: Connect, service: Service, hint: str, settings: Any) -> None:
    """Asserts that calls fail, and that some error has the hint: which of the ends is the first to
    notice is chance, and the name has a second address, where nobody is."""
    for _ in range(50):
        with pytest.raises(vlm2vec.Unavailable) as caught:
            connect(server=service.address, max_retries=0, **settings).models()
        if re.search(hint, caught.value.message):
            return
    pytest.fail(f"no error says {hint!r}, but {caught.value.message!r}")


def test_an_answer_above_the_message_limit(connect: Connect) -> None:
    with pytest.raises(vlm2vec.ResourceExhausted, match="raise max_message_bytes"):
        connect(max_message_bytes=1024).embed(["a"] * 30)


def test_settings_that_contradict(connect: Connect) -> None:
    with pytest.raises(ValueError, match="needs tls=True"):
        connect(certificate=(DATA / "client.pem", DATA / "client.key"))
    with pytest.raises(FileNotFoundError):
        connect(tls="no such file")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"server": "localhost"}, "server is 'localhost', not host:port"),
        ({"server": ""}, "server is '', not host:port"),
        ({"server": ":50051"}, "server is ':50051', not host:port"),
        ({"server": " localhost:50051"}, "server is ' localhost:50051', not host:port"),
        ({"server": "::1"}, r"'\[::1\]:50051'"),
        ({"max_retries": -1}, "max_retries is -1, not at least 0"),
        ({"max_message_bytes": 10}, "max_message_bytes is 10, not at least 1024"),
        ({"keepalive": 0}, "keepalive is 0, not at least 0.001 seconds"),
        ({"fetch_timeout": -1}, "fetch_timeout is -1"),
        ({"initial_backoff": -1}, "initial_backoff is -1"),
        ({"timeout": float("nan")}, "timeout is nan"),
    ],
)
def test_settings_that_make_no_sense(connect: Connect, settings: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        connect(**settings)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"server": 50051}, "server is int, not host:port"),
        ({"timeout": "60"}, "timeout is str, not a number of seconds"),
        ({"keepalive": None}, "keepalive is NoneType, not a number of seconds"),
        ({"max_retries": 1.5}, "max_retries is float, not a whole number"),
    ],
)
def test_settings_of_a_wrong_type(connect: Connect, settings: Any, problem: str) -> None:
    with pytest.raises(TypeError, match=problem):
        connect(**settings)


def test_endless_times(connect: Connect) -> None:
    endless = float("inf")
    client = connect(timeout=endless, keepalive=endless, fetch_timeout=endless)
    assert client.embed("a").shape == (12,)
    assert client.embed("a", timeout=endless).shape == (12,)
    assert len(list(client.stream(["a"], timeout=endless))) == 1


@pytest.mark.parametrize("key", ["schl\u00fcssel", "two\nlines", "a\0b"])
def test_a_key_that_cannot_be_sent_is_not_shown(connect: Connect, key: str) -> None:
    with pytest.raises(ValueError, match="api_key has a character") as caught:
        connect(api_key=key)
    assert key not in str(caught.value)


def test_a_key_is_taken_without_its_line_break(connect: Connect, service: Service) -> None:
    connect(api_key=" secret\n").models()
    assert service.calls[0][1]["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("url", "write"),
    [
        ("http://search:8080", r"Client\('search:50051'\)"),
        ("HTTPS://user@search.example.com/v1", r"Client\('search.example.com:50051', tls=True\)"),
        ("grpc://[::1]:50051", r"Client\('\[::1\]:50051'\)"),
        ("http://", r"Client\('localhost:50051'\)"),
    ],
)
def test_a_url_is_told_what_to_write(connect: Connect, url: str, write: str) -> None:
    with pytest.raises(ValueError, match=f"host:port, not a URL .* write {write}, with the port"):
        connect(server=url)


def test_socket_file(connect: Connect, tmp_path: Path) -> None:
    service = Service()
    server = start(service, address=f"unix:{tmp_path}/socket")
    assert connect(server=service.address).embed("a").shape == (12,)
    server.stop(None).wait()


def test_calls_take_turns(connect: Connect) -> None:
    services = [Service(), Service()]
    servers = [start(service) for service in services]
    ports = [service.address.rpartition(":")[2] for service in services]
    client = connect(server="ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports))
    # The second may be connected a moment later.
    for _ in range(1000):
        client.models()
        if all(service.calls for service in services):
            break
    for service in services:
        service.calls.clear()
    for _ in range(20):
        client.models()
    assert [len(service.calls) for service in services] == [10, 10]
    for server in servers:
        server.stop(None).wait()
