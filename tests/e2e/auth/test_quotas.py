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


def use_requests(guarded: Guarded, most: float) -> float:
    """Gets ``most`` requests through, or a few more, by four callers with one key, two over each
    protocol; returns how many it were."""
    header = guarded.authorization("requests")
    client = httpx.Client(base_url=f"http://{guarded.server.http_address}", timeout=60)
    served: list[float] = []
    waits: list[float] = []

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

    def ask(call: Callable[[], float]) -> None:
        while len(served) < most:
            wait = call()
            (waits if wait else served).append(wait)
            time.sleep(wait)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, (over_http, over_grpc) * 2))
    assert 0 < max(waits) <= 1 / REQUESTS + 0.001
    return len(served)


def use_tokens(guarded: Guarded, most: float) -> float:
    """Gets ``most`` tokens, or a few more, by a stream that never waits by itself; returns how many
    it were, without those of the last input: what is owed is paid for by the next."""
    stop = threading.Event()

    def sent() -> Iterator[pb.EmbedStreamRequest]:
        number = 0
        while not stop.is_set():
            number += 1
            words = text("a cat and a dog in two boats on a lake")
            yield pb.EmbedStreamRequest(id=str(number), options=options(), input=words)

    tokens = last = 0
    answers = guarded.server.embedding.EmbedStream(sent(), metadata=guarded.metadata("tokens"))
    while tokens < most:
        answer = next(answers)
        assert not answer.HasField("error"), answer.error
        last = answer.embedding.tokens
        tokens += last
    stop.set()
    answers.cancel()
    return tokens - last


@pytest.mark.parametrize(("use", "rate"), [(use_requests, REQUESTS), (use_tokens, TOKENS)])
def test_nobody_gets_more_than_the_quota(
    guarded: Guarded, use: Callable[[Guarded, float], float], rate: float
) -> None:
    started = time.monotonic()
    got = use(guarded, rate * (BURST_SECONDS + 4))
    # However slow the machine is: it takes no less time than the clock needs for the rest.
    assert got <= rate * (BURST_SECONDS + time.monotonic() - started) + 1


def test_what_is_paid_for_does_not_wait_for_what_came_with_it(guarded: Guarded) -> None:
    together = pb.EmbedStreamRequest(id="0", options=options(), input=text("a cat"))
    for number in range(1, 32):
        together.more.add(id=str(number), options=options(), input=text("a cat"))
    answers = guarded.server.embedding.EmbedStream(
        iter([together]), metadata=guarded.metadata("few"), timeout=30
    )
    answer = next(answers)
    assert answer.embedding.tokens == 2  # so all of them take a minute
    answers.cancel()


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

    # A slow machine may pay the debt off between the two.
    wait_until(lambda: refused() and guarded.embed_grpc("tokens") == "RESOURCE_EXHAUSTED")
