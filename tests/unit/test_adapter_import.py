"""Adapter folders as the hub and Trainers have them, imported and published."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from tests.conftest import adapter_folder
from vlm2vec_cli.main import vlm2vec
from vlm2vec_registry import artifact
from vlm2vec_registry.adapter_import import find_adapter, import_adapter
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.errors import ArtifactError
from vlm2vec_registry.store import Registry

LORA, PHI = adapter_folder("qwen2_vl", "lora"), adapter_folder("phi3_v", "dora")


def pickled(adapter: Path, folder: Path, beside: dict[str, str] | None = None) -> Path:
    """The adapter as it was published in 2024: its tensors in ``adapter_model.bin``."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(adapter / artifact.CONFIG, folder)
    torch.save(load_file(adapter / artifact.WEIGHTS), folder / "adapter_model.bin")
    for name, content in (beside or {}).items():
        (folder / name).write_text(content)
    return folder


def preprocessor(base: Path, **changes: Any) -> dict[str, str]:
    """The base's ``preprocessor_config.json`` with ``changes``; None takes a key out."""
    values = json.loads((base / "preprocessor_config.json").read_text()) | changes
    values = {key: value for key, value in values.items() if value is not None}
    return {"preprocessor_config.json": json.dumps(values)}


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(vlm2vec, ["adapters", *map(str, arguments)])


def imported(folder: Path, *flags: str | Path) -> tuple[Result, dict[str, Any]]:
    """The command's result, and the ``embedding.json`` that it wrote; empty if none."""
    out = folder.parent / "imported"
    done = command("import", folder, out, *flags)
    file = out / "embedding.json"
    return done, json.loads(file.read_text()) if file.exists() else {}


def test_the_phi_model_as_it_is_on_the_hub(checkpoints: Path, tmp_path: Path) -> None:
    base = checkpoints / "phi3_v"
    beside = {
        name: "x"
        for name in (
            ".DS_Store", ".gitattributes", "README.md", "config.json", "modeling_phi3_v.py",
            "processing_phi3_v.py", "topics_meta.csv", "trainer_state.json",
        )
    }  # fmt: skip
    folder = pickled(PHI, tmp_path / "VLM2Vec-LoRA", beside | preprocessor(base, num_crops=16))
    (folder / "evals").mkdir()
    out = tmp_path / "out"
    done = command("import", folder, out, "--base", base, "--max-text-tokens", "256")
    assert done.exit_code == 0, done.output
    assert "adapter_model.bin: " in done.output
    assert "preprocessor_config.json: image.num_crops 16 to embedding.json" in done.output
    assert "left behind: .DS_Store, .gitattributes, config.json, modeling_phi3_v.py" in done.output
    assert f"next: vlm2vec adapters publish {out} --model NAME --base {base}" in done.output
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", artifact.CONFIG, artifact.WEIGHTS, "embedding.json",
    ]  # fmt: skip
    config = EmbeddingConfig.read(out)
    assert (config.image, config.max_text_tokens) == ({"num_crops": 16}, 256)
    artifact.check_folder(out)


def test_a_sub_folder_with_the_preprocessor_above_it(checkpoints: Path, tmp_path: Path) -> None:
    folder = tmp_path / "VLM2Vec-Qwen2VL-7B"
    pickled(LORA, folder / "lora")
    (folder / "pytorch_model-00001-of-00004.bin").write_bytes(b"")
    for name, content in preprocessor(checkpoints / "qwen2_vl", max_pixels=50176).items():
        (folder / name).write_text(content)
    done, embedding = imported(folder, "--base", checkpoints / "qwen2_vl", "--resize", "1344x672")
    assert done.exit_code == 0, done.output
    assert f"{folder}/lora/adapter_model.bin: " in done.output
    assert embedding == {"image": {"max_pixels": 50176, "resize": [1344, 672]}}
    assert EmbeddingConfig.read(tmp_path / "imported").image_rules.resize == (1344, 672)


