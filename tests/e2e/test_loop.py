"""A model owner's loop, by the commands: train, publish, evaluate, be refused, promote, serve."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from tests.e2e.server import running_server
from vlm2vec import Client, Input
from vlm2vec_cli.main import vlm2vec

MODEL = "colours"
COLOURS = {
    "red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 70, 220), "black": (20, 20, 20),
    "white": (240, 240, 240), "yellow": (230, 220, 40),
}  # fmt: skip
NAME_IT = "<|image_1|>\nName the colour of the image.\n"
FIND_IT = "Find an image of this colour: {}\n"
SHOW_IT = "<|image_1|>\nRepresent the given image.\n"
STEPS = {"bad": 1, "good": 60}
OPTIONS = [
    "--adapter=lora", "--rank=8", "--alpha=16", "--dropout=0", "--batch=12", "--sub-batch=6",
    "--chunk=0", "--warm-up=5", "--learning-rate=5e-3", "--held-out=0", "--save-every=1000",
    "--temperature=0.05", "--dtype=float32", "--threads=1", "--no-gradient-checkpointing",
]  # fmt: skip


def run(*arguments: object) -> Result:
    """``vlm2vec`` with ``arguments``; raises what it raises but its exit."""
    result = CliRunner().invoke(vlm2vec, [str(item) for item in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def paint(folder: Path, count: int, seed: int) -> list[tuple[str, str]]:
    """``count`` noisy squares of each colour; names of colours and of files."""
    rng = np.random.default_rng(seed)
    painted = []
    for number in range(count):
        for name, colour in COLOURS.items():
            noise = rng.integers(-15, 16, (56, 56, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            path = f"{name}-{seed}-{number}.png"
            Image.fromarray(pixels).save(folder / path)
            painted.append((name, path))
    return painted


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train.yaml``, and ``suite.yaml`` on other squares."""
    folder = tmp_path_factory.mktemp("colours")
    seen, unseen = paint(folder, 8, seed=0), paint(folder, 2, seed=1)
    naming = [
        {"qry": NAME_IT, "qry_image_path": path, "pos_text": name, "pos_image_path": ""}
        for name, path in seen
    ]
    finding = [
        {"qry": FIND_IT.format(name), "qry_image_path": "", "pos_text": SHOW_IT,
         "pos_image_path": path}
        for name, path in seen
    ]  # fmt: skip
    write_lines(folder / "naming.jsonl", naming)
    write_lines(folder / "finding.jsonl", finding)
    (folder / "train.yaml").write_text(
        yaml.safe_dump({name: {"path": f"{name}.jsonl"} for name in ("naming", "finding")})
    )
    classes, retrieval = [], []
    for index, (name, path) in enumerate(unseen):
        labels = [name, *(label for label in COLOURS if label != name)]
        classes.append({"qry_text": NAME_IT, "qry_img_path": path, "tgt_text": labels})
        others = [image for label, image in unseen[index // 6 * 6 :][:6] if label != name]
        retrieval.append(
            {
                "qry_text": FIND_IT.format(name), "qry_img_path": "",
                "tgt_text": [SHOW_IT] * 6, "tgt_img_path": [path, *others],
            }
        )  # fmt: skip
    write_lines(folder / "classes.jsonl", classes)
    write_lines(folder / "images.jsonl", retrieval)
    data_sets = [
        {"name": "classes", "path": "classes.jsonl", "meta_task": "classification"},
        {"name": "images", "path": "images.jsonl", "meta_task": "retrieval"},
    ]
    (folder / "suite.yaml").write_text(yaml.safe_dump({"name": "colours", "data_sets": data_sets}))
    return folder


@pytest.fixture(scope="module")
def registry(checkpoints: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with version 1, trained for a step, and 2, trained for more."""
    folder = tmp_path_factory.mktemp("loop")
    for version, (name, steps) in enumerate(STEPS.items(), 1):
        done = run(
            "train", "--base", checkpoints / "qwen2_vl", "--data", data / "train.yaml",
            "--output", folder / name, "--steps", steps, *OPTIONS,
            "--publish", MODEL, "--registry", folder / "registry",
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        assert f"published {MODEL} version {version}, space " in done.output
    return folder / "registry"


def test_what_was_trained_is_measured_and_only_the_good_version_is_served(
    checkpoints: Path, registry: Path, data: Path
) -> None:
    base, suite = checkpoints / "qwen2_vl", data / "suite.yaml"
    place = registry.parent

    def evaluate(version: str, adapter: Path) -> dict[str, float]:
        output = place / f"{version}.json"
        done = run(
            "evaluate", "--local", "--base", base, "--adapter", adapter, "--dtype", "float32",
            "--model", f"{MODEL}@{version}", "--suite", suite, "--cache", place / "vectors",
            "--output", output, "--record", "--registry", registry,
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        sets = json.loads(output.read_text())["data_sets"]
        return {name: row["hit1"] for name, row in sets.items()}

    def promote(version: str, rule: str) -> Result:
        return run(
            "adapters", "--registry", registry, "promote", MODEL, "--version", version,
            "--require", f"{suite}:{rule}",
        )  # fmt: skip

    unmeasured = promote("1", "min_hit1=0.8")
    assert unmeasured.exit_code == 3
    assert f"{MODEL} version 1 has no recorded evaluation on colours" in unmeasured.output
    bad, good = evaluate("1", place / "bad"), evaluate("2", place / "good")
    assert max(bad.values()) < 0.6
    assert min(good.values()) > 0.8
    refused = promote("1", "min_hit1=0.8")
    assert refused.exit_code == 3
    assert f"{MODEL} version 1 is not promoted" in refused.output
    assert promote("2", "min_hit1=0.8,max_drop=0.005").exit_code == 0
    fell = promote("1", "max_drop=0.005")
    assert fell.exit_code == 3
    for name in good:
        drop = f"{name}: hit@1 fell by {good[name] - bad[name]:.4f}, from {good[name]:.4f}"
        assert drop in fell.output

    flags: list[str | Path] = [
        "--model", f"{MODEL}={base}", "--registry", registry, "--cache-dir", place / "cache",
        "--dtype", "float32",
    ]  # fmt: skip
    with running_server(place, *flags) as server, Client(server.address) as client:
        prompt = NAME_IT.replace("<|image_1|>", "<|image_pad|>")
        square = Input(prompt=prompt, images=[data / "blue-1-0.png"])
        names = list(COLOURS)
        ranking = client.rank(square, [Input(prompt=name) for name in names])
        assert ranking.version == "2"
        assert names[ranking.candidates[0].index] == "blue"
