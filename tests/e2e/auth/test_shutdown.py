"""A shutdown while callers wait over both protocols."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.e2e.auth.guarded import Guarded, running_guarded
from tests.e2e.cases import options, text
from tests.e2e.server import wait_until
from vlm2vec.v1 import embedding_pb2 as pb

INPUTS = 12
"""Of each request: several batches."""


@pytest.fixture
def doomed(checkpoints: Path, tmp_path: Path) -> Iterator[Guarded]:
    """A server of its own, because the test stops it."""
    with running_guarded(checkpoints, tmp_path) as started:
        yield started


def test_accepted_requests_are_finished(doomed: Guarded) -> None:
    words = "one two three " * 150  # four of them are a batch
    headers = {"authorization": doomed.authorization("all")}
    url = f"http://{doomed.server.http_address}/v1/embeddings"
    request = pb.EmbedRequest(options=options(), inputs=[text(words)] * INPUTS)

    def in_flight() -> list[str]:
        lines = (line for line in doomed.metrics().splitlines() if "requests_in_flight{" in line)
        return sorted(line.split('"')[1] for line in lines if line.endswith(" 1.0"))

    workers = doomed.server.workers
    with ThreadPoolExecutor(2) as pool:
        for worker in workers:  # until both have been accepted
            os.kill(worker, signal.SIGSTOP)
        body = {"model": "qwen", "input": [words] * INPUTS}
        http = pool.submit(httpx.post, url, json=body, headers=headers, timeout=200)
        call = doomed.server.embedding.Embed.future(request, metadata=doomed.metadata("all"))
        wait_until(lambda: in_flight() == ["/v1/embeddings", "Embed"], pause=0.01)
        doomed.server.process.send_signal(signal.SIGTERM)
        for worker in workers:
            os.kill(worker, signal.SIGCONT)
        assert len(call.result().embeddings) == INPUTS
        assert len(http.result().json()["data"]) == INPUTS
    assert doomed.server.process.wait(90) == 0