def test_which_folder_the_adapter_is_in(tmp_path: Path) -> None:
    for name in ("lora", "a/deep", ".cache/huggingface", "other"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(ArtifactError, match=r"no adapter_config\.json in it or in a folder below"):
        find_adapter(tmp_path)
    (tmp_path / "lora" / artifact.CONFIG).touch()
    (tmp_path / ".cache/huggingface" / artifact.CONFIG).touch()
    assert find_adapter(tmp_path) == tmp_path / "lora"
    (tmp_path / "a/deep" / artifact.CONFIG).touch()
    with pytest.raises(ArtifactError, match=r"adapters in a/deep, lora; give the folder of one"):
        find_adapter(tmp_path)
    (tmp_path / artifact.CONFIG).touch()
    assert find_adapter(tmp_path) == tmp_path
    with pytest.raises(ArtifactError, match=r"no adapter_model\.safetensors and no adapter_model"):
        import_adapter(tmp_path, tmp_path / "out")


QWEN_AREAS = {"min_pixels": 6272, "max_pixels": 50176}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        (QWEN_AREAS, QWEN_AREAS),
        ({"max_pixels": 50176}, {"max_pixels": 50176}),
        (
            {"min_pixels": None, "max_pixels": None,
             "size": {"shortest_edge": 6272, "longest_edge": 50176}}, QWEN_AREAS,
        ),
        (
            {"min_pixels": None, "max_pixels": None,
             "size": {"min_pixels": 6272, "max_pixels": 50176}}, QWEN_AREAS,
        ),
        ({**QWEN_AREAS, "size": {"shortest_edge": 1, "longest_edge": 2}}, QWEN_AREAS),
        ({"size": {"width": 1344, "height": 672}}, {"resize": [1344, 672]}),
        ({"image_processor_type": "Qwen2VLImageProcessorFast", "processor_class": "X"}, {}),
        ({"do_resize": True, "do_rescale": True, "resample": 3}, {}),
    ],
)  # fmt: skip
def test_what_differs_from_the_base_is_taken_over(
    checkpoints: Path, tmp_path: Path, changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    base = checkpoints / "qwen2_vl"
    folder = pickled(LORA, tmp_path / "adapter", preprocessor(base, **changes))
    done, embedding = imported(folder, "--base", base)
    assert done.exit_code == 0, done.output
    assert embedding.get("image", {}) == expected


def test_a_file_that_transformers_itself_wrote(checkpoints: Path, tmp_path: Path) -> None:
    from transformers import Qwen2VLImageProcessor

    base = checkpoints / "qwen2_vl"
    known = json.loads((base / "preprocessor_config.json").read_text())
    folder = pickled(LORA, tmp_path / "adapter")
    for own, expected in ((known, {}), (known | QWEN_AREAS, {"image": QWEN_AREAS})):
        Qwen2VLImageProcessor(**own).save_pretrained(str(folder))
        done, embedding = imported(folder, "--base", base)
        assert done.exit_code == 0, done.output
        assert embedding == expected
        shutil.rmtree(tmp_path / "imported")


def test_without_a_base_all_is_taken_over(checkpoints: Path, tmp_path: Path) -> None:
    folder = pickled(
        LORA, tmp_path / "adapter", preprocessor(checkpoints / "qwen2_vl", **QWEN_AREAS)
    )
    done, embedding = imported(folder)
    assert embedding == {"image": QWEN_AREAS}
    assert (
        "preprocessor_config.json was compared with no base's; --base DIR does that" in done.output
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"image_mean": [0.5, 0.5, 0.5]}, "image_mean is [0.5, 0.5, 0.5], but [0.48"),
        ({"image_std": [1.0, 1.0, 1.0]}, "image_std is"),
        ({"patch_size": 16}, "patch_size is 16, but 14"),
        ({"do_resize": False}, "do_resize is False, but True"),
        ({"do_normalize": False}, "do_normalize is False"),
        ({"resample": 2}, "resample is 2, but 3"),
        ({"max_pixels": "50176"}, "max_pixels: expected a positive number, got '50176'"),
        ({"max_pixels": -1}, "max_pixels: expected a positive number, got -1"),
        ({"max_pixels": True}, "max_pixels: expected a positive number, got True"),
        ({"size": {"width": 0, "height": 1}}, "image.resize: expected"),
    ],
)
def test_what_an_adapter_cannot_decide_is_refused(
    checkpoints: Path, tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    base = checkpoints / "qwen2_vl"
    folder = pickled(LORA, tmp_path / "adapter", preprocessor(base, **changes))
    done, _ = imported(folder, "--base", base)
    assert isinstance(done.exception, ArtifactError)
    assert problem in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_what_embedding_json_says_already_stays(checkpoints: Path, tmp_path: Path) -> None:
    base = checkpoints / "qwen2_vl"
    own = {"image": {"max_pixels": 100352}, "prompt": {"suffix": "."}, "max_text_tokens": 99}
    beside = {"embedding.json": json.dumps(own)} | preprocessor(base, **QWEN_AREAS)
    folder = pickled(LORA, tmp_path / "adapter", beside)
    done, embedding = imported(folder, "--base", base, "--decode", "raw", "--max-text-tokens", "99")
    assert done.exit_code == 0, done.output
    assert embedding == own | {"image": {"max_pixels": 100352, "min_pixels": 6272, "decode": "raw"}}
    for flags, problem in (
        (["--max-text-tokens", "256"], "max_text_tokens is 99 already; 256 contradicts it"),
        (["--image", "max_pixels=5"], "image.max_pixels is 100352 already; 5 contradicts it"),
    ):
        shutil.rmtree(tmp_path / "imported", ignore_errors=True)
        done, _ = imported(folder, "--base", base, *flags)
        assert problem in str(done.exception)


def test_options_go_before_the_preprocessors_file(checkpoints: Path, tmp_path: Path) -> None:
    base = checkpoints / "phi3_v"
    folder = pickled(PHI, tmp_path / "adapter", preprocessor(base, num_crops=16))
    done, embedding = imported(folder, "--base", base, "--image", "num_crops=4")
    assert embedding == {"image": {"num_crops": 4}}
    assert "nothing to take over" in done.output


@pytest.mark.parametrize(
    "flags",
    [
        ["--resize", "1344"], ["--resize", "ax5"], ["--resize", "-1x5"], ["--image", "num_crops"],
        ["--image", "num_crops=x"], ["--image", "a=1", "--image", "a=2"], ["--decode", "fast"],
        ["--max-text-tokens", "0"],
    ],
)  # fmt: skip
def test_flags_that_make_no_sense(tmp_path: Path, flags: list[str]) -> None:
    done, _ = imported(pickled(LORA, tmp_path / "adapter"), *flags)
    assert done.exit_code == 2
    assert flags[0] in done.output


@pytest.mark.parametrize("flags", [["--resize", "0x5"], ["--image", "resize=5"]])
def test_values_that_embedding_json_cannot_hold(tmp_path: Path, flags: list[str]) -> None:
    done, _ = imported(pickled(LORA, tmp_path / "adapter"), *flags)
    assert "image.resize: expected" in str(done.exception)


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    folder = pickled(LORA, tmp_path / "adapter")
    out = tmp_path / "imported"
    out.mkdir()
    (out / "mine").touch()
    done, _ = imported(folder)
    assert f"{out} is there already" in str(done.exception)
    (out / "mine").unlink()
    assert imported(folder)[0].exit_code == 0


def test_safetensors_go_before_a_pickle(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(LORA, folder)
    (folder / "adapter_model.bin").write_bytes(b"no pickle")
    done, _ = imported(folder)
    assert "adapter_model.safetensors: copied" in done.output
    assert "left behind: adapter_model.bin" in done.output
    same = [(place / artifact.WEIGHTS).read_bytes() for place in (tmp_path / "imported", LORA)]
    assert same[0] == same[1]


def test_publish_imports_by_itself(checkpoints: Path, tmp_path: Path) -> None:
    base, store = checkpoints / "qwen2_vl", tmp_path / "store"
    options = ("--model", "qwen", "--base", base)
    Registry(str(store)).publish("qwen", LORA, base=base)
    nested = pickled(LORA, tmp_path / "hub" / "lora", preprocessor(base)).parent
    done = CliRunner().invoke(
        vlm2vec, ["adapters", "--registry", str(store), "publish", str(nested), *map(str, options)]
    )
    assert done.exit_code == 0, done.output
    assert "lora/adapter_model.bin: " in done.stderr
    assert done.stdout.startswith("qwen version 2, space ")
    first, second = Registry(str(store)).versions("qwen")
    assert first.space == second.space


def test_publish_heeds_a_preprocessor_beside_safetensors(checkpoints: Path, tmp_path: Path) -> None:
    base, store = checkpoints / "qwen2_vl", tmp_path / "store"
    folder = tmp_path / "adapter"
    shutil.copytree(LORA, folder)
    for name, content in preprocessor(base, max_pixels=50176).items():
        (folder / name).write_text(content)
    publish = ("--registry", store, "publish", folder, "--model", "qwen", "--base", base)
    assert command(*publish).exit_code == 0
    assert Registry(str(store)).version("qwen", "1").embedding["image"] == {"max_pixels": 50176}
    (folder / "modeling.py").touch()
    assert "modeling.py may hold code" in str(command(*publish).exception)
    folder.joinpath("modeling.py").unlink()
    hostile = b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R."
    (folder / artifact.WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(hostile)
    assert "no zip of torch.save" in str(command(*publish).exception)
    assert len(Registry(str(store)).versions("qwen")) == 1
