"""What results and inputs look like at a prompt and in a notebook."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vlm2vec
from tests.client.server import Service

PIXELS = np.zeros((300, 600, 3), np.uint8)


def thumbnails(page: str) -> list[Image.Image]:
    """The pictures of a page."""
    found = re.findall(r'<img src="data:image/png;base64,([\w+/=]+)">', page)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_a_ranking_shows_the_pictures_that_are_at_hand(client: Any, tmp_path: Path) -> None:
    path = tmp_path / "a <b>.png"
    Image.fromarray(PIXELS).save(path)
    Image.new("RGB", (1, 1)).save(tmp_path / "gone.png")
    candidates = [
        "<script>alert(1)</script>",
        path,
        Image.new("RGBA", (40, 20)),
        PIXELS,
        vlm2vec.Input(text="two", images=[path.read_bytes(), str(path)]),
        {"id": 5, "image": str(path)},
        tmp_path / "gone.png",
        vlm2vec.Input(images=["data:image/png;base64,AAAA"], text="a URI"),
        vlm2vec.Input(video=b"no picture"),
        vlm2vec.Input(video=vlm2vec.Frames([path, path], fps=2)),
        vlm2vec.Input(audios=[vlm2vec.Samples(np.zeros(9), 8000), path.read_bytes()]),
        vlm2vec.Input(parts=["see", path, {"image": str(path)}, {"audio": path.read_bytes()}]),
    ]
    ranking = client.rank("query", candidates)
    (tmp_path / "gone.png").unlink()
    page = ranking._repr_html_()
    assert [max(image.size) for image in thumbnails(page)].count(128) == 9
    assert len(thumbnails(page)) == 10
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "a &lt;b&gt;.png" in page
    assert page.count("<tr>") == 1 + len(candidates)
    assert "made-up, version 1, space space-1" in page
    for found in ranking.candidates:
        assert found.candidate is candidates[found.index]


def test_a_long_ranking_is_cut(client: Any) -> None:
    page = client.rank("query", [f"text {index}" for index in range(50)])._repr_html_()
    assert page.count("<tr>") == 21
    assert "and 30 more; " in page


def test_reprs_are_short(client: Any) -> None:
    embedding = client.embed("a", details=True)
    assert repr(embedding) == (
        "Embedding(vector=<float32 (12,)>, model='made-up', version='1', space='space-1', tokens=7)"
    )
    given = vlm2vec.Input(text="x" * 500, images=[bytes(70_000), Path("a.png"), PIXELS])
    assert repr(given) == (
        f"<Input text: {'x' * 77}..., images[0]: 70,000 bytes, images[1]: a.png, "
        "images[2]: uint8 (300, 600, 3)>"
    )
    media = vlm2vec.Input(
        video=vlm2vec.Frames([PIXELS], fps=2), audios=["a.wav", vlm2vec.Samples(np.zeros(9), 8000)]
    )
    assert repr(media) == (
        "<Input video.images[0]: uint8 (300, 600, 3), video.fps: 2, audios[0]: a.wav, "
        "audios[1].array: float64 (9,), audios[1].rate: 8000>"
    )
    mixed = vlm2vec.Input(parts=["see", Path("a.png"), {"audio": "b.wav"}])
    assert repr(mixed) == "<Input parts[0]: see, parts[1]: a.png, parts[2].audio: b.wav>"
    ranking = client.rank("q", ["x" * 500] * 30)
    assert len(repr(ranking)) < 400
    assert repr(ranking).startswith("Ranking(30 candidates, best=Ranked(index=0, score=")


def test_similarity(client: Any, service: Service) -> None:
    queries, candidates = ["a", "b"], [f"text {index}" for index in range(70)]
    scores = client.similarity(queries, candidates, instruction="q", normalize=False)
    expected = client.embed(queries, instruction="q") @ client.embed(candidates).T
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(
        client.similarity("a", candidates, instruction="q"), scores[0], atol=1e-6
    )
    assert client.similarity("a", "b").shape == ()
    assert client.similarity([], candidates).shape == (0, 70)


def test_similarity_does_not_mix_spaces(client: Any, service: Service) -> None:
    service.behaviour.switch_after, service.behaviour.ignores_space = 2, True
    with pytest.raises(vlm2vec.SpaceChanged, match="do not compare"):
        client.similarity(["a", "b"], ["c"])


def test_bars(client: Any, capsys: Any) -> None:
    client.embed([str(index) for index in range(70)], progress=True)
    assert "70/70" in capsys.readouterr().err
    client.embed([str(index) for index in range(300)], progress=True)
    assert "300/300" in capsys.readouterr().err
    client.rank("q", [str(index) for index in range(70)], progress=True)
    assert "70/70" in capsys.readouterr().err
