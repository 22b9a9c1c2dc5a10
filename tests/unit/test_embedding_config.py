"""``embedding.json``: what is read back, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from vlm2vec_registry.embedding_config import FILE_NAME, EmbeddingConfig
from vlm2vec_registry.media_rules import Area, ImageRules, VideoRules
from vlm2vec_registry.prompt_template import PromptTemplate

FULL = EmbeddingConfig(
    backbone="qwen2_vl",
    base_model="Qwen/Qwen2-VL-2B-Instruct",
    base_revision="895c3a49bc3fa70a340399125c650a463535e71c",
    pooling="last",
    normalize=False,
    prompt=PromptTemplate(media_separator="\n", separator="\n\n", suffix=" <é>"),
    image={"min_pixels": 3136, "max_pixels": 200704, "num_crops": 16},
    dimensions=(64, 128),
)


FORM = EmbeddingConfig(
    pooling="mean",
    attention="bidirectional",
    positions="plain",
    prompt=PromptTemplate(
        brackets=("<|vision_start|>", "<|vision_end|>"),
        audio_brackets=("<|audio_bos|>", "<|audio_eos|>"),
        closing="In one word:",
        order=("video", "image", "text"),
        empty="NULL",
        blanked=("<image>",),
        system="Represent the user's input.",
        instruction="system",
        system_turn="<|im_start|>system\n{system}<|im_end|>\n",
        user_turn="<|im_start|>user\n{content}<|im_end|>\n",
        assistant_turn="<|im_start|>assistant\n",
        generation_prompt=True,
    ),
    image_rules=ImageRules(first=Area(28, 3136, 12845056), small="keep", long="square"),
    video=VideoRules(
        fps=1, max_frames=64, assumed_fps=2.0, fixed_fps=2.0, list_first=Area(64, 16384, 67108864)
    ),
)


@pytest.mark.parametrize(
    "config", [EmbeddingConfig(), FULL, FORM], ids=["defaults", "full", "form"]
)
def test_json_round_trips(config: EmbeddingConfig, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(config.to_json())
    assert EmbeddingConfig.read(tmp_path) == config
    assert EmbeddingConfig.from_dict(json.loads(config.to_json())) == config


def test_equal_configs_are_equal_bytes() -> None:
    one = EmbeddingConfig(image={"min_pixels": 1, "max_pixels": 2})
    other = EmbeddingConfig(image={"max_pixels": 2, "min_pixels": 1})
    assert one.to_json() == other.to_json()


def test_missing_file_gives_the_defaults(tmp_path: Path) -> None:
    assert EmbeddingConfig.read(tmp_path) == EmbeddingConfig()


def test_missing_keys_take_their_defaults() -> None:
    config = EmbeddingConfig.from_dict({"prompt": {"suffix": "!"}})
    assert config == EmbeddingConfig(prompt=PromptTemplate(suffix="!"))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"normalise": True}, "normalise"),
        ({"zeta": 1, "alpha": 2}, "alpha, zeta"),
        ({"prompt": {"seperator": " "}}, "seperator"),
    ],
)
def test_unknown_keys_are_refused_by_name(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        EmbeddingConfig.from_dict(values)


@pytest.mark.parametrize("key", ["pooling", "attention", "positions"])
@pytest.mark.parametrize("value", ["cls", "", None, "LAST"])
def test_choice_that_there_is_not_is_refused(key: str, value: str | None) -> None:
    with pytest.raises(ValueError, match=f"{key}: "):
        EmbeddingConfig.from_dict({key: value})


@pytest.mark.parametrize("value", [0, -1, 1.5, "3136", None, True, [1]])
def test_image_value_that_is_no_positive_whole_number_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"image\.max_pixels: "):
        EmbeddingConfig.from_dict({"image": {"max_pixels": value}})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("backbone", 2),
        ("base_model", ["a"]),
        ("base_revision", 1),
        ("normalize", "no"),
        ("normalize", None),
        ("image", [1]),
        ("image", None),
        ("prompt", "a template"),
        ("dimensions", 64),
        ("dimensions", "64"),
        ("dimensions", ["64"]),
        ("dimensions", [0]),
        ("dimensions", [64.5]),
    ],
)
def test_value_of_the_wrong_type_is_refused_by_its_key(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{key}: "):
        EmbeddingConfig.from_dict({key: value})


@pytest.mark.parametrize("key", ["media_separator", "separator", "suffix"])
def test_template_part_that_is_no_string_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=rf"prompt\.{key}: "):
        EmbeddingConfig.from_dict({"prompt": {key: 5}})


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"last"', "\x00"])
def test_file_that_is_no_json_object_is_refused_by_its_name(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(ValueError, match=FILE_NAME):
        EmbeddingConfig.read(tmp_path)


def test_error_in_a_file_names_the_file_and_the_key(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text('{"pooling": "cls"}')
    with pytest.raises(ValueError, match=rf"{tmp_path}/{FILE_NAME}: pooling: 'cls'"):
        EmbeddingConfig.read(tmp_path)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"image": {"resize": [1344]}}, "image.resize"),
        ({"image": {"resize": [1344, 0]}}, "image.resize"),
        ({"image": {"resize": [1344, 10**9]}}, "image.resize"),
        ({"image": {"decode": "Raw"}}, "image.decode: 'Raw' is not one of viewed, raw"),
        ({"image": {"small": "grow"}}, "image.small: 'grow' is not one of enlarge, keep, pad"),
        ({"image": {"first": {"factor": 28}}}, "image.first.min_pixels: expected a whole number"),
        (
            {"image": {"first": {"factor": 28, "min_pixels": 9, "max_pixels": 8}}},
            "image.first.min_pixels: expected at most max_pixels, 8",
        ),
        ({"prompt": {"chat_template": "mine"}}, "prompt.chat_template: expected 64 hexadecimal"),
        ({"video": {"fps": 0}}, "video.fps: expected a number from 0.001 to 1000"),
        ({"video": {"frames": 8}}, "video: unknown key frames"),
        ({"prompt": {"brackets": ["<"]}}, "prompt.brackets: expected a list of two strings"),
        (
            {"prompt": {"order": ["text"]}},
            "prompt.order: expected each of image, video, text, audio",
        ),
        ({"prompt": {"order": ["image", "audio", "text"]}}, "prompt.order: expected each of"),
        ({"prompt": {"order": ["image", "image", "video", "text"]}}, "prompt.order: expected each"),
        ({"audio_short": "pad"}, "audio_short: 'pad' is not one of refuse, drop"),
        ({"audio_max_seconds": 0}, "audio_max_seconds: expected"),
        ({"prompt": {"order": ["image", "text", "video"]}}, "prompt.order: expected each of"),
        ({"prompt": {"user_turn": "<user>"}}, "prompt.user_turn: expected {content} once in it"),
        ({"prompt": {"system_turn": "{system}{system}"}}, "prompt.system_turn: expected {system}"),
        ({"prompt": {"system": "Hello."}}, "prompt.system: expected a system_turn or"),
        ({"prompt": {"instruction": "system"}}, "prompt.instruction: expected a system_turn or"),
        ({"prompt": {"generation_prompt": True}}, "prompt.generation_prompt: expected an assista"),
        (
            {"prompt": {"chat_template": "0" * 64, "user_turn": "> {content}"}},
            "prompt.user_turn: expected none beside chat_template",
        ),
        ({"max_text_tokens": 0}, "max_text_tokens"),
        (
            {"max_text_tokens": 9, "cut": "media"},
            "cut: 'media' is not one of text, text_alone, all",
        ),
        ({"cut": "all"}, "cut: expected max_text_tokens with it"),
        ({"prompt": {"audio_brackets": ["<"]}}, "prompt.audio_brackets: expected a list of two"),
        ({"video": {"fixed_fps": 0}}, "video.fixed_fps"),
        ({"max_text_tokens": True}, "max_text_tokens"),
    ],
)
def test_settings_of_later_versions_are_as_strict(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}"):
        EmbeddingConfig.from_dict(values)


def test_settings_of_later_versions_leave_older_files_their_bytes() -> None:
    assert set(json.loads(EmbeddingConfig().to_json())) == {
        "backbone", "base_model", "base_revision", "dimensions", "image", "normalize", "pooling",
        "prompt",
    }  # fmt: skip
    assert set(json.loads(EmbeddingConfig().to_json())["prompt"]) == {
        "media_separator", "separator", "suffix",
    }  # fmt: skip
    config = EmbeddingConfig(image_rules=ImageRules((1344, 672), "raw"), max_text_tokens=256)
    values = json.loads(config.to_json())
    assert values["image"] == {"resize": [1344, 672], "decode": "raw"}
    assert EmbeddingConfig.from_dict(values) == config


@pytest.mark.parametrize(
    "text", ['{"normalize": true, "normalize": false}', '{"dimensions": [NaN]}', "[" * 100_000]
)
def test_json_that_python_alone_would_take_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(ValueError, match=f"{FILE_NAME}: no JSON"):
        EmbeddingConfig.read(tmp_path)


@pytest.mark.parametrize(
    ("order", "kept"),
    [
        (["image", "video", "text"], None),
        (["image", "video", "audio", "text"], None),
        (["text", "image", "video", "audio"], ["text", "image", "video"]),
        (["audio", "image", "video", "text"], ["audio", "image", "video", "text"]),
    ],
)
def test_audio_behind_the_other_media_is_the_order_without_it(
    order: list[str], kept: list[str] | None
) -> None:
    config = EmbeddingConfig.from_dict({"prompt": {"order": order}})
    assert config.to_dict()["prompt"].get("order") == kept
    assert EmbeddingConfig.from_dict(json.loads(config.to_json())) == config
