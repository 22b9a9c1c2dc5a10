"""What the chart renders is what Kubernetes takes, and safe, for every value set."""

import functools
import json
import re
from pathlib import Path
from typing import Any

import click
import helm_python
import jsonschema
import kubernetes_validate
import pytest

from tests.chart.rendering import (
    CHART,
    NAME,
    VALUES,
    Document,
    config,
    containers,
    mappings,
    one,
    pods,
    render,
    render_files,
)
from vlm2vec.command.flags import variable
from vlm2vec_cli.serve import serve
from vlm2vec_service.supervision.child import STOP_SECONDS
from vlm2vec_service.worker.__main__ import worker

KUBERNETES = tuple(f"1.{minor}" for minor in range(29, 38))
CUSTOM = {
    path.stem: json.loads(path.read_text())
    for path in (Path(__file__).parent / "schemas").glob("*.json")
}
"""Schemas of kinds that are not Kubernetes's own."""
# It would read half a megabyte again for every document.
kubernetes_validate.utils.schema_contents = functools.cache(
    kubernetes_validate.utils.schema_contents
)
every_set = pytest.mark.parametrize("values", VALUES)


@every_set
def test_helm_lint_finds_nothing(values: str) -> None:
    for version in (KUBERNETES[0], KUBERNETES[-1]):
        found = helm_python.lint(CHART, VALUES[values], strict=True, kube_version=f"v{version}.0")
        problems = [item for item in found["messages"] if item["severity"] >= 2]
        assert not problems


def test_helm_lint_finds_something() -> None:
    found = helm_python.lint(CHART, {"device": "tpu"}, strict=True)
    assert max(item["severity"] for item in found["messages"]) >= 3


@every_set
def test_every_document_is_what_kubernetes_takes(values: str) -> None:
    for document in render(values):
        if document["kind"] in CUSTOM:
            jsonschema.Draft202012Validator(CUSTOM[document["kind"]]).validate(document)
            continue
        for version in KUBERNETES:
            kubernetes_validate.validate(document, version, strict=True)


def test_a_typing_error_would_be_found() -> None:
    document = json.loads(json.dumps(one(render("default"), "Deployment")))
    document["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, KUBERNETES[0], strict=True)


@every_set
def test_what_is_rendered_twice_is_the_same(values: str) -> None:
    assert render_files(VALUES[values]) == render_files(VALUES[values])


@every_set
def test_names_are_unique_and_selectors_select_pods(values: str) -> None:
    documents = render(values)
    names = [(d["kind"], d["metadata"]["name"]) for d in documents]
    assert len(names) == len(set(names))
    for kind, name in names:
        # A pod's name and the labels that its owner gives it are longer by eleven.
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name), (kind, name)
        assert kind != "Deployment" or len(name) <= 52
    labels = [
        d["metadata"]["labels"] if d["kind"] == "Pod"
        else d["spec"]["template"]["metadata"]["labels"]
        for d in documents if d["kind"] in {"Pod", "Deployment"}
    ]  # fmt: skip
    for document in documents:
        spec = document.get("spec", {})
        selector = spec.get("selector") or spec.get("podSelector") or {}
        if document["kind"] == "ServiceMonitor" or not selector:
            continue
        wanted = selector.get("matchLabels", selector)
        assert any(wanted.items() <= found.items() for found in labels), document["metadata"]


