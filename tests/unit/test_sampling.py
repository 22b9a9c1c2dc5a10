"""Which frames of a film are taken, by count and by rate, and how they reach a model."""

from pathlib import Path

import av
import numpy as np
import pytest

from tests.parity.make_backbones import write_all
from vlm2vec_registry import preset
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess import Request
from vlm2vec_service.preprocess.pictures import Frames, Pictures
from vlm2vec_service.preprocess.sampling import FrameCount, FrameRate
from vlm2vec_service.preprocess.video import sample_video
from vlm2vec_service.settings import Limits

QWEN3 = FrameRate(1.0, 4, 64)
FPS = 8


def film(path: Path, frames: int) -> bytes:
    """Writes and reads an MP4 of gray frames, eight a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(frames):
            gray = np.full((48, 64, 3), 12 * index % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(gray, format="rgb24")))
        container.mux(stream.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("frames", "fps", "wanted"),
    [
        (240, 24.0, (0, 27, 53, 80, 106, 133, 159, 186, 212, 239)),
        (25, 25.0, (0, 8, 16, 24)),
        (200, 29.97, (0, 40, 80, 119, 159, 199)),
        (3, 25.0, (0, 2)),
        (2, 25.0, (0, 1)),
        (1, 25.0, ()),
    ],
)
def test_a_rate_takes_an_even_number(frames: int, fps: float, wanted: tuple[int, ...]) -> None:
    assert QWEN3.indices(frames, fps) == wanted


def test_a_rate_has_a_least_and_a_most() -> None:
    assert len(QWEN3.indices(100_000, 25.0)) == 64
    assert len(FrameRate(2.0, 3, 7).indices(1000, 25.0)) == 6
    assert len(FrameRate(2.0, 3, 7).indices(30, 25.0)) == 4


def test_a_count_takes_what_there_is() -> None:
    assert FrameCount(4).indices(10, 1.0) == (0, 3, 6, 9)
    assert FrameCount(4).indices(3, 1.0) == (0, 1, 2)


def test_frames_of_a_file_know_their_time(tmp_path: Path) -> None:
    sampled = sample_video(film(tmp_path / "film.mp4", 40), QWEN3, Limits())
    assert (sampled.total, sampled.fps, sampled.wanted) == (40, FPS, (0, 13, 26, 39))
    pictures = Pictures.of(sampled, "raw")
    assert pictures.seconds == (0.0, 1.625, 3.25, 4.875)
    assert pictures.fps == pytest.approx(0.8)


def test_a_file_with_more_frames_than_may_be_kept_is_refused(tmp_path: Path) -> None:
    data = film(tmp_path / "film.mp4", 40)
    with pytest.raises(InvalidInputError, match="clip: the model takes 4 frames of it, more than"):
        sample_video(data, QWEN3, Limits(max_video_frames=3), "clip")
    with pytest.raises(InvalidInputError, match="clip: 1 frames are too few"):
        sample_video(film(tmp_path / "one.mp4", 1), QWEN3, Limits(), "clip")


def test_a_version_says_which_frames_of_a_file_its_model_sees(tmp_path: Path) -> None:
    write_all(tmp_path)
    embedding = preset.read("qwen3-vl-embedding").embedding
    preprocessor = load_preprocessor(tmp_path / "qwen3_vl")
    assert preprocessor.sampling(embedding, 8) == QWEN3
    slower = EmbeddingConfig.from_dict({"video": {"fps": 0.5, "max_frames": 6}})
    assert preprocessor.sampling(slower, 8) == FrameRate(0.5, 4, 6)
    old = load_preprocessor(tmp_path / "qwen2_5_vl")
    assert old.sampling(EmbeddingConfig(), 8) == FrameCount(8)
    assert old.sampling(slower, 8) == FrameRate(0.5, 1, 6)

    sampled = sample_video(film(tmp_path / "film.mp4", 40), QWEN3, Limits())
    prepared = preprocessor.prepare(Request(videos=(sampled,)), embedding)
    stamps = "<0.8 seconds>", "<4.1 seconds>"  # the middle of 0 and 1.625 s, of 3.25 and 4.875 s
    ids = [preprocessor.tokenizer.encode_raw(stamp) for stamp in stamps]  # type: ignore[attr-defined]
    found = prepared.token_ids.tolist()
    for stamp, media in zip(ids, prepared.media, strict=True):
        assert found[media.start - 1 - len(stamp) : media.start - 1] == stamp
        assert media.values.shape[0] == 2
    # A list of the same frames is shown at the rate that is assumed, or that its caller says.
    frames = tuple(Pictures.of(sampled, "raw"))
    for fps, first in ((None, "<0.2 seconds>"), (0.5, "<1.0 seconds>")):
        listed = preprocessor.prepare(Request(videos=(Frames(frames, fps),)), embedding)
        stamp = preprocessor.tokenizer.encode_raw(first)  # type: ignore[attr-defined]
        start = listed.media[0].start - 1
        assert listed.token_ids[start - len(stamp) : start].tolist() == stamp
