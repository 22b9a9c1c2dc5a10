"""Trains the model that ships: vision first, then the base, then one adapter for each version.

Every stage writes a folder, and then a file of its time; where the file is there the stage is
skipped, so that a run that was stopped starts again with the stage it was in.
"""

import json
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from vlm2vec_demo.digits import checkpoint, losses
from vlm2vec_demo.digits.preprocessor import ScenePreprocessor
from vlm2vec_demo.digits.world import Box, DigitWorld, Images, Scene, crop, draw_scene, variants
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.files import write_whole
from vlm2vec_service.engine.backbone import Backbone
from vlm2vec_service.engine.checkpoint import load_weights
from vlm2vec_service.engine.engine import build_backbone
from vlm2vec_service.preprocess import Media
from vlm2vec_training import processes
from vlm2vec_training.adapter import save_adapter
from vlm2vec_training.embedder import Embedder
from vlm2vec_training.merged import merge_products

NAME = "vlm2vec-digits"
TARGETS = r"model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass(frozen=True)
class Recipe:
    """The steps of each stage, the size of their batches, and the seed of all that is random."""

    vision: int = 1200
    base: int = 800
    v1: int = 80
    v2: int = 2600
    pool: int = 60
    """How many groups of scenes the adapters are trained on."""
    scenes: int = 64
    """How many scenes of several digits are in a batch, a multiple of four; those of one digit,
    half to three quarters of as many, come on top."""
    seed: int = 1


def train_vision(folder: Path, recipe: Recipe) -> None:
    """Trains vision alone on the digit and colour at each token, through heads dropped later.

    The optimizer is Muon (arXiv:2502.16982) for matrices, and AdamW for the rest.
    """
    start(folder, recipe.seed)
    backbone = checkpoint.random_backbone(folder, recipe.seed)
    embedder, heads, world = Embedder(backbone, torch.bfloat16), make_heads(), DigitWorld()
    rng, shapes = random.Random(recipe.seed), shapes_of(recipe.seed)
    visual: Any = backbone.visual
    tower = dict(visual.named_parameters())
    optimizers = [
        muon([p for p in tower.values() if p.ndim == 2], 2e-2),
        adam([*(p for p in tower.values() if p.ndim != 2), *heads.parameters()], 2e-3),
    ]
    for step in steps("vision", recipe.vision):
        set_rates(optimizers, min(1, (step + 1) / 20) * (1 - 0.85 * step / recipe.vision))
        scenes = [draw_scene(rng, rng.choice((1, 2, 2, 3))) for _ in range(recipe.scenes)]
        drawn = world.draw(own(scenes), shapes)
        loss = losses.cells(heads, embedder.encode(media_of(drawn.images)), drawn)
        update(optimizers, loss)
        report(step, {"cells": loss})
    if processes.rank():
        return
    save_file(backbone.state_dict(), folder / "model.safetensors")
    save_file(heads.state_dict(), folder / "heads.safetensors")


