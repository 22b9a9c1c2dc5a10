"""Audio of any rate to 16,000 samples a second."""

from collections.abc import Iterator

import numpy as np
import pytest

from tests.unit import recordings
from vlm2vec_service.preprocess.resample import resample, resampled

USUAL = (1_000, 8_000, 11_025, 12_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000)
ODD = (1_001, 15_999, 16_001, 22_255, 44_101, 100_003, 767_999)
"""Rates of long periods, up to 16,000 outputs."""


def noise(count: int, seed: int = 0) -> recordings.Floats:
    return np.random.default_rng(seed).standard_normal(count, np.float32)


@pytest.mark.parametrize("rate", USUAL)
def test_every_sample_is_that_of_the_formula(rate: int) -> None:
    samples = noise(rate // 50 + 17)
    expected = recordings.resampled(samples, rate)
    np.testing.assert_allclose(resample(samples, rate), expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("rate", ODD)
def test_rates_of_long_periods_are_of_the_same_formula(rate: int) -> None:
    samples = noise(rate // 100 + 1)
    found = resample(samples, rate)
    some = slice(None, None, 7)
    np.testing.assert_allclose(
        found[some], recordings.resampled(samples, rate, some), rtol=0, atol=3e-6
    )


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 44_101, 48_000])
def test_seconds_join_without_a_seam(rate: int) -> None:
    samples = noise(2 * rate + 1234)
    found = resample(samples, rate)
    for second in (1, 2):
        seam = slice(second * 16_000 - 40, second * 16_000 + 40)
        np.testing.assert_allclose(
            found[seam], recordings.resampled(samples, rate, seam), rtol=0, atol=3e-6
        )


@pytest.mark.parametrize("rate", [1_000, 8_000, 22_050, 44_100, 48_000, 768_000])
@pytest.mark.parametrize("count", [0, 1, 2, 399, 1000, 1023])
def test_length_is_rounded_up(rate: int, count: int) -> None:
    assert len(resample(noise(count), rate)) == -(-count * 16_000 // rate)


@pytest.mark.parametrize("rate", [8_000, 44_100, 44_101])
def test_pieces_of_any_length_give_the_same_bits(rate: int) -> None:
    samples = noise(rate + rate // 2)
    whole = resample(samples, rate)
    for size in (rate // 7, rate - 1, rate + 3):
        pieces = [samples[start : start + size] for start in range(0, len(samples), size)]
        assert np.array_equal(np.concatenate(list(resampled(pieces, rate))), whole)


def test_what_follows_changes_no_bit_before_it() -> None:
    samples = noise(3 * 44_100)
    head = next(resampled([samples[: 2 * 44_100]], 44_100))
    assert np.array_equal(head, next(resampled([samples], 44_100)))
    assert np.array_equal(head, resample(samples, 44_100)[:16_000])


def test_no_more_is_read_than_the_next_second_needs() -> None:
    read = 0

    def pieces() -> Iterator[recordings.Floats]:
        nonlocal read
        while True:
            read += 1
            yield noise(4_410)

    next(resampled(pieces(), 44_100))
    assert read == 11


def test_right_rate_changes_nothing() -> None:
    samples = noise(999)
    assert np.array_equal(resample(samples, 16_000), samples)


def test_tone_stays_a_tone() -> None:
    times = np.arange(44_100) / 44_100
    found = resample(np.sin(2 * np.pi * 1000 * times).astype(np.float32), 44_100)
    expected = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(found[100:-100], expected[100:-100], atol=2e-3)
