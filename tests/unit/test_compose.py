"""deploy/: what is mounted is there, and the programs take the flags that they are given."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from tests.chart.prometheus import promtool
from tests.unit.test_docs import ROOT
from vlm2vec_cli.main import vlm2vec

DEPLOY = ROOT / "deploy"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())[
    "services"
]


def by_default(value: str) -> str:
    """``value`` where nobody sets its variables: ``${NAME:-default}``."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def mounts(service: str) -> dict[str, str]:
    """What a service mounts, by where."""
    parts = [by_default(volume).split(":") for volume in SERVICES[service]["volumes"]]
    return {target: source for source, target, *_ in parts}


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_mounted_is_there(service: str) -> None:
    volumes = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["volumes"]
    for source in mounts(service).values():
        assert source in volumes or (source.startswith(".") and (DEPLOY / source).exists())


def test_only_this_machine_reaches_the_ports() -> None:
    ports = [port for service in SERVICES.values() for port in service["ports"]]
    assert len(ports) == 5
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_server_takes_its_flags() -> None:
    (command, *flags) = map(by_default, SERVICES["server"]["command"])
    there = [flag.replace("/models", str(DEPLOY / mounts("server")["/models"])) for flag in flags]
    context = vlm2vec.commands[command].make_context(command, there)
    assert context.params["model"]["digits"].is_dir()
    assert context.params["allow_anonymous"]
    device = yaml.safe_load((DEPLOY / "gpu.yaml").read_text())["services"]["server"]["environment"]
    assert device.keys() == {"VLM2VEC_SERVE_DEVICE"}


def test_mlflow_takes_its_flags() -> None:
    # Importing this takes seconds.
    from mlflow.cli import cli

    service = SERVICES["mlflow"]
    program, command = service["entrypoint"]
    assert (program, isinstance(cli, click.Group)) == ("mlflow", True)
    known = {name for item in cli.commands[command].params for name in item.opts}
    assert {flag.partition("=")[0] for flag in service["command"]} <= known


def test_prometheus_takes_its_files(tmp_path: Path) -> None:
    assert promtool("check", "rules", DEPLOY / "rules.yaml").returncode == 0
    text = (DEPLOY / "prometheus.yaml").read_text()
    (path,) = yaml.safe_load(text)["rule_files"]
    assert path in mounts("prometheus")
    (tmp_path / "prometheus.yaml").write_text(text.replace(path, str(DEPLOY / "rules.yaml")))
    said = promtool("check", "config", tmp_path / "prometheus.yaml")
    assert said.returncode == 0, said.stderr


def test_the_alerts_are_the_chart_s_and_select_the_server() -> None:
    check = [sys.executable, str(DEPLOY / "rules.py"), "--check"]
    said = subprocess.run(check, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    (scrape,) = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["scrape_configs"]
    labels = scrape["static_configs"][0]["labels"]
    groups = yaml.safe_load((DEPLOY / "rules.yaml").read_text())["groups"]
    expressions = "\n".join(rule["expr"] for group in groups for rule in group["rules"])
    assert set(re.findall(r'namespace="(\w+)"', expressions)) == {labels["namespace"]}
    pods = set(re.findall(r'pod=~"([^"]+)"', expressions))
    assert pods
    assert all(re.fullmatch(pod, labels["pod"]) for pod in pods)


def test_grafana_finds_its_data_and_dashboards() -> None:
    (provider,) = yaml.safe_load((DEPLOY / "grafana/dashboards.yaml").read_text())["providers"]
    assert list((DEPLOY / mounts("grafana")[provider["options"]["path"]]).glob("*.json"))
    (source,) = yaml.safe_load((DEPLOY / "grafana/datasources.yaml").read_text())["datasources"]
    host = re.fullmatch(r"http://(\w+):9090", source["url"])
    assert host is not None
    assert host[1] in SERVICES


def test_a_named_volume_is_the_image_s_user_s() -> None:
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    (user,) = re.findall(r"(?m)^USER (\d+:\d+)$", dockerfile)
    owner, group = user.split(":")
    assert f"--owner={owner} --group={group} /data" in dockerfile
    assert mounts("server").get("/data") == "cache"
