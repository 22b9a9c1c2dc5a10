"""Every query of the dashboards, the alerts and the autoscalers, on a real Prometheus that scrapes
a real server under load."""

import contextlib
import json
import math
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import grpc
import pytest

from tests.chart.prometheus import Prometheus, find, running_prometheus
from tests.chart.rendering import CHART, NAME, one, render, write_rules
from tests.chart.served import MODEL, chart_flags, chart_values
from tests.conftest import adapter_folder
from tests.e2e.cases import case_inputs, options, text
from tests.e2e.server import Server, running_server, wait_until
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_registry import traffic
from vlm2vec_registry.snapshot import SHADOW
from vlm2vec_registry.store import Registry

DASHBOARDS = {
    path.stem: json.loads(path.read_text()) for path in (CHART / "dashboards").glob("*.json")
}
RELEASE: dict[str, Any] = {
    "fullnameOverride": "pod",
    "models": [{"name": MODEL, "folder": "a"}],
}
"""A release whose pods are called as those that Prometheus scrapes here."""
VARIABLES = {"$__rate_interval": "10s", "$namespace": ".*", "$model": ".*", "$price": "1"}
TARGETS = [
    pytest.param(target["expr"], id=f"{name}: {panel['title']} {target['refId']}")
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
    for target in panel.get("targets", [])
]


class MixedLoad:
    """Calls of every kind, one after the other, in a thread, until told to end."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        stub, cases, number = self.server.embedding, case_inputs(MODEL), 0
        try:
            while not self._stop.is_set():
                number += 1
                ours = options(MODEL, routing_key=str(number))
                words = [text(f"{word} {number}") for word in ("a", "b", "c", "d")]
                inputs = [*words, cases["image-tiny"], cases["video"]]
                stub.Embed(pb.EmbedRequest(options=ours, inputs=inputs), timeout=60)
                rank = pb.RankRequest(options=ours, query=text("a"), candidates=words)
                stub.Rank(rank, timeout=60)
                requests = [
                    pb.EmbedStreamRequest(id=str(i), options=ours, input=item)
                    for i, item in enumerate([*words, pb.Input(parts=[pb.Part(image=b"none")])])
                ]
                list(stub.EmbedStream(iter(requests), timeout=60))
                with contextlib.suppress(grpc.RpcError):
                    stub.Embed(pb.EmbedRequest(options=ours), timeout=60)
        except BaseException as error:  # noqa: BLE001 (the test raises it)
            self.errors.append(error)


@pytest.fixture(scope="module")
def prometheus(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It scrapes a server with a champion, a canary and a shadow, whose canary just changed."""
    find("prometheus")
    folder = tmp_path_factory.mktemp("dashboards")
    registry, base = Registry(str(folder / "registry")), checkpoints / "qwen2_vl"
    for name in ("lora", "dora", "lora"):
        registry.publish(MODEL, adapter_folder("qwen2_vl", name), base=base)
    traffic.promote(registry, MODEL, "1")
    traffic.start_canary(registry, MODEL, "2", 0.5)
    registry.set_alias(MODEL, SHADOW, "2")
    flags = [
        *chart_flags(chart_values(checkpoints), folder), "--poll-seconds", "0.2",
        "--registry", str(folder / "registry"), "--cache-dir", str(folder / "cache"),
    ]  # fmt: skip
    with (
        running_server(folder, *flags) as server,
        running_prometheus(
            folder, [server.metrics_address], write_rules(folder, RELEASE, "test")
        ) as running,
        MixedLoad(server) as load,
    ):
        wait_until(lambda: running.query("vlm2vec_adapter_load_seconds_count > 0"))
        traffic.start_canary(registry, MODEL, "3", 0.5)
        wait_until(
            lambda: load.errors or running.query("vlm2vec_shadow_neighbour_overlap_count > 0")
        )
        assert not load.errors
        yield running
        assert not load.errors


def has_data(samples: list[dict[str, Any]]) -> bool:
    return any(math.isfinite(float(sample["value"][1])) for sample in samples)


@pytest.mark.parametrize("expression", TARGETS)
def test_every_panel_shows_something(prometheus: Prometheus, expression: str) -> None:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    wait_until(lambda: has_data(prometheus.query(expression)), pause=0.2)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_variables_have_values(prometheus: Prometheus, name: str) -> None:
    for variable in DASHBOARDS[name]["templating"]["list"]:
        if variable["type"] != "query":
            continue
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"])
        assert found
        selector, label = found[1].replace("$namespace", ".*"), found[2]
        assert all(label in series for series in prometheus.get("series", **{"match[]": selector}))


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_have_ids_places_and_titles_of_their_own(name: str) -> None:
    panels = DASHBOARDS[name]["panels"]
    titles = [panel["title"] for panel in panels]
    assert len({panel["id"] for panel in panels}) == len(set(titles)) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken
        taken |= cells


def test_rules_run_and_nothing_is_on_fire(prometheus: Prometheus) -> None:
    groups = prometheus.get("rules")["groups"]
    assert {group["name"] for group in groups} == {
        f"vlm2vec-{part}" for part in ("errors", "alerts", "outage", "models")
    }
    for group in groups:
        for rule in group["rules"]:
            assert rule["health"] == "ok", rule
            # Those that are pending fire in minutes, and these alerts watch what there is now.
            assert rule.get("state", "inactive") == "inactive" or "Down" not in rule["name"], rule
            assert rule.get("state") != "firing", rule


def test_every_metric_of_ours_that_is_asked_for_is_exported(prometheus: Prometheus) -> None:
    exported = set(prometheus.get("label/__name__/values"))
    asked = (CHART / "rules" / "vlm2vec.yaml").read_text() + json.dumps(DASHBOARDS)
    asked += (CHART / "rules" / "model.yaml").read_text()
    asked += json.dumps(one(render("zero"), "ScaledObject", f"{NAME}-worker-v2")["spec"])
    asked += json.dumps(one(render("keda"), "ScaledObject")["spec"])
    asked += json.dumps(one(render("gpu"), "HorizontalPodAutoscaler")["spec"])
    names = set(re.findall(r"\bvlm2vec_[a-z_]+", asked))
    assert len(names) > 20
    assert names <= exported


def test_the_autoscaler_is_told_what_waits(prometheus: Prometheus) -> None:
    scaling = {"kind": "keda", "workers": {"minReplicas": 0}}
    split = {"split": {"enabled": True}, "autoscaling": scaling}
    for values, name in ((RELEASE, "pod"), (RELEASE | split, f"pod-worker-{MODEL}")):
        scaled = render({"autoscaling": {"kind": "keda"}} | values, namespace="test")
        for trigger in one(scaled, "ScaledObject", name)["spec"]["triggers"]:
            (sample,) = prometheus.query(trigger["metadata"]["query"])
            assert float(sample["value"][1]) >= 0
    # Somebody calls, so that a worker has to stay.
    assert float(sample["value"][1]) > 0
