"""A stand-in for the Hugging Face hub: the routes that huggingface_hub asks when it fetches a
model, for models that a test puts there."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

SMALL = 4096
"""Bytes of a file that the hub keeps in git; larger ones are named by their SHA-256."""


@dataclass
class Model:
    """What the hub has under one name. ``token`` is needed to see it, if there is one; a ``gated``
    one says so, any other is not found without."""

    files: dict[str, bytes]
    token: str = ""
    gated: bool = False
    branch: str = "main"

    @property
    def commit(self) -> str:
        """The only commit."""
        parts = sorted((name, hashlib.sha1(data).hexdigest()) for name, data in self.files.items())
        return hashlib.sha1(json.dumps(parts).encode()).hexdigest()


@dataclass
class Hub:
    """A running stand-in, and what it was asked."""

    url: str
    models: dict[str, Model] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """Method and path of each request."""
    cut: dict[str, int] = field(default_factory=dict)
    """How many answers with a file are still to be cut off in their middle."""
    wrong: dict[str, bytes] = field(default_factory=dict)
    """What is sent instead of a file's bytes, under the name and hash of the true ones."""

    def put(self, name: str, folder: Path) -> Model:
        """Makes the model ``name`` of the files of ``folder``."""
        self.models[name] = Model({path.name: path.read_bytes() for path in folder.iterdir()})
        return self.models[name]

    def fetched(self) -> set[str]:
        """The names of the files that were asked for."""
        paths = {line.split()[1] for line in self.asked if not line.startswith("GET /api/")}
        return {path.split("/", 5)[5] for path in paths}


def etag(data: bytes) -> str:
    """What the hub names a file's bytes."""
    if len(data) > SMALL:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Starts a hub without models on a free port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        hub = Hub(f"http://127.0.0.1:{server.server_port}")
        _Handler.hub = hub
        Thread(target=server.serve_forever, daemon=True).start()
        yield hub
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        start = self.headers.get("Range", "")
        self.hub.asked.append(f"{self.command} {path}")
        parts = path.removeprefix("/api/models").strip("/").split("/")
        model = self.hub.models.get("/".join(parts[:2]))
        if model is None or model.token not in self.headers.get("Authorization", ""):
            gated = model is not None and model.gated
            self._refuse(403 if gated else 401, "GatedRepo" if gated else "RepoNotFound")
        elif parts[3] not in (model.branch, model.commit):
            self._refuse(404, "RevisionNotFound")
        elif parts[2] == "resolve":
            self._send_file(model, "/".join(parts[4:]), int(start[6:-1] or 0) if start else 0)
        elif parts[2] == "revision":
            siblings = [{"rfilename": name} for name in model.files]
            self._send_json({"id": "/".join(parts[:2]), "sha": model.commit, "siblings": siblings})
        else:
            self._send_json([_entry(name, data) for name, data in model.files.items()])

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self, model: Model, name: str, start: int) -> None:
        data = model.files[name]
        sent = data if self.command == "HEAD" else self.hub.wrong.get(name, data)
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{etag(data)}"')
        self.send_header("X-Repo-Commit", model.commit)
        self.send_header("Content-Length", str(len(sent) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        end = len(sent)
        if self.hub.cut.get(name, 0):
            self.hub.cut[name] -= 1
            end = (start + end) // 2
            self.close_connection = True
        self.wfile.write(sent[start:end])


def _entry(name: str, data: bytes) -> dict[str, object]:
    """One file in the listing of a commit."""
    entry: dict[str, object] = {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
    if len(data) > SMALL:
        entry["lfs"] = {"oid": etag(data), "size": len(data), "pointerSize": 130}
    return entry
