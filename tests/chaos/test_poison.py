"""An input that hangs its worker, among others that are answered; with several processes in front
of it."""

import contextlib
import functools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from tests.chaos.watched import watched_server
from tests.e2e.cases import options, text
from tests.e2e.server import SERVING, wait_until
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec.v1 import embedding_pb2_grpc
from vlm2vec_service.scheduling.suspects import CRASHES

POISON = "poison " * 300
PATCH = """
import sys, time

if "vlm2vec_service.worker" in sys.orig_argv:
    from vlm2vec_service.worker.device import DeviceQueue

    run = DeviceQueue.run

    def poisoned(self, items, *packed):
        if any(len(item.prepared) > 300 for item in items):
            time.sleep(3600)
        return run(self, items, *packed)

    DeviceQueue.run = poisoned
"""
"""What Python runs when it starts: it makes workers hang over long inputs."""


def test_one_input_fails_after_few_deaths_and_all_others_are_answered(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(PATCH)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.setenv("PYTHONPATH", path)
    flags = ("--batch-timeout-seconds=3", "--processes=2")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(watched_server(checkpoints, tmp_path, *flags))
        # Each is of one process: so many that both have some.
        channels = [stack.enter_context(server.connect()) for _ in range(16)]

        def embed(words: str, channel: grpc.Channel = server.channel) -> grpc.Call:
            request = pb.EmbedRequest(options=options(), inputs=[text(words)])
            stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            call = stub.Embed.future(request, timeout=280, wait_for_ready=True)
            call.exception()
            return call

        def is_served(channel: grpc.Channel) -> bool:
            return embed("warm up", channel).code() == grpc.StatusCode.OK

        # The other process may still start, and would say so.
        for channel in (server.channel, *channels):
            wait_until(functools.partial(is_served, channel))
        with ThreadPoolExecutor(33) as pool:
            poison = pool.submit(embed, POISON)
            others = [pool.submit(embed, f"neighbour {i}", channels[i // 2]) for i in range(32)]
            codes = {(other.result().code(), other.result().details()) for other in others}
            assert {code for code, _ in codes} == {grpc.StatusCode.OK}, codes
            assert poison.result().code() == grpc.StatusCode.INTERNAL
            assert "takes the worker down" in (poison.result().details() or "")
        server.wait_for(SERVING)
        assert embed("afterwards").code() == grpc.StatusCode.OK
        deaths = server.metric("worker_restarts_total")
        # A batch that waits longer than those 3 s behind another process's is taken to hang, too:
        # so each of the two may need as many deaths as one process alone.
        assert deaths <= 2 * (1 + CRASHES)
        again = embed(POISON)
        assert again.code() == grpc.StatusCode.INTERNAL
        assert "takes the worker down" in (again.details() or "")
        assert server.metric("fatal_inputs_total") == 2
        assert embed("and again").code() == grpc.StatusCode.OK
        assert server.metric("worker_restarts_total") == deaths
