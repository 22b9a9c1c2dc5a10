"""HTTP beside gRPC on the same server, in one run: what the other protocol costs.

    python -m benchmarks.http

Small texts, so that the front end is what takes the time. Closed loop: so many callers, each with
one request under way, over connections that stay open; the protocols in short turns, the median
turn counts, so that other work on the machine is all three's. HTTP's client is the least that
speaks it, since client and server share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc

from benchmarks.models import write_checkpoint
from benchmarks.service import WORDS, serving
from tests.e2e.server import free_ports
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec.v1 import embedding_pb2_grpc

Call = Callable[[list[str]], Awaitable[None]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("tiny", "small"), default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--calls", type=int, default=160, help="calls of a turn")
    parser.add_argument("--callers", type=int, default=16, help="calls under way at once")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each protocol")
    args = parser.parse_args()
    http_address = f"127.0.0.1:{free_ports(1)[0]}"
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        write_checkpoint(base, args.size)
        with serving(base, args.device, http_address) as address:
            print(f"{args.size} on {args.device}, text of 8 words, {args.callers} callers\n")
            print("inputs a call | gRPC inputs/s | HTTP float | ratio | HTTP base64 | ratio")
            for inputs in (1, 8):
                asyncio.run(compare(args, address, http_address, inputs))


async def compare(args: argparse.Namespace, address: str, http_address: str, inputs: int) -> None:
    """Prints a line for calls of so many ``inputs``."""
    dice = random.Random(0)
    count = args.calls
    texts = [[" ".join(dice.choices(WORDS, k=8)) for _ in range(inputs)] for _ in range(count)]
    rates: dict[str, list[float]] = {"grpc": [], "float": [], "base64": []}
    async with grpc.aio.insecure_channel(address) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)

        async def over_grpc(texts: list[str]) -> None:
            messages = [pb.Input(parts=[pb.Part(text=text)]) for text in texts]
            await stub.Embed(pb.EmbedRequest(inputs=messages))

        for turn in range(args.rounds):
            # Each goes first, second and third: a machine slows down under load.
            names = [*rates][turn % 3 :] + [*rates][: turn % 3]
            for name in names:
                calls: list[Call] = [over_grpc] * args.callers
                if name != "grpc":
                    calls = [await connect(http_address, name) for _ in range(args.callers)]
                rates[name].append(count * inputs / await seconds(calls, texts))
    grpc_rate, *http_rates = map(statistics.median, rates.values())
    ratios = " | ".join(f"{rate:11.0f} | {rate / grpc_rate:5.2f}" for rate in http_rates)
    print(f"{inputs:13} | {grpc_rate:13.0f} | {ratios}", flush=True)


async def seconds(calls: list[Call], texts: list[list[str]]) -> float:
    """For all ``texts``; every call takes the next when it is done with one."""
    remaining = iter(texts)

    async def caller(call: Call) -> None:
        for item in remaining:
            await call(item)

    start = time.perf_counter()
    await asyncio.gather(*map(caller, calls))
    return time.perf_counter() - start


async def connect(address: str, encoding: str) -> Call:
    """A connection that stays open, one request after the other."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))

    async def call(texts: list[str]) -> None:
        body = json.dumps({"input": texts, "encoding_format": encoding}).encode()
        head = (
            "POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines if line)
        answer = json.loads(await reader.readexactly(int(headers[b"content-length"])))
        if b" 200 " not in status or len(answer["data"]) != len(texts):
            raise RuntimeError(f"{status!r} {answer}")

    return call


if __name__ == "__main__":
    main()
