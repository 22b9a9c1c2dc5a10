"""Fetching URLs for callers, from a real server: what is allowed, and where it ends."""

import asyncio
import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import ExhaustedError, InvalidInputError, StartError
from vlm2vec_service.frontend.access import Call
from vlm2vec_service.frontend.holding import ByteBudget, Holding
from vlm2vec_service.frontend.http.errors import OriginError
from vlm2vec_service.frontend.http.fetch import (
    AT_ONCE,
    AT_ONCE_FOR_ONE,
    Fetcher,
    RemoteMedia,
)
from vlm2vec_service.frontend.http.origins import is_public, parse_origins
from vlm2vec_service.preprocess.prepared import Medium
from vlm2vec_service.scheduling.fair_queue import Flow
from vlm2vec_service.settings import HttpSettings, Limits

LIMITS = Limits(max_image_bytes=1000, max_video_bytes=5000, max_audio_bytes=3500)


class Handler(BaseHTTPRequestHandler):
    """Pictures, redirects and mischief, by path."""

    seen: list[tuple[str, dict[str, str]]]

    def do_GET(self) -> None:
        type(self).seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        kind, _, rest = self.path[1:].partition("/")
        if kind == "bytes":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * int(rest.partition("?")[0]))
        elif kind == "to":
            self.send_response(302)
            self.send_header("location", rest)
            self.end_headers()
        elif kind == "slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(600):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
        else:
            self.send_response(int(kind))
            if rest:
                self.send_header("retry-after", rest)
            self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Origin(ThreadingHTTPServer):
    """A server that takes as many connections at once as a test opens."""

    request_queue_size = 64
    daemon_threads = True


