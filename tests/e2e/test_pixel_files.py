"""Pixels go from a server to its own workers by memory that both have, and stay with neither."""

from pathlib import Path

import pytest

from tests.e2e.cases import options
from tests.e2e.grpc_calls import embed
from tests.e2e.server import Server, wait_until
from tests.unit.pictures import png
from vlm2vec.v1 import embedding_pb2 as pb


def files(process: int) -> set[int]:
    """The inodes of the pixel files that ``process`` has mapped."""
    maps = Path(f"/proc/{process}/maps").read_text().splitlines()
    return {int(line.split()[4]) for line in maps if "memfd:pixels" in line}


@pytest.mark.parametrize("model", ["qwen", "phi"])
def test_a_worker_maps_pixels_and_lets_go_of_them(model: str, server: Server) -> None:
    message = pb.Input(parts=[pb.Part(image=png(336, 336))])
    assert len(embed(server, message, given=options(model, "base"))) == 1
    assert files(server.process.pid)
    wait_until(lambda: not any(files(worker) for worker in server.workers))
