"""The alerts, by promtool: each one fires when it should and stays quiet when it should."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.prometheus import promtool
from tests.chart.rendering import ROOT, one, render, write_rules
from vlm2vec_service.frontend.http.middleware import SCOPES

UNIT_TESTS = Path(__file__).parent / "alerts.yaml"
VALUES = {
    "fullnameOverride": "p",
    "split": {"enabled": True},
    "autoscaling": {"kind": "keda"},
    "models": [
        {"name": "v2", "folder": "v2"},
        {"name": "v1", "folder": "v1", "worker": {"minReplicas": 0}},
    ],
}


def rules_of(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The groups that the chart renders."""
    documents = render(VALUES | {"monitoring": {"rules": True}} | values, namespace="a")
    return list(one(documents, "PrometheusRule", "p")["spec"]["groups"])


ALERTS = [rule for group in rules_of({}) for rule in group["rules"] if "alert" in rule]
NAMES = sorted({alert["alert"] for alert in ALERTS})


def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    result = promtool("check", "rules", write_rules(tmp_path, VALUES, "a"))
    assert result.returncode == 0, result.stderr


def test_the_latency_of_every_call_that_embeds_is_watched() -> None:
    """Whatever a path is called in the metrics, and in every place that means such calls."""
    (alert,) = (alert for alert in ALERTS if alert["alert"] == "Vlm2vecLatencyHigh")
    dashboard = (ROOT / "helm" / "vlm2vec-serve" / "dashboards" / "service.json").read_text()
    places = [alert["expr"], dashboard.replace('\\"', '"')]
    patterns = [one for place in places for one in re.findall(r'method=~"(Embed\|[^"]*)"', place)]
    assert len(patterns) > 4
    (pattern,) = set(patterns)
    others = {"/v1/models", "/v2/models", "/info"}
    ours = {path for path, scope in SCOPES.items() if scope == "embed"} - others
    assert all(re.fullmatch(pattern, name) for name in {"Embed", "Rank"} | ours)
    others |= {"EmbedStream", "WatchAdapters", "/v1/adapters", "other"}
    assert not [name for name in others if re.fullmatch(pattern, name)]


def unit_tests(folder: Path, rules: dict[str, Any], *tests: dict[str, Any]) -> tuple[int, str]:
    """What promtool says of those ``tests``, or of all; its status and words."""
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    given = yaml.safe_load(UNIT_TESTS.read_text()) | {"rule_files": [str(folder / "rules.yaml")]}
    (folder / "tests.yaml").write_text(yaml.safe_dump(given | ({"tests": tests} if tests else {})))
    result = promtool("test", "rules", folder / "tests.yaml")
    return result.returncode, result.stdout + result.stderr


def test_alerts_fire_and_stay_quiet(tmp_path: Path) -> None:
    status, said = unit_tests(tmp_path, {"groups": rules_of({})})
    assert status == 0, said


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fires", ["never", "always"])
def test_an_alert_that_never_or_always_fires_is_noticed(
    name: str, fires: str, tmp_path: Path
) -> None:
    expression = "vector(1)" if fires == "always" else "vector(1) == 0"
    groups = yaml.safe_load(yaml.safe_dump(rules_of({})))
    for group in groups:
        for rule in group["rules"]:
            if rule.get("alert") == name:
                # Without annotations, which want labels that such an alert has not.
                rule |= {"expr": expression, "annotations": {}}
    tests = [
        test
        for test in yaml.safe_load(UNIT_TESTS.read_text())["tests"]
        if re.match(rf"{name}\b", test["name"]) and ("quiet" in test["name"]) == (fires == "always")
    ]
    assert tests
    status, said = unit_tests(tmp_path, {"groups": groups}, *tests)
    assert status != 0
    # Each of its ways to die is a test of its own.
    assert said.count("got:") >= (len(tests) if fires == "never" else 1), said


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_an_alert_says_how_bad_what_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"warning", "critical"}
    assert alert["annotations"].keys() == {"summary", "description", "runbook"}
    (section,) = re.findall(r"docs/operations\.md, section (\w+):", alert["annotations"]["runbook"])
    handbook = (ROOT / "docs" / "operations.md").read_text()
    assert re.search(rf"^### {section}$", handbook, re.MULTILINE)
    assert "<" not in alert["expr"] + str(alert["annotations"])


def test_alerts_link_to_their_sections_where_the_docs_are() -> None:
    groups = rules_of({"monitoring": {"rules": True, "runbookUrl": "https://docs.example.com/ops"}})
    links = [r["annotations"]["runbook_url"] for g in groups for r in g["rules"] if "alert" in r]
    assert "https://docs.example.com/ops#vlm2vecdown" in links
    assert len(links) == len(ALERTS)


def test_thresholds_are_values() -> None:
    given = {
        "errorBudget": 0.005, "latencySeconds": 7.5, "refusedShare": 0.07, "outageMinutes": 17,
        "deviceMemoryShare": 0.81, "registrySeconds": 1234, "pendingMinutes": 19,
    }  # fmt: skip
    text = str(rules_of({"monitoring": {"rules": True, "thresholds": given}}))
    for shown in ("* 0.005", "> 7.5", "> 0.07", "> 0.81", "> 1234", "'17m'", "'19m'"):
        assert shown in text
    assert "<" not in text.replace("<=", "")


def test_two_releases_of_a_namespace_record_and_watch_their_own() -> None:
    for name in ("one", "two"):
        documents = render(VALUES | {"fullnameOverride": name, "monitoring": {"rules": True}})
        groups = one(documents, "PrometheusRule", name)["spec"]["groups"]
        for rule in (rule for group in groups for rule in group["rules"]):
            selectors = re.findall(r"\w\{(.*?)\}", rule["expr"])
            assert selectors
            own = (f'release="{name}"', f'pod=~"{name}-')
            assert all(any(mine in found for mine in own) for found in selectors), rule
            assert "record" not in rule or rule["labels"] == {"release": name}
