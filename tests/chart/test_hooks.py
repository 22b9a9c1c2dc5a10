"""What operators add to pods and Deployments arrives in all that serve."""

from tests.chart.rendering import VALUES, Document, one, render


def deployments(values: Document) -> list[Document]:
    return [d for d in render(values) if d["kind"] == "Deployment"]


def test_hooks_are_in_every_pod_that_serves() -> None:
    values = VALUES["openshift"] | {"schedulerName": "gpu", "split": {"enabled": True}}
    found = deployments(values)
    assert len(found) == 2
    for deployment in found:
        annotations = deployment["metadata"]["annotations"]
        assert annotations == {"secret.reloader.stakater.com/reload": "vlm2vec-callers"}
        pod = deployment["spec"]["template"]["spec"]
        assert [c["name"] for c in pod["initContainers"]] == ["download", "wait"]
        served, added = pod["containers"]
        assert added["name"] == "logs"
        assert served["envFrom"] == [{"configMapRef": {"name": "proxy"}}]
        assert pod["schedulerName"] == "gpu"
    assert one(render(values), "ConfigMap", "more")["data"] == {"a": "b"}


def test_hooks_need_no_download() -> None:
    (deployment,) = deployments(
        {
            "models": [{"name": "a", "folder": "a"}],
            "initContainers": VALUES["openshift"]["initContainers"],
        }
    )
    pod = deployment["spec"]["template"]["spec"]
    assert [c["name"] for c in pod["initContainers"]] == ["wait"]


def test_openshift_gives_the_user_and_the_rest_stays() -> None:
    (deployment,) = deployments(VALUES["openshift"])
    assert deployment["spec"]["template"]["spec"]["securityContext"] == {
        "runAsNonRoot": True,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_dashboards_lie_in_their_folder() -> None:
    maps = [d for d in render("gpu") if "-dashboard-" in d["metadata"]["name"]]
    assert maps
    for found in maps:
        assert found["metadata"]["annotations"] == {"grafana_folder": "VLM2Vec"}
