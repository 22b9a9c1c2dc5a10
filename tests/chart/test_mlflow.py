"""The MLflow that the chart bundles starts, and answers to its host names and no others."""

import base64
import http.client
import http.server
import subprocess
import threading
from pathlib import Path

import pytest

from tests.chart.rendering import NAME, NAMESPACE, config, one, render
from tests.e2e.server import COMMAND, free_ports, wait_until


def test_the_bundled_mlflow_answers_its_service_and_its_probe(tmp_path: Path) -> None:
    documents = render("mlflow")
    pod = one(documents, "Deployment", f"{NAME}-mlflow")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    (port,) = free_ports(1)
    arguments = [argument.replace("/data", str(tmp_path)) for argument in container["args"]]
    environment = {item["name"]: item["value"] for item in container["env"]}
    environment |= {"PATH": f"{COMMAND.parent}:/usr/bin:/bin", "GIT_PYTHON_REFRESH": "quiet"}

    def status(host: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", path, headers={"Host": host})
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    probe = container["readinessProbe"]["httpGet"]
    path = probe["path"]
    (header,) = probe["httpHeaders"]
    with (tmp_path / "mlflow.log").open("wb") as log:
        process = subprocess.Popen(
            [*container["command"], *arguments, "--host=127.0.0.1", f"--port={port}"],
            env=environment, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_until(lambda: status(header["value"]) == 200)
        path = "/api/2.0/mlflow/registered-models/search?max_results=1"
        registry = config(documents)["registry"].removeprefix("http://")
        for host in (registry, f"{NAME}-mlflow.{NAMESPACE}.svc:5000"):
            assert status(host) == 200, host
        assert status("elsewhere.example.com") == 403
    finally:
        process.terminate()
        process.wait(30)


def test_credentials_in_a_file_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the chart mounts them with registry.credentialsSecret.fileKey, below HOME."""
    from mlflow import MlflowClient

    seen: list[str | None] = []

    class Registry(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Notes who asks, and has no models."""
            seen.append(self.headers["Authorization"])
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".mlflow").mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        client = MlflowClient(address, address)
        for password in ("first", "second"):
            (tmp_path / ".mlflow" / "credentials").write_text(
                f"[mlflow]\nmlflow_tracking_username = u\nmlflow_tracking_password = {password}\n"
            )
            client.search_registered_models()
        server.shutdown()
    expected = [base64.b64encode(f"u:{p}".encode()).decode() for p in ("first", "second")]
    assert [(one or "").removeprefix("Basic ") for one in seen] == expected
