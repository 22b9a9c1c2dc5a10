"""Pixels in memory that a front end shares with a worker: what was sent, and nothing else."""

import asyncio
import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.unit.test_codec import INPUTS, prepared, same
from vlm2vec.worker.v1 import worker_pb2
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.prepared import Media, Prepared
from vlm2vec_service.worker import pixel_file
from vlm2vec_service.worker.codec import decode_batch, encode_batch
from vlm2vec_service.worker.pixel_file import PixelFile, PixelFiles, UnmappedError, mapped


def encoded(file: PixelFile, *inputs: Prepared) -> worker_pb2.RunBatchRequest:
    file.rewind()
    rest = worker_pb2.RunBatchRequest(interactive=True)
    data = encode_batch(rest, [(one, "", None) for one in inputs], file)
    return worker_pb2.RunBatchRequest.FromString(data)


def test_what_arrives_is_what_was_sent() -> None:
    file = PixelFile(1 << 20)
    request = encoded(file, *INPUTS.values())
    assert request.interactive
    assert not any(media.pixels for item in request.items for media in item.media)
    arrived = decode_batch(request)
    file.close()  # the call has ended: the worker still has its map
    for one, sent in zip(arrived, INPUTS.values(), strict=True):
        same(one, sent)
    with pytest.raises(UnmappedError):
        decode_batch(request)


def test_pixels_that_do_not_lie_in_a_row_arrive() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 28, 56, 3), dtype=np.uint8)
    one = prepared(5, Media.of("image", pixels[:, :, ::2], 1, 4))
    (arrived,) = decode_batch(encoded(PixelFile(4000), one))
    same(arrived, one)


@pytest.mark.parametrize(
    ("field", "value"), [("offset", 1 << 15), ("offset", 1 << 63), ("height", 999), ("frames", 99)]
)
def test_pixels_that_are_not_in_the_file_are_refused_by_name(field: str, value: int) -> None:
    request = encoded(PixelFile(1 << 15), prepared(3), INPUTS["images, a video and audios"])
    setattr(request.items[1].media[2], field, value)
    with pytest.raises(
        InvalidInputError, match=r"^items\[1\].media\[2\].offset: .* the file's 32768"
    ):
        decode_batch(request)


def test_only_the_file_that_is_meant_is_mapped(tmp_path: Path) -> None:
    file = PixelFile(100)
    assert len(mapped(os.getpid(), file.descriptor, file.inode)) >= 100
    with pytest.raises(UnmappedError, match="not the file of pixels that is meant"):
        mapped(os.getpid(), PixelFile(100).descriptor, file.inode)
    with pytest.raises(UnmappedError, match="No such file"):
        mapped(os.getpid(), 1 << 30, file.inode)
    with (tmp_path / "secret").open("wb+") as other, pytest.raises(UnmappedError, match="map"):
        mapped(os.getpid(), other.fileno(), os.fstat(other.fileno()).st_ino)
    pipe, end = os.pipe()  # nobody waits for somebody to write
    with pytest.raises(UnmappedError, match="map"):
        mapped(os.getpid(), pipe, os.fstat(pipe).st_ino)
    unsealed = os.memfd_create("pixels", os.MFD_ALLOW_SEALING)
    os.ftruncate(unsealed, 4096)
    with pytest.raises(UnmappedError, match="meant"):
        mapped(os.getpid(), unsealed, os.fstat(unsealed).st_ino)
    with pytest.raises(OSError, match="not permitted"):  # a worker would die of it
        os.ftruncate(file.descriptor, 0)
    for descriptor in (pipe, end, unsealed):
        os.close(descriptor)


def is_open(file: PixelFile) -> bool:
    try:
        return os.fstat(file.descriptor).st_ino == file.inode
    except OSError:
        return False


def test_a_file_is_lent_again_only_if_its_batch_was_answered() -> None:
    async def lend() -> None:
        files = PixelFiles()
        with files.lent(1000) as first, files.lent(1000) as beside:
            assert beside is not first
        with files.lent(500) as again:
            assert again in (first, beside)
        with pytest.raises(asyncio.CancelledError), files.lent(1000) as given_up:
            raise asyncio.CancelledError
        assert not is_open(given_up)
        with files.lent(1000) as left:
            assert left is not given_up
        with files.lent(1 << 20) as larger:  # in its place
            assert not is_open(left)
        with files.lent(900) as enough:
            assert enough is larger

    asyncio.run(lend())


def test_a_file_is_not_kept_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_file, "KEPT_SECONDS", 0.0)

    async def lend() -> None:
        files = PixelFiles()
        with files.lent(1000) as first:
            pass
        async with asyncio.timeout(60):
            while is_open(first):
                await asyncio.sleep(0)
        with files.lent(1000) as second:
            assert second is not first

    asyncio.run(lend())


HELD = """
import numpy as np
from vlm2vec_service.worker.pixel_file import PixelFile
file = PixelFile(8192)
file.write(np.full(8192, 7, np.uint8))
print(file.descriptor, file.inode, flush=True)
input()
"""


def test_a_front_end_that_is_killed_takes_nothing_from_a_running_batch_and_leaves_nothing() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HELD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as front_end:
        assert front_end.stdout is not None
        descriptor, inode = map(int, front_end.stdout.readline().split())
        memory = mapped(front_end.pid, descriptor, inode)
        front_end.kill()
        front_end.wait()
        assert bytes(memory) == b"\x07" * 8192
        with pytest.raises(UnmappedError, match="cannot open"):
            mapped(front_end.pid, descriptor, inode)


def test_a_system_that_gives_no_file_is_an_error_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", refuse)
    with pytest.raises(UnmappedError, match="Too many open files"), PixelFiles().lent(1000):
        raise AssertionError


def test_memory_that_nobody_has_is_gone() -> None:
    def shared() -> int:
        return int(
            next(
                line.split()[1]
                for line in Path("/proc/self/status").read_text().splitlines()
                if line.startswith("RssShmem")
            )
        )

    before = shared()
    pixels = np.ones((1, 1024, 1024, 3), np.uint8)
    file = PixelFile(pixels.nbytes)
    (arrived,) = decode_batch(encoded(file, prepared(3, Media.of("image", pixels, 0, 3))))
    assert arrived.media[0].values.sum() == pixels.size
    assert shared() > before + 2000
    file.close()
    del file, arrived
    gc.collect()
    assert shared() < before + 500
