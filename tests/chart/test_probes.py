"""The probes over TLS, asked as the kubelet asks: it checks no certificate and shows none."""

import http.client
import ssl
from pathlib import Path

import grpc
import trustme

from tests.chart.rendering import one, render
from tests.chart.served import chart_flags, chart_values
from tests.e2e.server import running_server


def test_a_server_that_asks_for_certificates_answers_its_probes(
    checkpoints: Path, tmp_path: Path
) -> None:
    authority = trustme.CA()
    own, caller = authority.issue_cert("127.0.0.1"), authority.issue_cert("caller.example.com")
    own.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    own.private_key_pem.write_to_path(tmp_path / "tls.key")
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    values = chart_values(checkpoints) | {"tls": {"secretName": "tls", "clientCa": True}}
    flags = chart_flags(values, tmp_path)
    file = tmp_path / "config.toml"
    file.write_text(file.read_text().replace("/etc/vlm2vec/tls", str(tmp_path)))
    credentials = grpc.ssl_channel_credentials(
        authority.cert_pem.bytes(),
        caller.private_key_pem.bytes(),
        caller.cert_chain_pems[0].bytes(),
    )
    pod = one(render(values), "Deployment")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    kubelet = ssl.create_default_context()
    kubelet.check_hostname, kubelet.verify_mode = False, ssl.CERT_NONE
    with running_server(tmp_path, *flags, credentials=credentials) as server:
        for kind in ("startup", "readiness", "liveness"):
            probe = container[f"{kind}Probe"]["httpGet"]
            assert probe["scheme"] == "HTTPS"
            connection = http.client.HTTPSConnection(server.http_address, context=kubelet)
            connection.request("GET", probe["path"])
            assert connection.getresponse().status == 200
            connection.close()
