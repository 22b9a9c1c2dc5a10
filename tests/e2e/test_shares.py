"""Many streams of one caller, and the calls of another in between: all are answered."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from tests.e2e.auth.guarded import new_key
from tests.e2e.cases import options, text
from tests.e2e.server import Server, running_server
from vlm2vec.v1 import embedding_pb2 as pb

STREAMS, WINDOW, CALLS, QUEUE = 20, 8, 40, 64

Metadata = dict[str, tuple[tuple[str, str], ...]]
"""What a caller sends with its calls, by its name."""


@pytest.fixture(scope="module")
def shared(
    checkpoints: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Metadata]]:
    """A server with a short queue and two callers."""
    folder = tmp_path_factory.mktemp("shared")
    keys, lines = zip(*(new_key("--name", name) for name in ("bulk", "modest")), strict=True)
    (folder / "callers").write_text("\n".join(lines))
    bulk, modest = ((("authorization", f"Bearer {key}"),) for key in keys)
    flags = [
        f"--model=qwen={checkpoints / 'qwen2_vl'}", "--dtype=float32", "--log-level=WARNING",
        f"--callers={folder / 'callers'}", "--without-credential=health,metrics",
        f"--max-queue-requests={QUEUE}",
    ]  # fmt: skip
    with running_server(folder, *flags) as started:
        yield started, {"bulk": bulk, "modest": modest}


@pytest.mark.parametrize("priority", [pb.PRIORITY_INTERACTIVE, pb.PRIORITY_BULK])
def test_streams_of_one_caller_refuse_no_call_of_another(
    shared: tuple[Server, Metadata], priority: pb.Priority
) -> None:
    server, metadata = shared
    ended = threading.Event()
    filled = threading.Semaphore(0)

    def stream(number: int) -> set[str]:
        window = threading.Semaphore(WINDOW)

        def requests() -> Iterator[pb.EmbedStreamRequest]:
            item = text(f"one of many in stream {number}")
            while window.acquire() and not ended.is_set():
                yield pb.EmbedStreamRequest(
                    id="any", options=options(priority=priority), input=item
                )

        codes = set()
        with server.connect() as channel:
            stub = type(server.embedding)(channel)
            for answer in stub.EmbedStream(requests(), metadata=metadata["bulk"]):
                codes.add("OK" if answer.HasField("embedding") else answer.error.message)
                filled.release()
                window.release()
        return codes

    def call(number: int) -> str:
        request = pb.EmbedRequest(options=options(), inputs=[text(f"a question, {number}")])
        answer = server.embedding.Embed.future(request, metadata=metadata["modest"], timeout=30)
        return str(answer.code().name) + (answer.details() or "")

    with ThreadPoolExecutor(STREAMS) as streams, ThreadPoolExecutor(4) as calls:
        running = [streams.submit(stream, number) for number in range(STREAMS)]
        try:
            for _ in range(4 * QUEUE):  # until the queue has been full for a while
                assert filled.acquire(timeout=30)
            assert server.metric("pending_requests") <= QUEUE
            codes = list(calls.map(call, range(CALLS)))
        finally:
            ended.set()
        assert codes == [grpc.StatusCode.OK.name] * CALLS
        assert {code for future in running for code in future.result(60)} == {"OK"}
