"""Pictures and videos by URL, which the client fetches within its limits, and data URIs."""

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import vlm2vec
from tests.client.conftest import Connect
from tests.client.server import Service
from tests.client.vectors import DIMENSION
from vlm2vec.reembed.rows import parse
from vlm2vec.v1 import embedding_pb2 as pb

DATA = bytes(range(256)) * 5
REDIRECTS = {"/moved": "/picture", "/to-file": "file:///etc/passwd", "/to-ftp": "ftp://x/y"}


class Site(ThreadingHTTPServer):
    """A web server that misbehaves at some paths until it is closed."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.asked: list[str] = []
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Page(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Site

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path in REDIRECTS:
            self.send_response(302)
            self.send_header("location", REDIRECTS[self.path])
            self.end_headers()
            return
        known = self.path in ("/picture", "/drip", "/endless")
        self.send_response(200 if known else 404)
        self.end_headers()
        if self.path == "/picture":
            self.wfile.write(DATA)
        if self.path in ("/drip", "/endless"):
            self._go_on(b"x" * (1 if self.path == "/drip" else 50_000))

    def _go_on(self, piece: bytes) -> None:
        try:
            while not self.server.closing.wait(0.01):
                self.wfile.write(piece)
        except OSError:
            pass

    def log_message(self, *arguments: Any) -> None:
        """Logs nothing."""


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps what is here from being asked of a proxy."""
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        threading.Thread(target=site.serve_forever, args=(0.01,), daemon=True).start()
        yield site
        site.closing.set()
        site.shutdown()


def test_urls(client: Any, service: Service, site: Site) -> None:
    url = f"{site.url}/picture"
    client.embed(
        [
            vlm2vec.Input(images=[url, f"{site.url}/moved"]),
            vlm2vec.Input(video=url),
            vlm2vec.Input(video=[url]),
            {"image": url},
        ]
    )
    picture, frames = pb.Part(image=DATA), pb.Frames(images=[DATA])
    assert list(service.calls[0][0].inputs) == [
        pb.Input(parts=[picture, picture]),
        pb.Input(parts=[pb.Part(video=pb.Video(file=DATA))]),
        pb.Input(parts=[pb.Part(video=pb.Video(frames=frames))]),
        pb.Input(parts=[picture]),
    ]


def test_urls_in_a_corpus_are_fetched_too(tmp_path: Path) -> None:
    given = {"id": 1, "image": "https://x/a.png", "video": ["b.png", "data:image/png;base64,AA"]}
    id, source = parse(given, tmp_path, "int64", ())
    assert id == 1
    assert source.images == ["https://x/a.png"]
    assert source.videos == [[tmp_path / "b.png", "data:image/png;base64,AA"]]


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/none", "HTTP Error 404"),
        ("/to-file", "file:"),
        ("/to-ftp", "unknown url type: ftp"),
        ("/drip", "(more than 0.3 seconds|timed out)"),
        ("/endless", "more than the .* bytes of a message"),
    ],
)
def test_what_cannot_be_fetched_is_an_error_of_its_item(
    connect: Connect, site: Site, path: str, problem: str
) -> None:
    slow = path == "/drip"
    client = connect(max_message_bytes=100_000, fetch_timeout=0.3 if slow else 60)
    item = vlm2vec.Input(images=[f"{site.url}{path}"])
    with pytest.raises(vlm2vec.InvalidInput, match=rf"images\[0\]: cannot fetch .*{problem}"):
        client.embed(item)
    results = dict(client.stream([item, "fine"], on_error="yield"))
    assert results[0].field == "images[0]"
    assert results[1].shape == (DIMENSION,)


@pytest.mark.parametrize("url", ["http://", "https://[::", "http://127.0.0.1:1/a", "http://a b/c"])
def test_no_url_at_all(client: Any, url: str) -> None:
    with pytest.raises(vlm2vec.InvalidInput, match="cannot fetch"):
        client.embed(vlm2vec.Input(images=[url]))


@pytest.mark.parametrize(
    "uri",
    [
        f"data:image/png;base64,{base64.b64encode(DATA).decode()}",
        f"DATA:image/png;charset=x;Base64,{base64.urlsafe_b64encode(DATA).decode().rstrip('=')}",
        f"data:image/png;base64,{base64.encodebytes(DATA).decode()}",
        "data:image/png," + "".join(f"%{octet:02x}" for octet in DATA),
    ],
)
def test_data_uris(client: Any, service: Service, uri: str) -> None:
    client.embed([vlm2vec.Input(images=[uri]), vlm2vec.Input(video=uri)])
    image, video = service.calls[0][0].inputs
    assert image.parts[0].image == video.parts[0].video.file == DATA


@pytest.mark.parametrize("uri", ["data:image/png", "data:image/png;base64,@@@@" + "A" * 300])
def test_bad_data_uris(client: Any, uri: str) -> None:
    with pytest.raises(vlm2vec.InvalidInput, match=r"images\[0\]: cannot fetch 'data:") as caught:
        client.embed(vlm2vec.Input(images=[uri]))
    assert len(caught.value.message) < 250


def test_a_path_that_was_a_url(client: Any, site: Site) -> None:
    with pytest.raises(vlm2vec.InvalidInput, match="a URL is a str, not a path"):
        client.embed(Path(f"{site.url}/picture"))
    assert not site.asked


def test_a_path_with_a_nul(client: Any) -> None:
    with pytest.raises(vlm2vec.InvalidInput, match=r"images\[0\]: cannot read"):
        client.embed(vlm2vec.Input(images=["a\0b"]))
