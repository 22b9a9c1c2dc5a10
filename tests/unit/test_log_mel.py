"""Log-mel values; tests/unit/test_preprocess_omni.py holds them to those of the authors' code."""

import numpy as np
import pytest

from tests.unit.recordings import Numbers, tones
from vlm2vec_service.preprocess.log_mel import BLOCK, log_mel


def mel(hertz: float) -> float:
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)


def by_formula(samples: Numbers, bands: int) -> Numbers:
    """Frame by frame and band by band, in double precision."""
    grid = np.linspace(0, 8000, 800_001)
    corners = np.interp(
        np.linspace(0, mel(8000), bands + 2), [mel(hertz) for hertz in grid[::100]], grid[::100]
    )
    padded = np.concatenate([samples, np.zeros(600)])
    padded = np.concatenate([padded[1:201][::-1], padded])
    n = np.arange(400)
    dft = np.exp(-2j * np.pi * np.outer(np.arange(201), n) / 400)
    values = []
    for start in range(0, len(samples), 160):
        power = abs(dft @ (padded[start : start + 400] * np.sin(np.pi * n / 400) ** 2)) ** 2
        values.append(
            [
                sum(
                    power[k]
                    * max(0, min((40 * k - low) / (top - low), (high - 40 * k) / (high - top)))
                    for k in range(int(low / 40), min(200, int(high / 40) + 1) + 1)
                )
                * 2
                / (high - low)
                for low, top, high in zip(corners, corners[1:], corners[2:], strict=False)
            ]
        )
    logs = np.log10(np.maximum(values, 1e-10))
    return (np.maximum(logs, logs.max() - 8) + 4) / 4


@pytest.mark.parametrize("count", [1, 160, 161, 199, 400, 1700])
@pytest.mark.parametrize("bands", [80, 128])
def test_values_are_those_of_the_formula(count: int, bands: int) -> None:
    samples = tones(count, 16_000)[:, 0] + np.random.default_rng(0).normal(0, 0.01, count)
    found = log_mel(samples.astype(np.float32), bands)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_formula(samples, bands), rtol=0, atol=1e-4)


def test_blocks_join_without_a_seam() -> None:
    # The tone has a whole number of turns in a hop, so every frame inside is the same.
    count = (2 * BLOCK + 10) * 160
    found = log_mel(np.sin(2 * np.pi * 400 * np.arange(count) / 16_000).astype(np.float32))
    assert len(found) == 2 * BLOCK + 10
    inside = found[3:-3]
    np.testing.assert_allclose(inside, np.broadcast_to(inside[0], inside.shape), atol=2e-3)


def test_silence_is_the_quietest_there_is() -> None:
    assert np.all(log_mel(np.zeros(1000, np.float32)) == np.float32(-1.5))


def test_loudness_is_not_levelled() -> None:
    samples = tones(8000, 16_000)[:, 0].astype(np.float32)
    twice = log_mel(2 * samples) - log_mel(samples)
    np.testing.assert_allclose(twice, np.log10(4) / 4, atol=1e-5)
