"""Workers that are split off: a Deployment for each model, found by name, as the model needs."""

import re
from typing import Any

import pytest

from tests.chart.rendering import NAME, Document, config, one, render

NAMES = [
    "v1_phi",
    "v1-phi",
    "V1-phi",
    "v1.phi",
    "2024",
    "x" * 40,
    "x" * 39 + "y",
    "a" * 30 + "_" * 9 + "b",
]


def split(models: list[Document], **values: Any) -> list[Document]:
    """What is rendered for those models."""
    return render({"split": {"enabled": True}, "models": models} | values)


def deployments(documents: list[Document]) -> dict[str, Document]:
    """Those of the workers, by model."""
    return {
        d["spec"]["selector"]["matchLabels"]["vlm2vec/model"]: d
        for d in documents
        if d["kind"] == "Deployment" and "vlm2vec/model" in d["spec"]["selector"]["matchLabels"]
    }


def pod_of(deployment: Document) -> Document:
    return dict(deployment["spec"]["template"]["spec"])


@pytest.mark.parametrize(
    "release", ["demo", "a-release-whose-name-is-of-53-characters-as-helm-allow", "1.2"]
)
def test_workers_of_every_model_have_a_name_that_pods_can_have(release: str) -> None:
    models = [{"name": name, "folder": "a"} for name in NAMES]
    documents = render({"split": {"enabled": True}, "models": models}, release)
    found = deployments(documents)
    assert list(found) == NAMES
    names = {d["metadata"]["name"] for d in found.values()}
    assert len(names) == len(NAMES)
    assert all(re.fullmatch(r"[a-z][-a-z0-9]{0,50}[a-z0-9]", name) for name in names)


def test_front_ends_find_workers_by_name_and_not_by_number() -> None:
    documents = render("split")
    addresses = config(documents)["worker"]
    assert len(addresses) == 3
    for address in addresses:
        model, _, target = address.partition("=")
        kind, host, port = target.split(":")
        service, namespace, suffix = host.split(".")
        assert (kind, namespace, suffix, port) == ("dns", "embeddings", "svc", "50052")
        spec = one(documents, "Service", service)["spec"]
        assert (spec["clusterIP"], spec["publishNotReadyAddresses"]) == ("None", True)
        labels = deployments(documents)[model]["spec"]["template"]["metadata"]["labels"]
        assert spec["selector"].items() <= labels.items()
    more = render({"split": {"enabled": True}, "replicas": 7})
    assert config(more) == config(render({"split": {"enabled": True}}))


def test_each_model_s_workers_are_as_it_needs() -> None:
    found = deployments(render("split"))
    counts = {name: d["spec"]["replicas"] for name, d in found.items()}
    assert counts == {"v2": 1, "v1_phi": 2, "V1-Phi": 4}
    small, plain, large = (pod_of(found[name]) for name in ("v2", "v1_phi", "V1-Phi"))
    assert small["nodeSelector"] == {"mig": "3g"}
    limits = small["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/mig-3g.40gb"] == 1
    assert "nvidia.com/gpu" not in limits
    assert small["containers"][0]["resources"]["requests"]["memory"] == "6144Mi"
    assert plain["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert large["containers"][0]["resources"]["requests"]["cpu"] == "8"
    assert large["containers"][0]["resources"]["requests"]["memory"] == "20Gi"
    assert "tolerations" in plain
    assert "tolerations" not in large


def test_pods_of_one_model_are_spread_and_evicted_by_themselves() -> None:
    documents = render("split")
    for model, deployment in deployments(documents).items():
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        (spread,) = pod_of(deployment)["topologySpreadConstraints"]
        assert spread["labelSelector"]["matchLabels"]["vlm2vec/model"] == model
        assert spread["labelSelector"]["matchLabels"].items() <= labels.items()
        budget = one(documents, "PodDisruptionBudget", deployment["metadata"]["name"])["spec"]
        assert budget["selector"]["matchLabels"]["vlm2vec/model"] == model
        assert budget["maxUnavailable"] == "25%"


def test_workers_download_their_model_alone() -> None:
    def downloaded(deployment: Document) -> list[str]:
        inits = pod_of(deployment).get("initContainers", [])
        return [source for container in inits for source in container["args"][2:]]

    documents = render("split")
    every = [
        "microsoft/Phi-3.5-vision-instruct@main",
        "microsoft/Phi-3.5-vision-instruct@refs/pr/1",
    ]
    assert downloaded(one(documents, "Deployment")) == every
    found = {name: downloaded(d) for name, d in deployments(documents).items()}
    assert found == {"v2": [], "v1_phi": every[:1], "V1-Phi": every[1:]}


def test_one_model_that_waits_for_a_gpu_holds_up_no_front_end() -> None:
    (server,) = pod_of(one(render("split"), "Deployment"))["containers"]
    assert server["startupProbe"]["grpc"]["service"] == "liveness"
    assert "service" not in server["readinessProbe"]["grpc"]  # any model
    # A whole server does not replace one before its models are loaded, if they can be.
    (whole,) = pod_of(one(render("default"), "Deployment"))["containers"]
    assert whole["startupProbe"]["grpc"]["service"] == "startup"
    assert "service" not in whole["readinessProbe"]["grpc"]


def test_workers_are_reached_by_front_ends_only() -> None:
    documents = split([{"name": "a", "folder": "a"}], networkPolicy={"enabled": False})
    (rule,) = one(documents, "NetworkPolicy", f"{NAME}-worker")["spec"]["ingress"]
    (peer,) = rule["from"]
    assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "server"
