"""Sounds made from formulas, and a search for the one that a poor recording is of.

Needs `pip install ./clients/python` and a server whose model takes audio. In a checkout there is a
tiny one, which has learnt nothing and still hears what sounds alike:

    .venv/bin/python -m tests.parity.make_backbones models qwen2_5_omni_thinker
    .venv/bin/vlm2vec serve --preset omni=vlm2vec-v3 --model omni=models/qwen2_5_omni_thinker
"""

import os

import numpy as np

import vlm2vec

SECONDS = 2
noise = np.random.default_rng(0)


def sine(hertz, times):
    return np.sin(2 * np.pi * hertz * times)


def bell(times):
    partials = [440, 880, 1056, 1320, 1760]
    return sum(sine(hertz, times) for hertz in partials) / 5 * np.exp(-2 * times)


def siren(times):
    return 0.5 * np.sin(2 * np.pi * (900 * times - 40 * np.cos(2 * np.pi * times)))


def clock(times):
    return sine(2000, times) * np.exp(-60 * (times % 0.5))


def hum(times):
    return 0.5 * sine(50, times) + 0.3 * sine(100, times) + 0.2 * sine(150, times)


def rain(times):
    return noise.uniform(-0.3, 0.3, len(times))


SOUNDS = {"a bell": bell, "a siren": siren, "a clock": clock, "a hum": hum, "rain": rain}


def recorded(sound, rate, loudness=1.0, hiss=0.0):
    times = np.arange(SECONDS * rate) / rate
    samples = loudness * sound(times) + hiss * noise.standard_normal(len(times))
    return vlm2vec.Samples(samples.astype(np.float32), rate)


candidates = [vlm2vec.Input(audios=[recorded(sound, 16_000)]) for sound in SOUNDS.values()]
with vlm2vec.Client(os.environ.get("VLM2VEC_SERVER", "localhost:50051")) as client:
    for name, sound in SOUNDS.items():
        poor = vlm2vec.Input(audios=[recorded(sound, 44_100, loudness=0.5, hiss=0.002)])
        best, *_ = client.rank(poor, candidates, model="omni", top_k=1).candidates
        print(f"{best.score:.4f}  {name} sounds like {list(SOUNDS)[best.index]}")
