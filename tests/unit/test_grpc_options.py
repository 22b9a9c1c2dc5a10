"""Options of gRPC's channels and servers: that gRPC knows them, and that clients may ping."""

import asyncio
import re
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vlm2vec_service.frontend.grpc.health import HealthServicer
from vlm2vec_service.frontend.server import channel_options
from vlm2vec_service.settings import ServerSettings

ROOT = Path(__file__).parents[2]
OPTION = re.compile(r"""\(\s*"(grpc\.[a-z0-9_.]+)",""")
PINGING = (
    ("grpc.keepalive_time_ms", 1_200),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


def test_grpc_knows_every_option() -> None:
    (core,) = Path(grpc.__file__).parent.glob("_cython/cygrpc*.so")
    known = core.read_bytes()
    used = {
        name
        for package in ("service", "clients", "cli", "tests")
        for path in (ROOT / package).rglob("*.py")
        for name in OPTION.findall(path.read_text())
    }
    used |= {name for name, _ in channel_options(ServerSettings(max_connection_age_seconds=1.0))}
    assert len(used) > 12
    assert not {
        name
        for name in used
        if not re.search(rb"(?<![a-z_.])%s\0" % re.escape(name).encode(), known)
    }


def test_clients_that_ping_are_not_cut_off() -> None:
    """Seven pings, of which gRPC forgives two that come too soon, on a stream and without one."""

    async def run() -> None:
        server = grpc.aio.server(options=channel_options(ServerSettings()))
        servicer = HealthServicer([], ["m"])
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        address = f"127.0.0.1:{port}"
        async with (
            grpc.aio.insecure_channel(address, PINGING) as streaming,
            grpc.aio.insecure_channel(address, PINGING) as idle,
        ):
            stub: Any = health_pb2_grpc.HealthStub(streaming)
            watch = stub.Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            await idle.channel_ready()
            answer = asyncio.create_task(watch.read())
            lost = asyncio.create_task(idle.wait_for_state_change(grpc.ChannelConnectivity.READY))
            ended, _ = await asyncio.wait(
                {answer, lost}, timeout=9.0, return_when=asyncio.FIRST_COMPLETED
            )
            assert not ended, "a connection was cut off"
            servicer.set({"m": True}, True)
            assert (await answer).status == health_pb2.HealthCheckResponse.SERVING
            lost.cancel()
        await server.stop(None)

    asyncio.run(run())
