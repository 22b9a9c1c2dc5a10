"""How credentials are sent, where they come from, and that they stay out of the log."""

import json
import queue

import grpc
import httpx
import pytest

from tests.e2e.auth.guarded import OK, UNKNOWN, Guarded, new_key
from tests.e2e.cases import options, text
from tests.e2e.server import memory_peak, wait_until
from vlm2vec.v1 import embedding_pb2 as pb


@pytest.mark.parametrize("value", ["{}", "Basic {}", "Bearer", "Bearer {} {}"])
def test_malformed_authorization(guarded: Guarded, value: str) -> None:
    header = value.format(*[guarded.keys["embed"]] * 2)
    answer = httpx.get(
        f"http://{guarded.server.http_address}/v1/models", headers={"authorization": header}
    )
    assert answer.status_code == 401
    with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
        guarded.server.embedding.ListModels(
            pb.ListModelsRequest(), metadata=(("authorization", header),)
        )


def test_two_credentials_are_none(guarded: Guarded) -> None:
    header = f"Bearer {guarded.keys['all']}"
    pair = (("authorization", header), ("authorization", header))
    url = f"http://{guarded.server.http_address}/v1/models"
    assert httpx.get(url, headers=list(pair)).status_code == 401
    with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
        guarded.server.embedding.ListModels(pb.ListModelsRequest(), metadata=pair)


def test_no_page_of_another_origin_may_call_unless_it_is_allowed(guarded: Guarded) -> None:
    url = f"http://{guarded.server.http_address}/v1/embeddings"
    headers = {"origin": "https://app.example.com", "access-control-request-method": "POST"}
    for method in ("OPTIONS", "POST"):
        answer = httpx.request(method, url, headers=headers)
        assert answer.status_code == 401
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_stranger_is_refused_before_a_message_is_read(guarded: Guarded) -> None:
    """Six messages of 60 MiB would take 360."""
    before = memory_peak(guarded.server.process.pid)
    large = pb.EmbedRequest(inputs=[pb.Input(parts=[pb.Part(image=bytes(60 << 20))])])
    calls = [guarded.server.embedding.Embed.future(large, timeout=120) for _ in range(6)]
    assert [call.code().name for call in calls] == [UNKNOWN] * 6
    assert memory_peak(guarded.server.process.pid) < before + (100 << 20)


def reloads(guarded: Guarded) -> str:
    """The metrics of files that were read again."""
    return "\n".join(line for line in guarded.metrics().splitlines() if "reloads" in line)


def test_file_is_followed(guarded: Guarded) -> None:
    before = guarded.file.read_text()
    assert [way("revoked") for way in guarded.ways] == [OK] * 3
    requests: queue.SimpleQueue[pb.EmbedStreamRequest] = queue.SimpleQueue()
    stream = guarded.server.embedding.EmbedStream(
        iter(requests.get, None), metadata=guarded.metadata("revoked")
    )
    requests.put(pb.EmbedStreamRequest(id="1", options=options(), input=text("a cat")))
    assert next(stream).HasField("embedding")
    lines = [line for line in before.splitlines(True) if '"revoked"' not in line]
    key, line = new_key("--name", "late")
    guarded.file.write_text("".join([*lines, line]))
    for way in guarded.ways:
        wait_until(lambda way=way: way("revoked") == UNKNOWN, 30)  # type: ignore[misc]
        wait_until(lambda way=way: way(key) == OK, 30)  # type: ignore[misc]

    # What goes on since before ends, too: it looks again no more often than the file is read.
    def ask_again() -> None:
        requests.put(pb.EmbedStreamRequest(id="2", options=options(), input=text("a cat")))
        next(stream)

    with pytest.raises(grpc.RpcError, match=UNKNOWN):
        wait_until(ask_again, 30)
    # A file that is no good changes nothing, and is told of.
    guarded.file.write_text("{")
    wait_until(lambda: '"failed"' in reloads(guarded), 30)
    assert [way(key) for way in guarded.ways] == [OK] * 3
    guarded.file.write_text(before)
    wait_until(lambda: guarded.embed_http("revoked") == OK, 30)


def test_log_names_callers_and_holds_no_secret(guarded: Guarded) -> None:
    for credential in (None, "embed", "read", guarded.token(), guarded.token() + "x"):
        for way in guarded.ways:
            way(credential)
    log = guarded.server.log.read_text()
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    callers = {line["caller"] for line in lines if "caller" in line}
    assert {"key:embed", "key:read", "jwt:robot", "ipv4:127.0.0.1"} <= callers
    assert len({*guarded.keys.values(), *guarded.secrets}) > 10
    guarded.assert_no_secret_is_logged()
