"""The init container's script, run with the real `hf` against a mirror of the hub here."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chart.rendering import containers, render

COMMIT = "0" * 40
FILES = {
    "org/base": {
        "config.json": b"{}",
        "model.safetensors": b"weights",
        "pytorch_model.bin": b"pickle",
        "modeling.py": b"code",
    },
    "org/adapter": {"adapter_model.safetensors": b"adapter"},
}


class Mirror(http.server.BaseHTTPRequestHandler):
    """Answers what the hub's client asks to download a repository."""

    paths: list[str] = []  # noqa: RUF012 (of all requests)

    def do_GET(self) -> None:
        """What there is of a repository, its list of files, or one of them."""
        self.paths.append(self.path)
        repository = "/".join(self.path.removeprefix("/api/models").split("/")[1:3])
        files = FILES.get(repository)
        if files is None:
            self.send_error(404)
            return
        name = self.path.rpartition("/")[2]
        if "/tree/" in self.path:
            tree = [
                {"type": "file", "path": file, "size": len(data), "oid": COMMIT}
                for file, data in files.items()
            ]
            self._send(json.dumps(tree).encode())
        elif self.path.startswith("/api/models/"):
            self._send(json.dumps({"id": repository, "sha": COMMIT, "siblings": []}).encode())
        else:
            self._send(files[name], etag=f'"{name}"')

    do_HEAD = do_GET

    def _send(self, body: bytes, etag: str = "") -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        if etag:
            self.send_header("ETag", etag)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def mirror() -> Iterator[str]:
    Mirror.paths.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_models_are_downloaded_once_and_nothing_that_runs(mirror: str, tmp_path: Path) -> None:
    models = tmp_path / "models"
    adapter = {"version": "1", "folder": "adapters/a", "repository": "org/adapter"}
    values = {
        "models": [
            {"name": "a", "folder": "base", "repository": "org/base", "adapters": [adapter]},
            {"name": "b", "folder": "there-already"},
        ],
        "modelCache": {"mountPath": str(models), "download": {"endpoint": mirror}},
    }
    (init,) = [c for name, c in containers(render(values)) if name.endswith("/download")]
    environment = {item["name"]: item["value"] for item in init["env"]}
    assert environment["HF_ENDPOINT"] == mirror
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def run() -> None:
        models.mkdir(exist_ok=True)
        done = subprocess.run(
            [*init["command"], *init["args"]],
            env=environment | {"PATH": path, "HOME": str(tmp_path)},
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr + repr(Mirror.paths)

    run()
    files = [p for p in models.rglob("*") if p.is_file() and ".cache" not in p.parts]
    held = {str(path.relative_to(models)): path.read_bytes() for path in files}
    assert {name: data for name, data in held.items() if not name.startswith(".")} == {
        "base/config.json": b"{}",
        "base/model.safetensors": b"weights",
        "adapters/a/adapter_model.safetensors": b"adapter",
    }
    Mirror.paths.clear()
    run()
    assert not Mirror.paths


def test_a_download_that_fails_fails_the_pod_and_is_tried_again(
    mirror: str, tmp_path: Path
) -> None:
    values = {
        "models": [{"name": "a", "folder": "a", "repository": "org/none"}],
        "modelCache": {"mountPath": str(tmp_path), "download": {"endpoint": mirror}},
    }
    (init,) = [c for name, c in containers(render(values)) if name.endswith("/download")]
    environment = {
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
    }
    command = [*init["command"], *init["args"]]
    assert subprocess.run(command, env=environment, capture_output=True).returncode != 0  # noqa: PLW1510
    assert not list((tmp_path / ".downloaded").iterdir())
