"""Files that are no audio any more, and audio that is none."""

import numpy as np

from tests.soak.bad_pictures import broken
from tests.unit.recordings import tones, wav
from vlm2vec.v1 import embedding_pb2 as pb

TONES = tones(4000, 16_000)
_FILES = {
    **{f"WAV, {how}": data for how, data in broken(wav(TONES, 16_000)).items()},
    "WAV without a sample": wav(TONES[:0], 16_000),
    "WAV of rate 0": wav(TONES, 0),
    "WAV of NaN": wav(np.full_like(TONES, np.nan), 16_000, "f32"),
}

AUDIO = {name: pb.Part(audio=pb.Audio(file=data)) for name, data in _FILES.items()}
"""Parts that give no vector, by what is wrong with them."""
