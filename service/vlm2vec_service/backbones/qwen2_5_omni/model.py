"""The thinker of Qwen2.5-Omni, made of the modules of ``transformers``."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniThinkerConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
    Qwen2_5OmniAudioEncoder,
    Qwen2_5OmniThinkerTextModel,
    Qwen2_5OmniVisionEncoder,
)

from vlm2vec_service.backbones.qwen_vl.windows import WindowedQwenVL
from vlm2vec_service.engine.attention import PACKED, Segments
from vlm2vec_service.engine.tower import ALL, BlockNames, RunBlocks
from vlm2vec_service.engine.transfer import to_device
from vlm2vec_service.preprocess.prepared import Media

UNUSED = ("talker.", "token2wav.", "audio_tower.audio_bos_eos_token.")
"""The starts of the names of tensors that reach no vector, without ``thinker.``."""


class Qwen2_5Omni(WindowedQwenVL):
    """The backbone of Qwen2.5-Omni, which has an audio tower beside its vision tower.

    ``config.json`` is that of the whole model, or of its thinker alone.
    """

    name = "qwen2_5_omni"
    media_prefixes = ("visual.", "audio_tower.")
    parts = ("model.", "visual.", "audio_tower.")
    trees = (
        ("model.", "visual.", "audio_tower."),
        ("model.language_model.", "model.visual.", "model.audio_tower."),
        ("language_model.", "visual.", "audio_tower."),
        ("thinker.model.", "thinker.visual.", "thinker.audio_tower."),
        (
            "thinker.model.language_model.",
            "thinker.model.visual.",
            "thinker.model.audio_tower.",
        ),
        ("", None, None),
    )

    def __init__(self, config: dict[str, Any], image_config: dict[str, Any]) -> None:
        thinker: Any = Qwen2_5OmniThinkerConfig(**config.get("thinker_config", config))
        super().__init__(
            thinker, Qwen2_5OmniThinkerTextModel, Qwen2_5OmniVisionEncoder, image_config
        )
        self.audio: Any = thinker.audio_config
        self.audio._attn_implementation = PACKED
        self.audio_tower: Any = Qwen2_5OmniAudioEncoder(self.audio)
        # The places are ours: their buffer would stay on the meta device.
        del self.audio_tower.positional_embedding, self.audio_tower.audio_bos_eos_token
        hearing = BlockNames(
            blocks="audio_tower.layers", heads=self.audio.encoder_attention_heads,
            attention_norm="self_attn_layer_norm", output="self_attn.out_proj",
            qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            mlp_norm="final_layer_norm", up=("fc1",), activation="activation_fn", down="fc2",
        )  # fmt: skip
        self.towers = (self.blocks_named("attn.q", "attn.k", "attn.v"), hearing)

    def rename(self, name: str) -> str | None:
        """Maps the names of each of `trees` to those here, and leaves out all but the thinker."""
        if name.removeprefix("thinker.").startswith(UNUSED):
            return None
        return super().rename(name.removeprefix("thinker."))

    def patches(self, media: Media) -> int:
        """Counts the patches of an image or video, and the pairs of frames of an audio."""
        if media.kind == "audio":
            return _pairs(len(media.values))
        return super().patches(media)

    def encode(self, media: Sequence[Media], runs: Sequence[RunBlocks] = ()) -> list[Tensor]:
        """Runs all images and frames as one packed sequence, and all audios as another."""
        pictures = [item for item in media if item.kind != "audio"]
        audios = [item for item in media if item.kind == "audio"]
        seen = iter(super().encode(pictures, runs) if pictures else ())
        heard = iter(self.hear(audios, runs[1] if runs else self._run_layers) if audios else ())
        return [next(heard if item.kind == "audio" else seen) for item in media]

    def hear(self, audios: Sequence[Media], run: RunBlocks) -> list[Tensor]:
        """Computes the features ``(tokens, hidden)`` of each audio; ``run`` runs the blocks.

        The tower cuts an audio into chunks, and hears nothing beyond one; each pair of what it
        gives is a token, also across two chunks.
        """
        cut = [self._chunks(len(item.values)) for item in audios]
        lengths = list(itertools.chain.from_iterable(cut))
        hidden = self._entering_chunks([item.values for item in audios], lengths)
        segments = Segments(list(map(_pairs, lengths)), causal=False, device=hidden.device)
        hidden = run(hidden, segments, None)
        parts = hidden.split([sum(map(_pairs, chunks)) for chunks in cut])
        tokens = [part[: len(part) // 2 * 2].unflatten(0, (-1, 2)).mean(1) for part in parts]
        features: Tensor = self.audio_tower.proj(self.audio_tower.ln_post(torch.cat(tokens)))
        return list(features.split([item.tokens for item in audios]))

    def _chunks(self, frames: int) -> list[int]:
        """Cuts ``frames`` into chunks, of which the last may be shorter."""
        size = 2 * self.audio.n_window
        return [min(size, frames - start) for start in range(0, frames, size)]

    def _entering_chunks(
        self, values: Sequence[npt.NDArray[np.float32]], lengths: Sequence[int]
    ) -> Tensor:
        """Convolves each chunk by itself, and adds the places in it.

        ``values`` are the log-mels, ``(frames, bands)`` each, and ``lengths`` those of all their
        chunks. Returns what enters the blocks, ``(pairs of frames, width)``.
        """
        tower, size = self.audio_tower, 2 * self.audio.n_window
        device, dtype = tower.conv1.weight.device, tower.conv1.weight.dtype
        padded = [np.pad(one, ((0, -len(one) % size), (0, 0))) for one in values]
        chunks = np.concatenate(padded).reshape(len(lengths), size, -1)
        inside = np.arange(size) < np.array(lengths)[:, None]
        hidden = F.gelu(_convolve(tower.conv1, to_device(chunks, device).to(dtype)))
        # Behind its end a chunk is zeros, also for the second convolution.
        hidden = hidden * to_device(inside[..., None], device)
        hidden = F.gelu(_convolve(tower.conv2, hidden)).flatten(0, 1)
        rows = np.flatnonzero(inside[:, ::2])
        places = _sinusoids(size // 2, hidden.shape[1], device).to(hidden.dtype)
        return hidden[to_device(rows, device)] + places[to_device(rows % len(places), device)]

    def _run_layers(
        self,
        hidden: Tensor,
        segments: Segments,
        rotary: tuple[Tensor, Tensor] | None,
        blocks: slice = ALL,
    ) -> Tensor:
        # One chunk for the modules' own splitting: the attention knows the segments.
        whole = torch.tensor([0, len(hidden)], device="cpu")
        for layer in self.audio_tower.layers[blocks]:
            (hidden,) = layer(hidden, cu_seqlens=whole, segments=segments)
        return hidden


def _pairs(frames: int) -> int:
    """Counts the pairs of ``frames``, of which the last may lack one: what a stride of 2 leaves."""
    return -(-frames // 2)


def _convolve(convolution: Any, states: Tensor) -> Tensor:
    """Convolves ``(chunks, length, width)`` with zeros at both ends: ``(chunks, steps, out)``."""
    # As a matrix product: cuDNN would round float32 to TF32.
    (kernel,), (stride,), (edge,) = (
        convolution.kernel_size, convolution.stride, convolution.padding,
    )  # fmt: skip
    windows = F.pad(states, (0, 0, edge, edge)).unfold(1, kernel, stride).flatten(2)
    return F.linear(windows, convolution.weight.flatten(1), convolution.bias)


def _sinusoids(length: int, width: int, device: torch.device) -> Tensor:
    """Computes the sines and cosines of places, float32 ``(length, width)`` (arXiv:1706.03762)."""
    half = width // 2
    step = math.log(10_000) / (half - 1)
    rates = torch.exp(-step * torch.arange(half, dtype=torch.float32, device=device))
    angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), dim=1)
