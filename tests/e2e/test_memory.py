"""What requests took of memory is given back when they are answered."""

import io
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from tests.e2e.cases import text
from tests.e2e.grpc_calls import embed
from tests.e2e.server import Server, memory, wait_until
from vlm2vec.v1 import embedding_pb2 as pb


def large_jpeg(side: int) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((side, side)).save(file, "JPEG")
    return file.getvalue()


def test_memory_is_given_back_after_a_burst_of_large_pictures(server: Server) -> None:
    """Within a minute, to a tenth of what there was before; the C library would keep ten times
    that."""
    pictures = pb.Input(parts=[pb.Part(image=large_jpeg(side)) for side in (3500, 4500, 5500)])
    embed(server, text("a"), pb.Input(parts=[pb.Part(image=large_jpeg(200))]))
    time.sleep(1)
    before = memory(server.process.pid)
    with ThreadPoolExecutor(8) as callers:
        for answer in [callers.submit(embed, server, pictures) for _ in range(8)]:
            answer.result()
    wait_until(lambda: memory(server.process.pid) < 1.1 * before, 60)
