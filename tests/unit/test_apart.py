"""Pictures that a process of their own decodes: the same pixels, and it can be ended."""

import io
import signal
import subprocess
import threading
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.unit.pictures import blank, noise, png
from vlm2vec_service.errors import Code, DeadlineError, InvalidInputError, ServeError
from vlm2vec_service.preprocess import images
from vlm2vec_service.preprocess.apart import SMALL_PIXELS
from vlm2vec_service.preprocess.images import measure_image
from vlm2vec_service.preprocess.stop import Stop
from vlm2vec_service.settings import Limits

RGB = noise(60, 400)
RGBA = Image.merge("RGBA", (*RGB.split(), noise(60, 400, 1).getchannel(0)))
TURNED = Image.Exif()
TURNED[0x0112] = 6


def webp(picture: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, "WEBP", **options)
    return file.getvalue()


Processes = list[subprocess.Popen[bytes]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Processes:
    """The processes that have been started; each picture is a large one."""
    processes: Processes = []
    start = subprocess.Popen

    def note(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        processes.append(start(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(subprocess, "Popen", note)
    monkeypatch.setattr(images, "SMALL_PIXELS", 0)
    return processes


@pytest.mark.parametrize("decode", ["viewed", "raw"])
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(webp(RGB), id="lossy"),
        pytest.param(webp(RGB, lossless=True), id="lossless"),
        pytest.param(webp(RGBA, lossless=True, exact=True), id="transparent"),
        pytest.param(webp(RGB, exif=TURNED), id="turned"),
        pytest.param(webp(RGB, save_all=True, append_images=[noise(60, 400, 2)]), id="animated"),
    ],
)
def test_a_process_decodes_the_same_pixels(
    data: bytes, decode: str, started: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = measure_image(data, Limits()).decoded(decode)
    assert [process.returncode for process in started] == [0]
    monkeypatch.setattr(images, "SMALL_PIXELS", SMALL_PIXELS)
    here = measure_image(data, Limits()).decoded(decode)
    assert len(started) == 1
    np.testing.assert_array_equal(np.asarray(there), np.asarray(here))


def test_only_large_ones_of_this_format_are_worth_a_process(
    started: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_image(png(60, 400), Limits()).decoded("viewed")
    monkeypatch.setattr(images, "SMALL_PIXELS", RGB.width * RGB.height)
    measure_image(webp(RGB), Limits()).decoded("viewed")
    assert not started


def test_a_damaged_one_is_the_inputs_fault(started: Processes) -> None:
    data = webp(RGB, lossless=True)
    with pytest.raises(
        InvalidInputError, match=r"^parts\[1\]: truncated or damaged WEBP image: failed to read"
    ):
        measure_image(data[:26] + bytes(len(data) - 26), Limits(), "parts[1]").decoded("viewed")
    assert [process.returncode for process in started] == [1]


def test_the_process_ends_when_nobody_waits_for_it(started: Processes) -> None:
    stop = Stop()
    image = measure_image(webp(blank(7000, 7000), lossless=True), Limits(), stop=stop)
    threading.Timer(0.3, stop.cancel).start()
    with pytest.raises(DeadlineError):
        image.decoded("viewed")
    assert [process.returncode for process in started] == [-signal.SIGKILL]


def test_no_process_is_the_servers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(images, "SMALL_PIXELS", 0)
    monkeypatch.setattr(subprocess, "Popen", fail)
    with pytest.raises(ServeError, match="no more processes") as error:
        measure_image(webp(RGB), Limits()).decoded("viewed")
    assert error.value.code is Code.INTERNAL
