"""The alerts, by promtool: each one fires when it should and stays quiet when it should."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.prometheus import promtool
from tests.chart.rendering import ROOT, RULES, one, render

UNIT_TESTS = Path(__file__).parent / "alerts.yaml"
GROUPS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
ALERTS = [rule for group in GROUPS for rule in group["rules"] if "alert" in rule]
NAMES = [alert["alert"] for alert in ALERTS]


def test_promtool_accepts_the_rules() -> None:
    result = promtool("check", "rules", RULES)
    assert result.returncode == 0, result.stderr


def test_alerts_fire_and_stay_quiet() -> None:
    result = promtool("test", "rules", UNIT_TESTS)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fires", ["never", "always"])
def test_an_alert_that_never_or_always_fires_is_noticed(
    name: str, fires: str, tmp_path: Path
) -> None:
    expression = "vector(1)" if fires == "always" else "vector(1) == 0"
    rules = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            if rule.get("alert") == name:
                # Without annotations, which want labels that such an alert has not.
                rule |= {"expr": expression, "annotations": {}}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    tests = yaml.safe_load(UNIT_TESTS.read_text()) | {"rule_files": [str(tmp_path / "rules.yaml")]}
    tests["tests"] = [
        test
        for test in tests["tests"]
        if test["name"].startswith(name) and ("quiet" in test["name"]) == (fires == "always")
    ]
    assert tests["tests"]
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    assert promtool("test", "rules", tmp_path / "tests.yaml").returncode != 0


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_an_alert_says_how_bad_what_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"warning", "critical"}
    assert alert["annotations"].keys() == {"summary", "description", "runbook"}
    (section,) = re.findall(r"docs/operations\.md, section (\w+):", alert["annotations"]["runbook"])
    handbook = (ROOT / "docs" / "operations.md").read_text()
    assert re.search(rf"^### {section}$", handbook, re.MULTILINE)


def test_the_chart_installs_these_rules() -> None:
    groups = one(render("gpu"), "PrometheusRule")["spec"]["groups"]
    assert groups == GROUPS
