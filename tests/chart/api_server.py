"""As much of a Kubernetes API server as `lookup` asks: one Deployment that is there."""

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

APPS = {
    "kind": "APIResourceList",
    "groupVersion": "apps/v1",
    "resources": [
        {"name": "deployments", "namespaced": True, "kind": "Deployment", "verbs": ["get"]},
    ],
}


@contextlib.contextmanager
def running_api_server(namespace: str, name: str, replicas: int) -> Iterator[str]:
    """Answers for the Deployment ``name`` with so many ``replicas``; yields its address."""
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"
    metadata = {"name": name, "namespace": namespace}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
                  "spec": {"replicas": replicas}}  # fmt: skip
    answers: dict[str, Any] = {"/apis/apps/v1": APPS, path: deployment}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """What there is, or that there is nothing."""
            found = answers.get(self.path.partition("?")[0])
            gone = {"kind": "Status", "apiVersion": "v1", "reason": "NotFound", "code": 404}
            body = json.dumps(found or gone).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