@pytest.fixture
def origin() -> Iterator[str]:
    Handler.seen = []
    server = Origin(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def fetch(
    *urls: str, medium: Medium = Medium.IMAGE, call: Call | None = None, **settings: Any
) -> list[pb.Part]:
    """The parts that ``urls`` fill."""

    async def run() -> list[pb.Part]:
        fetcher = Fetcher(HttpSettings(**settings), LIMITS)
        parts = [pb.Part() for _ in urls]
        try:
            pairs = zip(parts, urls, strict=True)
            items = [RemoteMedia(part, medium, url, "input") for part, url in pairs]
            await fetcher.fill(items, Call("Embed", "a", "") if call is None else call)
        finally:
            await fetcher.close()
        return parts

    return asyncio.run(run())


def refusal(*urls: str, **settings: Any) -> str:
    with pytest.raises(InvalidInputError) as refused:
        fetch(*urls, **settings)
    assert refused.value.field == "input"
    return refused.value.problem


def failure(*urls: str, **settings: Any) -> OriginError:
    """The error of an origin that may do better next time."""
    with pytest.raises(OriginError) as failed:
        fetch(*urls, **settings)
    assert failed.value.field == "input"
    assert str(failed.value).startswith("input: ")
    return failed.value


def allowed(origin: str, **settings: Any) -> dict[str, Any]:
    return {"fetch_origins": origin, "fetch_private_addresses": True, **settings}


def test_what_is_allowed_is_fetched(origin: str) -> None:
    first, second = fetch(f"{origin}/bytes/10", f"{origin}/bytes/1000#part", **allowed(origin))
    assert (first.image, second.image) == (b"x" * 10, b"x" * 1000)
    (video,) = fetch(f"{origin}/bytes/4000", medium=Medium.VIDEO, **allowed(origin))
    assert len(video.video.file) == 4000
    (audio,) = fetch(f"{origin}/bytes/3000", medium=Medium.AUDIO, **allowed(origin))
    assert len(audio.audio.file) == 3000
    with pytest.raises(InvalidInputError, match="more than 3500 bytes"):
        fetch(f"{origin}/bytes/4000", medium=Medium.AUDIO, **allowed(origin))
    (_, headers), *_ = Handler.seen
    assert set(headers) == {"host", "accept", "user-agent"}


def test_nothing_is_fetched_by_default(origin: str) -> None:
    assert "data URI" in refusal(f"{origin}/bytes/1")
    assert "not public" in refusal(f"{origin}/bytes/1", fetch_origins=origin)
    port = origin.rpartition(":")[2]
    by_name = f"http://localhost:{port}"
    assert "not public" in refusal(f"{by_name}/bytes/1", fetch_origins=by_name)
    assert not Handler.seen


def test_other_origins_are_refused(origin: str) -> None:
    for url in (
        "http://127.0.0.1/bytes/1", origin.replace("http", "https") + "/bytes/1",
        f"{origin.replace('127.0.0.1', '127.0.0.2')}/bytes/1", "ftp://127.0.0.1/a", "/bytes/1",
        "file:///etc/passwd", f"http://127.0.0.1@example.com:{origin[-5:]}/", "http://[::1",
        f"{origin}@example.com/", f"{origin}\\@example.com/", "javascript:alert(1)", "",
        f"{origin}/bytes/1 HTTP/1.1\r\nx: y", "http://127.0.0.1:99999/",
    ):  # fmt: skip
        refusal(url, **allowed(origin))
    assert not Handler.seen


def test_redirects_are_followed_within_limits(origin: str) -> None:
    one = f"{origin}/to/{origin}/bytes/7"
    (part,) = fetch(one, **allowed(origin, fetch_redirects=1))
    assert len(part.image) == 7
    assert "redirects" in refusal(f"{origin}/to/{one}", **allowed(origin, fetch_redirects=1))
    (part,) = fetch(f"{origin}/to//bytes/3", **allowed(origin))  # a relative one
    assert len(part.image) == 3
    for elsewhere in ("http://169.254.169.254/latest", "file:///etc/passwd", "https://example.com"):
        assert "URL" in (text := refusal(f"{origin}/to/{elsewhere}", **allowed(origin))) or (
            "not an origin" in text
        )


def test_sizes_are_limited(origin: str) -> None:
    assert "1000 bytes" in refusal(f"{origin}/bytes/1001", **allowed(origin))
    urls = [f"{origin}/bytes/900?{number}" for number in range(3)]
    refusal(*urls, **allowed(origin, http_max_body_bytes=2000))
    fetch(*urls, **allowed(origin, http_max_body_bytes=2700))


def test_what_is_fetched_is_held_by_the_call(origin: str) -> None:
    budget = ByteBudget("max_received_bytes", 2000)
    call = Call("Embed", "a", "", held=Holding(budget, Flow("a", True)))
    fetch(f"{origin}/bytes/900", call=call, **allowed(origin))
    assert budget.taken == 900
    with pytest.raises(InvalidInputError, match="max_received_bytes"):
        fetch(f"{origin}/bytes/900", call=call, **allowed(origin))
    other = Call("Embed", "b", "", held=Holding(budget, Flow("b", True)))
    with pytest.raises(ExhaustedError, match="max_received_bytes"):
        fetch(f"{origin}/bytes/900", call=other, **allowed(origin))


def test_time_is_limited(origin: str) -> None:
    error = failure(f"{origin}/slow", **allowed(origin, fetch_seconds=0.3))
    assert (error.http_status, "0.3 s" in str(error)) == (504, True)


def test_equal_urls_are_fetched_once(origin: str) -> None:
    urls = [f"{origin}/bytes/{9 + number % 2}#{number}" for number in range(20)]
    parts = fetch(*urls, **allowed(origin, http_max_body_bytes=190))
    assert [len(part.image) for part in parts] == [9, 10] * 10
    assert len(Handler.seen) == 2
    # Each of them is a copy, and counts as one.
    assert "too much" in refusal(*urls, **allowed(origin, http_max_body_bytes=189))
    budget = ByteBudget("max_received_bytes", 2000)
    call = Call("Embed", "a", "", held=Holding(budget, Flow("a", True)))
    fetch(*urls, call=call, **allowed(origin))
    assert budget.taken == 190


def test_one_caller_does_not_take_every_place(origin: str) -> None:
    def slow() -> int:
        return sum(path.startswith("/slow") for path, _ in Handler.seen)

    async def run() -> None:
        fetcher = Fetcher(HttpSettings(**allowed(origin, fetch_seconds=20.0)), LIMITS)
        urls = [f"{origin}/slow/{number}" for number in range(2 * AT_ONCE)]
        greedy = [RemoteMedia(pb.Part(), Medium.IMAGE, url, "input") for url in urls]
        taken = asyncio.create_task(fetcher.fill(greedy, Call("Embed", "greedy", "")))
        while slow() < AT_ONCE_FOR_ONE:
            await asyncio.sleep(0.01)
        part = pb.Part()
        small = [RemoteMedia(part, Medium.IMAGE, f"{origin}/bytes/5", "input")]
        await fetcher.fill(small, Call("Embed", "other", ""))
        assert (part.image, taken.done()) == (b"x" * 5, False)
        taken.cancel()
        await asyncio.gather(taken, return_exceptions=True)
        await fetcher.close()

    asyncio.run(run())
    assert slow() == AT_ONCE_FOR_ONE < AT_ONCE


def test_hosts_that_dns_cannot_have_are_no_urls(origin: str) -> None:
    wild = "https://*.example.com,http://*.example.com"
    for host in (
        "a..example.com", ".example.com", "..example.com", f"{'x' * 64}.example.com",
        f"{'x.' * 130}example.com",
    ):  # fmt: skip
        assert "no URL" in refusal(f"https://{host}/", **allowed(f"{origin},{wild}"))
        assert "no URL" in refusal(
            f"{origin}/to/http://{host}/", **allowed(f"{origin},{wild}", fetch_redirects=1)
        )
    assert "a redirect leads to no URL" in refusal(f"{origin}/to/http://[::1", **allowed(origin))


@pytest.mark.parametrize("status", [401, 403, 404, 410, 204, 300])
def test_answers_that_are_no_use_are_the_callers_fault(origin: str, status: int) -> None:
    assert f"status {status}" in refusal(f"{origin}/{status}", **allowed(origin))


@pytest.mark.parametrize(
    ("path", "status", "seconds"),
    [
        ("500", 502, 1), ("501", 502, 1), ("502", 502, 1), ("503", 503, 1), ("503/7", 503, 7),
        ("504", 504, 1), ("408", 504, 1), ("429", 503, 1), ("429/30", 503, 30), ("429/0", 503, 1),
        ("429/99999", 503, 300), ("429/Wed,%2021%20Oct", 503, 1), ("425", 503, 1),
    ],
)  # fmt: skip
def test_faults_of_an_origin_are_not_the_callers(
    origin: str, path: str, status: int, seconds: float
) -> None:
    error = failure(f"{origin}/{path}", **allowed(origin))
    assert (error.http_status, error.retry_after) == (status, seconds)
    assert f"status {path[:3]}" in str(error)


def test_a_host_that_does_not_exist_is_the_callers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = "http://nowhere.invalid"
    for code, status in ((socket.EAI_NONAME, 400), (socket.EAI_AGAIN, 502)):

        def fail(*_: Any, code: int = code, **__: Any) -> None:
            raise socket.gaierror(code, "no answer")

        monkeypatch.setattr(socket, "getaddrinfo", fail)
        error = refusal if status == 400 else failure
        assert "fetching failed" in str(error(f"{unknown}/", **allowed(unknown)))


def test_an_origin_that_is_away_is_no_fault_of_the_callers() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        assert failure(f"{closed}/", **allowed(closed)).http_status == 502
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            listener.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        gone = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert failure(f"{gone}/", **allowed(gone)).http_status == 502


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True), ("2606:2800:220:1::1", True), ("127.0.0.1", False),
        ("10.0.0.1", False), ("172.16.0.1", False), ("192.168.0.1", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False),
        ("224.0.0.1", False), ("240.0.0.1", False), ("255.255.255.255", False), ("::1", False),
        ("::", False), ("fe80::1", False), ("fc00::1", False), ("ff02::1", False),
        ("::ffff:127.0.0.1", False), ("::ffff:10.0.0.1", False), ("64:ff9b::7f00:1", False),
        ("64:ff9b::5db8:d70e", True), ("2002:7f00:1::", False), ("2001:0:1::1", False),
        ("::ffff:93.184.215.14", True),
    ],
)  # fmt: skip
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) == public


def test_origins() -> None:
    cdn, wild, port, six = parse_origins(
        "https://CDN.example.com, https://*.example.org/,http://a:81, https://[::1]"
    )
    assert cdn.allows("https", "cdn.example.com", 443)
    assert not cdn.allows("https", "cdn.example.com.evil.com", 443)
    assert not cdn.allows("http", "cdn.example.com", 443)
    assert wild.allows("https", "a.b.example.org", 443)
    assert not wild.allows("https", "example.org", 443)
    assert not wild.allows("https", "notexample.org", 443)
    assert port.allows("http", "a", 81)
    assert six.allows("https", "::1", 443)
    for wrong in ("cdn.example.com", "https://", "https://a/b", "*", "https://*", "ftp://a"):
        with pytest.raises(StartError, match="--fetch-origins"):
            parse_origins(wrong)
