"""A real Envoy in front of servers: round robin over those that its health checks find well."""

import contextlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.server import free_ports, wait_until

TYPES = "type.googleapis.com/envoy."
HTTP2 = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
MANAGER = TYPES + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


@dataclass(frozen=True)
class Envoy:
    """A running one."""

    address: str
    admin: str
    endpoints: Path

    def route(self, servers: Sequence[str]) -> None:
        """These addresses from now on, as Kubernetes would say when pods come and go."""
        _write_endpoints(self.endpoints, servers)

    def healthy(self) -> int:
        """Servers that calls go to."""
        with urllib.request.urlopen(f"{self.admin}/clusters?format=json", timeout=10) as page:
            (cluster,) = json.load(page)["cluster_statuses"]
        hosts = cluster.get("host_statuses", [])
        return sum(host["health_status"] == {"eds_health_status": "HEALTHY"} for host in hosts)


@contextlib.contextmanager
def running_envoy(folder: Path, servers: Sequence[str]) -> Iterator[Envoy]:
    """Ready once every one of ``servers`` is healthy."""
    port, admin_port = free_ports(2)
    endpoints = folder / "endpoints.json"
    _write_endpoints(endpoints, servers)
    (folder / "envoy.json").write_text(json.dumps(_bootstrap(port, admin_port, endpoints)))
    with (folder / "envoy.log").open("wb") as log:
        process = subprocess.Popen(
            [
                Path(sys.executable).with_name("envoy"), "-c", folder / "envoy.json",
                "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
    running = Envoy(f"127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}", endpoints)
    try:

        def ready() -> bool:
            assert process.poll() is None, (folder / "envoy.log").read_text()
            with contextlib.suppress(OSError):
                return running.healthy() == len(servers)
            return False

        wait_until(ready)
        yield running
    finally:
        process.terminate()
        process.wait(30)


def _bootstrap(port: int, admin_port: int, endpoints: Path) -> dict[str, Any]:
    route = {"match": {"prefix": "/"}, "route": {"cluster": "servers", "timeout": "0s"}}
    manager = {
        "@type": MANAGER,
        "stat_prefix": "grpc",
        "codec_type": "HTTP2",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": TYPES + "extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    http2 = {
        "@type": "type.googleapis.com/" + HTTP2,
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    cluster = {
        "name": "servers",
        "type": "EDS",
        "lb_policy": "ROUND_ROBIN",
        "connect_timeout": "1s",
        "eds_cluster_config": {
            "eds_config": {
                "resource_api_version": "V3",
                "path_config_source": {"path": str(endpoints)},
            }
        },
        # None of Envoy's own retries: those are the client's.
        "typed_extension_protocol_options": {HTTP2: http2},
        "health_checks": [
            {
                "timeout": "5s",
                "interval": "0.5s",
                "no_traffic_interval": "0.5s",
                "unhealthy_threshold": 1,
                "healthy_threshold": 1,
                "grpc_health_check": {},
            }
        ],
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
    }
    return {
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": _address(f"127.0.0.1:{admin_port}")},
        "static_resources": {
            "listeners": [
                {
                    "name": "grpc",
                    "address": _address(f"127.0.0.1:{port}"),
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                }
            ],
            "clusters": [cluster],
        },
    }


def _address(address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _write_endpoints(path: Path, servers: Sequence[str]) -> None:
    assignment = {
        "@type": TYPES + "config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": "servers",
        "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": _address(server)}} for server in servers]}
        ],
    }
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"resources": [assignment]}))
    os.replace(new, path)  # Envoy looks when a file takes its name
