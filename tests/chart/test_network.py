"""Who reaches the pods, and what meshes, gateways and probes are told of their ports."""

import re
from typing import Any

from tests.chart.rendering import NAME, VALUES, Document, config, one, pods, render


def ports(documents: list[Document], name: str = NAME) -> dict[str, str]:
    """What a Service says of its ports."""
    return {p["name"]: p["appProtocol"] for p in one(documents, "Service", name)["spec"]["ports"]}


def test_ports_say_what_they_speak() -> None:
    assert ports(render("default")) == {"grpc": "grpc", "http": "http"}
    # A mesh that took it for cleartext HTTP/2 would answer for the server.
    assert ports(render("tls")) == {"grpc": "https", "http": "https"}
    headless = ports(render("tls"), f"{NAME}-headless")
    assert headless == {"grpc": "https", "http": "https", "metrics": "http"}


def test_probes_ask_what_the_server_answers() -> None:
    for values in VALUES:
        documents = render(values)
        for name, pod in pods(documents):
            container = pod["containers"][0]
            if container["name"] not in {"server", "worker"}:
                continue
            probes = {key: container[f"{key}Probe"] for key in ("startup", "readiness", "liveness")}
            if "tls-certificate" in config(documents):
                paths = {key: probe["httpGet"]["path"] for key, probe in probes.items()}
                expected = {
                    "startup": "/startupz",
                    "readiness": "/readyz",
                    "liveness": "/healthz",
                }
                assert paths == expected
                assert {probe["httpGet"]["scheme"] for probe in probes.values()} == {"HTTPS"}
                assert "http" in {port["name"] for port in container["ports"]}
                continue
            numbers = {port["containerPort"] for port in container["ports"]}
            assert {probe["grpc"]["port"] for probe in probes.values()} <= numbers, name
            if container["name"] == "server":
                assert probes["liveness"]["grpc"]["service"] == "liveness"


def server_rules(documents: list[Document]) -> list[Document]:
    return list(one(documents, "NetworkPolicy", f"{NAME}-server")["spec"]["ingress"])


def test_the_pod_of_helm_test_may_call() -> None:
    callers = [{"namespaceSelector": {"matchLabels": {"team": "search"}}}]
    documents = render({"networkPolicy": {"callers": callers}})
    labels = one(documents, "Pod", f"{NAME}-test")["metadata"]["labels"]
    (rule, _) = server_rules(documents)
    allowed = [peer["podSelector"]["matchLabels"] for peer in rule["from"] if "podSelector" in peer]
    assert any(wanted.items() <= labels.items() for wanted in allowed)
    assert callers[0] in rule["from"]


def test_servers_may_pass_a_webhook_on() -> None:
    callers: list[Document] = [{"podSelector": {}}]
    values = VALUES["keda"] | {
        "networkPolicy": {"enabled": True, "restrictEgress": True, "callers": callers}
    }
    documents = render(values)
    assert config(documents)["webhook-peers"] == f"http://{NAME}-headless:8080"
    assert "http" in ports(documents, f"{NAME}-headless")
    (rule,) = [rule for rule in server_rules(documents) if {"port": "http"} in rule["ports"]]
    ours = one(documents, "Deployment")["spec"]["selector"]["matchLabels"]
    assert {"podSelector": {"matchLabels": ours}} in rule["from"]
    policy = one(documents, "NetworkPolicy", f"{NAME}-server")["spec"]
    told = [rule for rule in policy["egress"] if rule["ports"] == [{"port": "http"}]]
    assert told == [{"ports": [{"port": "http"}], "to": [{"podSelector": {"matchLabels": ours}}]}]
    own = values | {"settings": {"webhook-peers": "https://all:8080"}}
    assert config(render(own))["webhook-peers"] == "https://all:8080"
    assert "webhook-peers" not in config(render(values | {"tls": {"secretName": "tls"}}))


def test_istio_s_tunnel_and_its_probes_come_through() -> None:
    rules = server_rules(render("istio"))
    assert {"ports": [{"port": 15008}]} in rules
    assert {"from": [{"ipBlock": {"cidr": "169.254.7.127/32"}}]} in rules
    assert rules[-1]["from"] == [{"ipBlock": {"cidr": "10.0.0.0/8"}}]
    values = {
        "split": {"enabled": True},
        "networkPolicy": {"ambientMesh": True, "restrictEgress": True},
    }
    for component in ("server", "worker"):
        spec = one(render(values), "NetworkPolicy", f"{NAME}-{component}")["spec"]
        assert {"ports": [{"port": 15008}]} in spec["ingress"]
        assert {"ports": [{"port": 15008}]} in spec["egress"]
    assert not re.search("15008|169.254", str(render("default")))


def test_gateways_reach_both_protocols_over_tls() -> None:
    documents = render("istio")
    numbers: dict[str, Any] = {
        p["name"]: p["port"] for p in one(documents, "Service")["spec"]["ports"]
    }
    for kind, port in (("GRPCRoute", "grpc"), ("HTTPRoute", "http")):
        spec = one(documents, kind)["spec"]
        assert spec["parentRefs"] == [{"name": "gateway", "namespace": "gateways"}]
        assert spec["rules"] == [{"backendRefs": [{"name": NAME, "port": numbers[port]}]}]
    policy = one(documents, "BackendTLSPolicy")["spec"]
    assert policy["targetRefs"] == [{"group": "", "kind": "Service", "name": NAME}]
    assert policy["validation"]["hostname"] == "embeddings.example.com"