def train_base(folder: Path, vision: Path, recipe: Recipe) -> None:
    """Trains all parameters on classification and retrieval, and keeps their moving average."""
    start(folder, recipe.seed + 1)
    backbone = load_backbone(vision)
    heads = make_heads()
    heads.load_state_dict(load_file(vision / "heads.safetensors"))
    embedder, preprocessor, world = (
        Embedder(backbone, torch.bfloat16),
        ScenePreprocessor(folder),
        DigitWorld(),
    )
    rng, shapes = random.Random(recipe.seed + 1), shapes_of(recipe.seed + 1)
    named = [(name, p.requires_grad_()) for name, p in backbone.named_parameters()]
    matrices = [p for name, p in named if p.ndim == 2 and "embed_tokens" not in name]
    rest = [p for name, p in named if p.ndim != 2 or "embed_tokens" in name]
    optimizers = [muon(matrices, 5e-3), adam([*rest, *heads.parameters()], 2e-3)]
    average = {name: p.detach().clone() for name, p in named}
    for step in steps("base", recipe.base):
        done = step / recipe.base
        set_rates(optimizers, cosine(step, recipe.base, warm_up=30, floor=0.03))
        scenes = [draw_scene(rng, 1) for _ in range(recipe.scenes * 3 // 4)]
        scenes += scene_group(rng, recipe.scenes, hard=0.0 if done < 0.2 else 0.7)
        drawn = world.draw(own(scenes), shapes)
        features = embedder.encode(media_of(drawn.images))
        shown = losses.SceneBatch(scenes, drawn.images, features)
        parts = losses.describe(embedder, preprocessor, shown, rng)
        parts["cells"] = losses.cells(heads, features, drawn)
        weights = {"digit": 0.5, "coloured": 0.5, "captioned": 0.3, "cells": 0.3 * (1 - 0.6 * done)}
        update(optimizers, weighted(parts, weights), clip=5.0)
        keep = min(0.99, (2 + step) / (11 + step))
        with torch.no_grad():
            for name, parameter in named:
                average[name].lerp_(parameter, 1 - keep)
        report(step, parts)
        if step % 50 == 49 and not processes.rank():
            save_file(average, folder / "partial.safetensors")
    if processes.rank():
        return
    backbone.load_state_dict(average)
    checkpoint.save_weights(backbone, folder)
    (folder / "partial.safetensors").unlink(missing_ok=True)


def train_adapter(
    folder: Path, base: Path, recipe: Recipe, dora: bool, rank: int, count: int, tasks: int
) -> None:
    """Trains an adapter on the language model of the frozen base, for ``count`` steps.

    ``tasks`` 2 is classification and retrieval; 4 is those in one step of six, questions in three,
    and grounding in two.
    """
    start(None, recipe.seed + 2)
    backbone, preprocessor = load_backbone(base), ScenePreprocessor(base)
    pool = make_pool(Embedder(backbone, torch.bfloat16), recipe, crops=tasks == 4)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, use_dora=dora, target_modules=TARGETS)
    model = get_peft_model(backbone, config)
    merge_products(model)
    embedder = Embedder(backbone, torch.bfloat16)
    rng = random.Random(recipe.seed + 2)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=4e-3, weight_decay=0.0, betas=(0.9, 0.98))
    rates = [optimizer]
    learn = [losses.describe]
    if tasks == 4:
        learn += [losses.question, losses.ground, losses.question, losses.ground, losses.question]
    for step in steps(folder.name, count):
        set_rates(rates, cosine(step, count, warm_up=20, floor=0.02))
        group = pool[rng.randrange(len(pool))]
        parts = learn[step % len(learn)](embedder, preprocessor, group, rng)
        loss = weighted(parts, {"digit": 0.5, "coloured": 0.5, "captioned": 0.0})
        update(rates, loss, clip=1.0)
        report(step, parts, every=49 if tasks == 4 else 50)
        if (step % 100 == 99 or step == count - 1) and not processes.rank():
            save_adapter(model, EmbeddingConfig(backbone="qwen2_vl", base_model=NAME), folder)


