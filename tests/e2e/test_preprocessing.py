"""Decoding that takes long: nobody else waits for it, and it stops when nobody waits for it."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.e2e.auth.guarded import new_key
from tests.e2e.cases import options, text
from tests.e2e.grpc_calls import failure
from tests.e2e.server import Server, running_server, wait_until
from tests.unit.pictures import gif_of_huge_frames, png
from vlm2vec.v1 import embedding_pb2 as pb

THREADS = 2
HEAVY = pb.Input(parts=[pb.Part(video=pb.Video(file=gif_of_huge_frames(side=7000, frames=5000)))])
"""Minutes of decoding, in 115 kB."""
SMALL = [*(text(f"a question, {number}") for number in range(5)), pb.Input(
    parts=[pb.Part(image=png(32, 32)), pb.Part(text="a picture")]
)]  # fmt: skip


class TwoCallers:
    """Two callers of one server."""

    def __init__(self, server: Server, heavy: str, modest: str) -> None:
        self.server = server
        self._heavy, self._modest = ((("authorization", f"Bearer {k}"),) for k in (heavy, modest))

    def heavy(self, seconds: float) -> Any:
        """Sends what takes minutes, and waits ``seconds`` for it."""
        request = pb.EmbedRequest(options=options(), inputs=[HEAVY])
        call = self.server.embedding.Embed.future
        return call(request, metadata=self._heavy, timeout=seconds)

    def modest(self, item: pb.Input) -> pb.EmbedResponse:
        """Sends a small input, and waits for the answer."""
        request = pb.EmbedRequest(options=options(), inputs=[item])
        answer: pb.EmbedResponse = self.server.embedding.Embed(
            request, metadata=self._modest, timeout=60
        )
        return answer

    def wait_for(self, running: int, waiting: int) -> None:
        """Until so many inputs with media are being preprocessed, and so many wait for it."""
        metric = self.server.metric
        wait_until(
            lambda: (
                metric("preprocess_running", kind="media") == running
                and metric("preprocess_waiting", kind="media") == waiting
            )
        )


@pytest.fixture(scope="module")
def callers(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoCallers]:
    """Of a server that decodes whatever it is sent, however long it takes."""
    folder = tmp_path_factory.mktemp("preprocessing")
    keys, lines = zip(*(new_key("--name", name) for name in ("heavy", "modest")), strict=True)
    (folder / "callers").write_text("\n".join(lines))
    flags = [
        f"--model=qwen={checkpoints / 'qwen2_vl'}", "--dtype=float32", "--log-level=WARNING",
        f"--callers={folder / 'callers'}", "--without-credential=health,metrics",
        f"--preprocess-threads={THREADS}", "--preprocess-seconds=3600", "--drain-seconds=2",
        "--max-decoded-pixels=1000000000000",
    ]  # fmt: skip
    with running_server(folder, *flags) as server:
        yield TwoCallers(server, *keys)


def test_heavy_inputs_of_one_caller_hold_up_nobody_else(callers: TwoCallers) -> None:
    heavy = [callers.heavy(300) for _ in range(3 * THREADS)]
    callers.wait_for(running=THREADS, waiting=2 * THREADS)
    for item in SMALL:
        (embedding,) = callers.modest(item).embeddings
        assert embedding.tokens > 0
    assert not any(future.done() for future in heavy)
    callers.wait_for(running=THREADS, waiting=2 * THREADS)
    for future in heavy:
        future.cancel()
    callers.wait_for(running=0, waiting=0)  # minutes before they would have ended


def test_a_deadline_ends_what_runs_and_what_waits(callers: TwoCallers) -> None:
    before = callers.server.metric("stage_seconds_count", stage="preprocess_wait")
    heavy = [callers.heavy(4) for _ in range(2 * THREADS)]
    callers.wait_for(running=THREADS, waiting=THREADS)
    assert {future.code() for future in heavy} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    callers.wait_for(running=0, waiting=0)
    assert callers.server.metric("stage_seconds_count", stage="preprocess_wait") == before


def test_a_stop_waits_for_no_decoding(callers: TwoCallers) -> None:
    heavy = [callers.heavy(300) for _ in range(2 * THREADS)]
    callers.wait_for(running=THREADS, waiting=THREADS)
    started = time.monotonic()
    callers.server.process.send_signal(signal.SIGTERM)
    assert callers.server.process.wait(60) == 0
    assert time.monotonic() - started < 30  # they are given 2 s
    assert all(future.exception() for future in heavy)


def test_an_input_that_costs_too_much_is_refused(checkpoints: Path, tmp_path: Path) -> None:
    flags = [
        f"--model=qwen={checkpoints / 'qwen2_vl'}", "--dtype=float32", "--preprocess-seconds=0.5",
        "--max-decoded-pixels=100000000000",
    ]  # fmt: skip
    with running_server(tmp_path, *flags) as server:
        for frames, limit in ((2000, "preprocess_seconds, 0.5"), (2050, "max_decoded_pixels")):
            film = pb.Video(file=gif_of_huge_frames(side=7000, frames=frames))
            request = pb.EmbedRequest(
                options=options(), inputs=[text("before"), pb.Input(parts=[pb.Part(video=film)])]
            )
            error = failure(server.embedding.Embed, request, timeout=60)
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert error.details().startswith("inputs[1].parts[0].video.file: ")
            assert limit in error.details()
        wait_until(lambda: server.metric("preprocess_running") == 0)
