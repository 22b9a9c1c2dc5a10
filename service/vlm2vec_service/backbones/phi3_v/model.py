"""Phi-3.5-vision: the Phi-3 decoder and CLIP of ``transformers``, and what joins them.

``transformers`` has no Phi-3.5-vision; the hub's own code would be remote code. The HD assembly
follows microsoft/Phi-3.5-vision-instruct: sub-crops row by row, a separator, the global view.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel, Phi3Config, Phi3Model

from vlm2vec_service.backbones.phi3_v.preprocess import CROP
from vlm2vec_service.engine.attention import PACKED, Segments
from vlm2vec_service.engine.backbone import Backbone, inverse_frequencies
from vlm2vec_service.engine.tower import ALL, BlockNames, RunBlocks
from vlm2vec_service.engine.transfer import to_device
from vlm2vec_service.errors import CheckpointError
from vlm2vec_service.preprocess.prepared import Media

CLIP_VIT_L_14_336: dict[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": CROP, "patch_size": 14, "projection_dim": 768,
}  # fmt: skip
"""The sizes of openai/clip-vit-large-patch14-336, which ``config.json`` only names."""
VISION = "model.vision_embed_tokens."
CLIP = f"{VISION}img_processor.vision_model."


class Phi3V(Backbone):
    """The backbone of Phi-3.5-vision: the language model ``model``, with CLIP inside it."""

    name = "phi3_v"
    media_prefixes = (VISION,)

    def __init__(self, config: dict[str, Any], image_config: dict[str, Any]) -> None:
        super().__init__()
        layer = config["embd_layer"]
        if not (layer.get("use_hd_transform") and layer.get("hd_transform_order") == "sub_glb"):
            raise CheckpointError("embd_layer: only the HD transform in order sub_glb is known")
        text: Any = Phi3Config(**{key: config[key] for key in TEXT_KEYS if key in config})
        text._attn_implementation = PACKED
        self.model: Any = Phi3Model(text)
        # Long and short factors are chosen by sequence, here; theirs chooses by batch.
        del self.model.rotary_emb
        clip = {**CLIP_VIT_L_14_336, **config["img_processor"].get("vision_config", {})}
        self.model.vision_embed_tokens = ImageEmbedding(CLIPVisionConfig(**clip), text.hidden_size)
        self.inert = {"lm_head": (text.vocab_size, text.hidden_size)} | {
            f"{CLIP}encoder.layers.{clip['num_hidden_layers'] - 1}.{name}": shape
            for name, shape in self.model.vision_embed_tokens.unused.items()
        }
        names = BlockNames(
            blocks=f"{CLIP}encoder.layers", heads=clip["num_attention_heads"],
            attention_norm="layer_norm1", output="self_attn.out_proj",
            qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            mlp_norm="layer_norm2", up=("mlp.fc1",), activation="mlp.activation_fn", down="mlp.fc2",
        )  # fmt: skip
        self.towers = (names,)
        self.head_dim: int = text.hidden_size // text.num_attention_heads
        self.theta: float = config.get("rope_theta", 10_000.0)
        self.factors: Tensor | None = None
        if scaling := config.get("rope_scaling"):
            factors = [scaling["short_factor"], scaling["long_factor"]]
            self.factors = torch.tensor(factors, device="cpu")
        self.plain_length = config.get("original_max_position_embeddings", 4096)
        self.max_length: int = config["max_position_embeddings"]
        self.mean = torch.tensor(image_config["image_mean"], device="cpu")
        self.std = torch.tensor(image_config["image_std"], device="cpu")

    def rename(self, name: str) -> str | None:
        """Keeps every name, for they have never changed, and leaves out what reaches no vector:
        CLIP's last layer and output norm and a second copy of the token embeddings."""
        left_out = (f"{CLIP}post_layernorm.", f"{CLIP}embeddings.position_ids", f"{VISION}wte.")
        if name == "lm_head.weight" or name.startswith(left_out):
            return None
        if name.endswith((".weight", ".bias")) and name.startswith(f"{CLIP}encoder.layers."):
            last = len(self.model.vision_embed_tokens.clip.encoder.layers)
            return None if name.startswith(f"{CLIP}encoder.layers.{last}.") else name
        return name

    def known_as(self, name: str) -> Sequence[str]:
        """Lists ``name`` alone: the names of this family have never changed."""
        return (name,)

    def patches(self, media: Media) -> int:
        """Counts 577 patches for each crop and for the global view."""
        return self._crops(media) * 577

    def encode(self, media: Sequence[Media], runs: Sequence[RunBlocks] = ()) -> list[Tensor]:
        """Runs CLIP over all crops of all images at once, and joins each image's crops."""
        embedding = self.model.vision_embed_tokens
        crops = torch.cat([self.crops(item) for item in media])
        states = embedding.clip_states(crops, runs[0] if runs else embedding.run_blocks)
        assembled = [
            embedding.assemble(part, item.values.shape[1] // CROP, item.values.shape[2] // CROP)
            for item, part in zip(
                media, states.split([self._crops(item) for item in media]), strict=True
            )
        ]
        features: Tensor = embedding.img_projection(torch.cat(assembled))
        return list(features.split([item.tokens for item in media]))

    def crops(self, media: Media) -> Tensor:
        """Rescales and normalises the pixels of ``media`` and cuts them into crops.

        Returns float32 ``(1 + crops, 3, 336, 336)``, the global view first: the whole picture,
        resized after normalising and without antialiasing.
        """
        device = self.model.embed_tokens.weight.device
        pixels = to_device(media.values.copy(), device).float()
        pixels = (pixels / 255 - self.mean.to(device)) / self.std.to(device)
        pixels = pixels.permute(0, 3, 1, 2)
        whole = F.interpolate(pixels, size=(CROP, CROP), mode="bicubic")
        _, channels, height, width = pixels.shape
        tiles = pixels.reshape(channels, height // CROP, CROP, width // CROP, CROP)
        return torch.cat((whole, tiles.permute(1, 3, 0, 2, 4).flatten(0, 1)))

    def rotary(self, positions: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Applies Phi-3's ``su`` scaling (longrope, arXiv:2402.13753): a sequence longer than the
        original context takes the long factors, any other the short ones."""
        device = positions.device
        frequencies = inverse_frequencies(self.theta, self.head_dim, device)
        if self.factors is None:
            angles, scale = positions[0, :, None] * frequencies, 1.0
        else:
            if self.factors.device != device:
                self.factors = self.factors.to(device)
            scaled = frequencies / self.factors
            angles = positions[0, :, None] * scaled[0]
            if max(lengths) > self.plain_length:
                is_long = np.array([n > self.plain_length for n in lengths])
                rows = to_device(is_long.repeat(lengths), device)
                angles = torch.where(rows[:, None], positions[0, :, None] * scaled[1], angles)
            extension = self.max_length / self.plain_length
            scale = math.sqrt(1 + math.log(extension) / math.log(self.plain_length))
        angles = torch.cat((angles, angles), dim=1)
        return angles.cos() * scale, angles.sin() * scale

    def _crops(self, media: Media) -> int:
        _, height, width, _ = media.values.shape
        return (height // CROP) * (width // CROP) + 1


TEXT_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "hidden_act", "rms_norm_eps", "pad_token_id", "bos_token_id",
    "eos_token_id", "attention_dropout", "embd_pdrop", "resid_pdrop",
)  # fmt: skip
"""The keys of ``config.json`` that the Phi-3 decoder is built from. Those of the rotary embedding
are not among them: `Phi3V.rotary` takes its place."""


class ImageEmbedding(nn.Module):
    """Images to features: CLIP, the separators and the projector, by the checkpoint's names.

    The model reads CLIP's last but one hidden state, so its last layer and output norm are not
    kept; ``unused`` holds the shapes of that layer's linears.
    """

    def __init__(self, config: CLIPVisionConfig, hidden_size: int) -> None:
        super().__init__()
        config._attn_implementation = PACKED
        self.img_processor = nn.Module()
        self.img_processor.vision_model = CLIPVisionModel(config)
        layers = self.clip.encoder.layers
        self.unused = {
            name: (module.out_features, module.in_features)
            for name, module in layers[-1].named_modules()
            if isinstance(module, nn.Linear)
        }
        self.clip.encoder.layers = layers[:-1]
        self.clip.post_layernorm = nn.Identity()
        merged = 4 * config.hidden_size
        self.glb_GN = nn.Parameter(torch.empty(1, 1, merged))
        self.sub_GN = nn.Parameter(torch.empty(1, 1, 1, merged))
        self.img_projection = nn.Sequential(
            nn.Linear(merged, hidden_size), nn.GELU(), nn.Linear(hidden_size, hidden_size)
        )

    @property
    def clip(self) -> Any:
        """Gives CLIP, whose place in the modules only its name in the checkpoint explains."""
        return self.img_processor.vision_model

    def clip_states(self, crops: Tensor, run_blocks: RunBlocks) -> Tensor:
        """Runs CLIP on crops ``(crops, 3, 336, 336)``, its blocks by ``run_blocks``, and returns
        the states of their patches, ``(crops, 24, 24, width)``."""
        # The buffer of the position ids, which are just counted, is on the meta device.
        embeddings = self.clip.embeddings
        # The convolution's stride is its kernel: it is a matrix product, and faster as one. In
        # float32 it is also more exact than cuDNN's.
        weight = embeddings.patch_embedding.weight
        side = weight.shape[-1]
        tiles = crops.unflatten(3, (-1, side)).unflatten(2, (-1, side))
        tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        patches = F.linear(tiles.to(weight.dtype), weight.flatten(1))
        first = embeddings.class_embedding.expand(len(patches), 1, -1)
        states = torch.cat((first, patches), dim=1) + embeddings.position_embedding.weight
        states = self.clip.pre_layrnorm(states)
        count, length, _ = states.shape
        segments = Segments([length] * count, causal=False, device=states.device)
        states = run_blocks(states.flatten(0, 1), segments, None).unflatten(0, (count, length))
        side = math.isqrt(length - 1)
        return states[:, 1:].unflatten(1, (side, side))

    def run_blocks(
        self,
        hidden: Tensor,
        segments: Segments,
        rotary: tuple[Tensor, Tensor] | None,
        blocks: slice = ALL,
    ) -> Tensor:
        """Runs CLIP's own modules over packed states ``(patches, width)``."""
        for layer in self.clip.encoder.layers[blocks]:
            hidden = layer(hidden[None], attention_mask=None, segments=segments)[0]
        return hidden

    def assemble(self, states: Tensor, rows: int, columns: int) -> Tensor:
        """Lays out the tokens of one image, ``(tokens, 4 * width)``, from the ``states`` of its
        global view and its ``rows`` x ``columns`` crops.

        The crops come first, joined to one picture, then a separator and the global view; each
        row of tokens ends with a separator of its own.
        """
        whole = self._grid(states[:1], 1, 1)
        parts = self._grid(states[1:], rows, columns)
        return torch.cat((parts, self.glb_GN[0], whole))

    def _grid(self, states: Tensor, rows: int, columns: int) -> Tensor:
        """Joins crops to one picture, merges each 2x2 patches into a token and ends each row of
        tokens with ``sub_GN``."""
        _, side, _, width = states.shape
        half = side // 2
        tiles = states.view(rows, columns, half, 2, half, 2, width)
        merged = tiles.permute(0, 2, 1, 4, 3, 5, 6).reshape(rows * half, columns * half, -1)
        newline = self.sub_GN[0].expand(rows * half, 1, -1)
        return torch.cat((merged, newline), dim=1).flatten(0, 1)