def make_pool(embedder: Embedder, recipe: Recipe, crops: bool) -> list[losses.SceneBatch]:
    """Draws groups of scenes, and crops, and encodes them once: the adapters leave vision alone."""
    rng, shapes = random.Random(recipe.seed + 3), shapes_of(recipe.seed + 3)
    world, pool = DigitWorld(), []
    for _ in tqdm(
        range(recipe.pool), desc="encode scenes", mininterval=10, disable=processes.rank() > 0
    ):
        scenes = [draw_scene(rng, 1) for _ in range(recipe.scenes // 2)]
        scenes += scene_group(rng, recipe.scenes, hard=0.7)
        drawn = world.draw(own(scenes), shapes)
        owners = [(i, box) for i, row in enumerate(drawn.boxes) if len(row) > 1 for box in row]
        cut = cut_out(drawn.images, owners, shapes)
        features: dict[bytes, Tensor] = {}
        with torch.no_grad():
            for part in (drawn.images, cut) if crops else (drawn.images,):
                features.update(embedder.encode(media_of(part)))
        features = {digest: part.to(torch.bfloat16).clone() for digest, part in features.items()}
        pool.append(losses.SceneBatch(scenes, drawn.images, features, cut))
    return pool


def cut_out(images: Images, owners: list[tuple[int, Box]], shapes: np.random.Generator) -> Images:
    """Cuts a crop out of an image for each of ``owners``, an image's index and a box."""
    return crop(images[[i for i, _ in owners]], [box for _, box in owners], shapes)


def scene_group(rng: random.Random, count: int, hard: float) -> list[Scene]:
    """Draws ``count`` scenes of two or three digits, in fours.

    With chance ``hard`` the four are one scene and its variants.
    """
    scenes: list[Scene] = []
    while len(scenes) < count:
        scenes += (
            variants(draw_scene(rng), rng)
            if rng.random() < hard
            else [draw_scene(rng) for _ in range(4)]
        )
    return scenes[:count]


def media_of(images: Images) -> list[Media]:
    """Makes media of ``images`` as the preprocessor does, which leaves this size as it is."""
    return [Media.of("image", image[None], 0, 16) for image in images]


def load_backbone(folder: Path) -> Backbone:
    """Loads the checkpoint in ``folder``, float32 and frozen."""
    backbone = build_backbone(folder)
    load_weights(backbone, folder, backbone.rename, torch.device("cpu"), torch.float32)
    return backbone


def make_heads() -> nn.Module:
    """Makes the heads that name one of eleven digits (10 is none) and seven colours (6 is none)."""
    return nn.Sequential(nn.LayerNorm(192), nn.Linear(192, 18))


def muon(parameters: list[Tensor], rate: float) -> torch.optim.Optimizer:
    """Makes Muon with AdamW's step size and weight decay 0.02."""
    return torch.optim.Muon(parameters, lr=rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")


def adam(parameters: list[Tensor], rate: float) -> torch.optim.Optimizer:
    """Makes AdamW with weight decay 0.01."""
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01, betas=(0.9, 0.98))


def cosine(step: int, count: int, warm_up: int, floor: float) -> float:
    """Returns the learning rate's factor: a linear start, then half a cosine down to ``floor``."""
    decay = 0.5 * (1 + math.cos(math.pi * step / count))
    return min(1, (step + 1) / warm_up) * (decay * (1 - floor) + floor)


def set_rates(optimizers: list[Any], factor: float) -> None:
    """Sets every learning rate to ``factor`` times its own first value."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group.setdefault("first_lr", group["lr"])


def update(optimizers: list[Any], loss: Tensor, clip: float = 0.0) -> None:
    """Takes a step down the gradient of ``loss`` over all processes, its norm at most ``clip``.

    With 0 the norm is as it is.
    """
    parameters = [p for item in optimizers for group in item.param_groups for p in group["params"]]
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    processes.sum_gradients(parameters)
    if clip:
        torch.nn.utils.clip_grad_norm_(parameters, clip)
    for optimizer in optimizers:
        optimizer.step()


def weighted(parts: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Adds up ``parts``, each times its weight or 1."""
    return torch.stack([weights.get(name, 1.0) * part for name, part in parts.items()]).sum()


def start(folder: Path | None, seed: int) -> None:
    """Sets the seed of a stage, and writes the checkpoint's settings to ``folder``, if given."""
    torch.manual_seed(seed)
    if folder and not processes.rank():
        checkpoint.write_settings(folder)
    processes.wait()


def own(scenes: list[Scene]) -> list[Scene]:
    """Picks out the scenes that this process draws; all processes know all of them."""
    return [scenes[index] for index in losses.mine(range(len(scenes)))]


def shapes_of(seed: int) -> np.random.Generator:
    """Makes the generator that decides how scenes look, a different one in each process."""
    return np.random.default_rng([seed, processes.rank()])


def steps(name: str, count: int) -> Iterator[int]:
    """Counts to ``count`` with a progress bar, in the first process."""
    return iter(tqdm(range(count), desc=name, mininterval=10, disable=processes.rank() > 0))


def report(step: int, parts: dict[str, Tensor], every: int = 50) -> None:
    """Prints the losses of every so many steps, in the first process."""
    if step % every == every - 1 and not processes.rank():
        values = {name: round(part.item(), 3) for name, part in parts.items()}
        tqdm.write(f"{time.strftime('%H:%M:%S')} step {step + 1} {json.dumps(values)}")


def run(folder: Path, recipe: Recipe) -> None:
    """Runs all stages that are not yet done, into ``folder``."""
    stages: dict[str, Callable[[Path], None]] = {
        "vision": lambda out: train_vision(out, recipe),
        "base": lambda out: train_base(out, folder / "vision", recipe),
        "v1": lambda out: train_adapter(
            out, folder / "base", recipe, dora=False, rank=8, count=recipe.v1, tasks=2
        ),
        "v2": lambda out: train_adapter(
            out, folder / "base", recipe, dora=True, rank=16, count=recipe.v2, tasks=4
        ),
    }
    for name, stage in stages.items():
        done = folder / f"{name}.json"
        if done.exists():
            continue
        began = time.monotonic()
        stage(folder / name)
        seconds = round(time.monotonic() - began)
        if not processes.rank():
            write_whole(done, json.dumps({"seconds": seconds}) + "\n")
        processes.wait()
