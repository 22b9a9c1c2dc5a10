"""Quotas: a caller who asks all the time gets what its bucket holds and what the clock gives."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import pytest

from tests.e2e.auth.guarded import BURST_SECONDS, REQUESTS, TOKENS, Guarded
from tests.e2e.cases import options, text
from tests.e2e.server import wait_until
from vlm2vec.v1 import embedding_pb2 as pb


def requests_served(guarded: Guarded, seconds: float) -> tuple[int, float]:
    """How many requests four callers with one key get, two over each protocol, and in how many
    seconds."""
    header = guarded.authorization("requests")
    client = httpx.Client(base_url=f"http://{guarded.server.http_address}", timeout=60)

    def over_http() -> float:
        answer = client.get("/v1/models", headers={"authorization": header})
        if answer.status_code == 200:
            return 0.0
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        return float(answer.headers["retry-after-ms"]) / 1000

    def over_grpc() -> float:
        metadata = (("authorization", header),)
        answer = guarded.server.embedding.ListModels.future(
            pb.ListModelsRequest(), metadata=metadata
        )
        if answer.code() == grpc.StatusCode.OK:
            return 0.0
        assert answer.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        return int(dict(answer.trailing_metadata())["retry-after-ms"]) / 1000

    start = time.monotonic()

    def ask(call: Callable[[], float]) -> int:
        served = 0
        while time.monotonic() < start + seconds:
            wait = call()
            assert wait <= 1 / REQUESTS + 0.001
            served += not wait
            time.sleep(wait)
        return served

    with ThreadPoolExecutor(4) as pool:
        served = sum(pool.map(ask, (over_http, over_grpc) * 2))
    return served, time.monotonic() - start


def tokens_served(guarded: Guarded, seconds: float) -> tuple[int, float]:
    """How many tokens a stream gets that never waits by itself, and in how many seconds."""
    stop = threading.Event()

    def sent() -> Iterator[pb.EmbedStreamRequest]:
        number = 0
        while not stop.is_set():
            number += 1
            words = text("a cat and a dog in two boats on a lake")
            yield pb.EmbedStreamRequest(id=str(number), options=options(), input=words)

    start, tokens = time.monotonic(), 0
    answers = guarded.server.embedding.EmbedStream(sent(), metadata=guarded.metadata("tokens"))
    for answer in answers:
        assert not answer.HasField("error"), answer.error
        tokens += answer.embedding.tokens
        if time.monotonic() > start + seconds:
            break
    stop.set()
    answers.cancel()
    return tokens, time.monotonic() - start


def test_quotas_hold(guarded: Guarded) -> None:
    with ThreadPoolExecutor(2) as pool:
        requests = pool.submit(requests_served, guarded, 10.0)
        tokens = pool.submit(tokens_served, guarded, 10.0)
        for future, rate in ((requests, REQUESTS), (tokens, TOKENS)):
            served, seconds = future.result()
            assert served == pytest.approx(rate * (BURST_SECONDS + seconds), rel=0.05)


def test_spent_token_quota_refuses_unary_calls(guarded: Guarded) -> None:
    words = "a cat and a dog " * 200
    body = {"model": "qwen", "input": words}
    headers = {"authorization": guarded.authorization("tokens")}
    url = f"http://{guarded.server.http_address}/v1/embeddings"

    def refused() -> bool:
        answer = httpx.post(url, json=body, headers=headers, timeout=60)
        if answer.status_code == 200:
            return False
        assert answer.status_code == 429
        assert "200 tokens a second" in answer.json()["error"]["message"]
        assert int(answer.headers["retry-after-ms"]) > 0
        return True

    wait_until(refused)
    assert guarded.embed_grpc("tokens") == "RESOURCE_EXHAUSTED"