@every_set
def test_pods_run_under_the_restricted_standard(values: str) -> None:
    """As https://kubernetes.io/docs/concepts/security/pod-security-standards/ has it."""
    for name, pod in pods(render(values)):
        assert pod["automountServiceAccountToken"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert ("runAsUser" in pod["securityContext"]) == (values != "openshift"), name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        kinds = {kind for volume in pod.get("volumes", []) for kind in volume} - {"name"}
        allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
        if VALUES[values].get("modelCache", {}).get("type") == "hostPath":
            allowed.add("hostPath")
        assert kinds <= allowed, name
    for name, container in containers(render(values)):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        assert context["readOnlyRootFilesystem"] is True, name


@every_set
def test_containers_say_what_they_need_and_write_to_volumes(values: str) -> None:
    for name, pod in pods(render(values)):
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys(), name
            if container["name"] in {"server", "worker"}:
                assert "ephemeral-storage" in resources["requests"], name
            assert "memory" in resources["limits"], name
            mounts = [mount["name"] for mount in container.get("volumeMounts", [])]
            assert set(mounts) <= volumes, name


@every_set
def test_secrets_are_named_and_never_given(values: str) -> None:
    documents = render(values)
    assert not [d for d in documents if d["kind"] == "Secret"]
    for mapping in mappings(documents):
        if re.search("TOKEN|PASSWORD|SECRET|KEY", str(mapping.get("name", ""))):
            assert "value" not in mapping, mapping


def test_secrets_arrive_where_the_server_looks() -> None:
    documents = render("tls")
    ((_, pod),) = [item for item in pods(documents) if item[0].startswith("Deployment/")]
    mounted = {m["name"]: m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
    secrets = {v["name"]: v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v}
    assert secrets == {"tls": "vlm2vec-tls", "auth": "vlm2vec-callers"}
    settings = config(documents)
    for option in ("tls-certificate", "tls-key", "tls-client-ca"):
        assert settings[option].startswith(mounted["tls"] + "/")
    assert settings["callers"].startswith(mounted["auth"] + "/")
    assert "allow-anonymous" not in settings
    assert config(render("keda"))["webhook-secret-file"] == "/etc/vlm2vec/webhook/secret"
    (init,) = pod["initContainers"]
    (token,) = [item for item in init["env"] if item["name"] == "HF_TOKEN"]
    assert token["valueFrom"]["secretKeyRef"] == {"name": "hub-token", "key": "token"}


@every_set
def test_a_pod_is_given_the_time_that_it_takes_to_drain(values: str) -> None:
    documents = render(values)
    pod = one(documents, "Deployment")["spec"]["template"]["spec"]
    hook = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    drain = config(documents)["drain-seconds"]
    needed = float(hook[1]) + drain + STOP_SECONDS
    assert pod["terminationGracePeriodSeconds"] > needed


def test_the_drain_follows_its_value() -> None:
    documents = render({"drainSeconds": 300, "preStopSeconds": 5})
    assert config(documents)["drain-seconds"] == 300
    pod = one(documents, "Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 300 + 5 + STOP_SECONDS


def options_of(command: click.Command) -> set[str]:
    return {flag for item in command.params for flag in (*item.opts, *item.secondary_opts)}


@every_set
def test_the_server_knows_every_option_that_it_is_given(values: str) -> None:
    documents = render(values)
    known = options_of(serve)
    assert {f"--{key}" for key in config(documents)} <= known
    for name, container in containers(documents):
        if container["name"] not in {"server", "worker"}:
            continue
        command, *arguments = container["args"]
        command_options = options_of(worker) if command == "worker" else known
        used = {a.partition("=")[0] for a in arguments if a.startswith("--")}
        assert used <= command_options, name


def environment_of(command: click.Command) -> set[str]:
    prefix = f"VLM2VEC_{(command.name or '').upper()}_"
    return {prefix + (item.name or "").upper() for item in command.params}


@every_set
def test_every_environment_variable_of_ours_is_known(values: str) -> None:
    known = environment_of(serve) | environment_of(worker)
    known |= {variable(name) for name in ("server", "model")}  # the client's
    for name, container in containers(render(values)):
        used = {e["name"] for e in container.get("env", []) if e["name"].startswith("VLM2VEC_")}
        assert used <= known, name


def test_settings_reach_the_worker_that_is_split_off() -> None:
    documents = render("split")
    args = [c["args"] for n, c in containers(documents) if n.endswith("/worker")]
    assert len(args) == 3
    for arguments in args:
        assert {"--dtype=bfloat16", "--token-budget=16384", "--log-level=WARNING"} <= {*arguments}
    schema = json.loads((CHART / "values.schema.json").read_text())
    every = {name: 1 for name in schema["properties"]["settings"]["properties"]}
    shared = {name for name in every if f"--{name}" in options_of(worker)}
    values: dict[str, Any] = VALUES["split"] | {"settings": _settings(schema, shared)}
    (arguments,) = {
        tuple(c["args"]) for n, c in containers(render(values)) if n.endswith("v2/worker")
    }
    assert {f"--{name}" for name in shared} <= {a.partition("=")[0] for a in arguments}
    values["settings"] = {"cuda-graphs": False}
    (arguments,) = {
        tuple(c["args"]) for n, c in containers(render(values)) if n.endswith("v2/worker")
    }
    assert "--no-cuda-graphs" in arguments


def _settings(schema: Document, names: set[str]) -> Document:
    values = {"string": "x", "integer": 1, "number": 1, "boolean": True}
    types = schema["properties"]["settings"]["properties"]
    return {
        name: types[name]["enum"][0] if "enum" in types[name] else values[types[name]["type"]]
        for name in names
    }


def test_only_front_ends_reach_workers() -> None:
    values = VALUES["split"] | {"networkPolicy": {"enabled": False}}
    (rule,) = one(render(values), "NetworkPolicy", f"{NAME}-worker")["spec"]["ingress"]
    (peer,) = rule["from"]
    assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "server"


def test_an_ingress_leads_to_a_port_of_the_service() -> None:
    for port in ("grpc", "http"):
        values = {"ingress": {"enabled": True, "host": "a.example.com", "port": port}}
        documents = render(values)
        (rule,) = one(documents, "Ingress")["spec"]["rules"]
        backend = rule["http"]["paths"][0]["backend"]["service"]
        assert backend == {"name": NAME, "port": {"name": port}}
        assert port in {item["name"] for item in one(documents, "Service")["spec"]["ports"]}


def test_devices_are_asked_for() -> None:
    documents = render("gpu")
    pod = one(documents, "Deployment")["spec"]["template"]["spec"]
    for part in ("requests", "limits"):
        assert pod["containers"][0]["resources"][part]["nvidia.com/gpu"] == 2
    assert config(documents)["device"] == "cuda:0,cuda:1"
    assert pod["runtimeClassName"] == "nvidia"
    minimal = one(render("minimal"), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert "nvidia.com/gpu" not in minimal["resources"]["limits"]


def test_large_numbers_stay_whole() -> None:
    assert config(render("gpu"))["max-queue-tokens"] == 2097152


def test_a_change_of_the_configuration_rolls_out() -> None:
    def checksum(values: Document) -> str:
        template = one(render(values), "Deployment")["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    assert checksum({}) != checksum({"settings": {"max-inputs": 32}})
