"""``adapter_config.json`` of every shape: it loads as PEFT means it, or says what is wrong."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import adapter_folder
from vlm2vec_cli.adapters.import_ import named_base
from vlm2vec_service.engine import Engine
from vlm2vec_service.engine.adapter import check_adapter
from vlm2vec_service.engine.adapter_config import AdapterConfig
from vlm2vec_service.engine.engine import build_backbone
from vlm2vec_service.engine.linear import AdaptedLinear, install
from vlm2vec_service.engine.stage import Rows, Stage
from vlm2vec_service.errors import AdapterError
from vlm2vec_service.settings import EngineSettings

SOURCE = adapter_folder("qwen2_vl", "dora")
VALID = json.loads((SOURCE / "adapter_config.json").read_text())
# Of every type that JSON has, as text: Python writes some of them not, or otherwise.
VALUES = [
    "null", "true", "false", "0", "-1", "1.5", "1e300", "1e999", "NaN", "-Infinity",
    "1" + "0" * 400, "1" + "0" * 5000,
    '""', '"false"', '"("', '"8"', '"\\ud800["', '"' + "x" * 9999 + '"',
    "[]", "[1]", '["q_proj", 1]', "[[]]", "{}", '{"q_proj": 1}', '{"q_proj": "8"}', '{"(": 1}',
    '{"q_proj": 1e300}', '{"q_proj": -1}', '{"q_proj": true}', '{"\\u001b[31m": []}',
    "[" * 500 + "]" * 500, '{"a":' * 960 + "1" + "}" * 960, "[" * 99_999,
]  # fmt: skip
KEYS = sorted(
    {*VALID, "peft_type", "layers_pattern", "exclude_modules", "lora_bias", "arrow_config"}
)
OWN = [
    "r", "lora_alpha", "target_modules", "exclude_modules", "layers_to_transform",
    "layers_pattern", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora",
    "init_lora_weights", "modules_to_save",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for file in SOURCE.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "adapter_config.json").unlink()
    return tmp_path


@pytest.fixture(scope="module")
def meta(checkpoints: Path) -> tuple[Any, dict[str, AdaptedLinear]]:
    backbone = build_backbone(checkpoints / "qwen2_vl")
    return backbone, install(backbone, Rows(Stage()))


@pytest.fixture(scope="module")
def engine(checkpoints: Path) -> Engine:
    return Engine.load(checkpoints / "qwen2_vl", EngineSettings(dtype="float32"))


def write(folder: Path, **values: Any) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({**VALID, **values}))


def replaced(key: str, value: str) -> str:
    """The valid file, in which ``key`` has the JSON ``value``."""
    rest = json.dumps({name: own for name, own in VALID.items() if name != key})
    return f'{rest[:-1]}, "{key}": {value}}}'


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"use_rslora": "false"}, "use_rslora: expected true or false, got 'false'"),
        ({"use_dora": 1}, "use_dora: expected true or false, got 1"),
        ({"lora_alpha": 1e300}, r"lora_alpha: expected a number from -1e\+09 to 1e\+09, got 1e\+3"),
        ({"lora_alpha": 10**400}, "lora_alpha: expected a number .* got 1000"),
        ({"lora_alpha": float("nan")}, "NaN is not a number of JSON"),
        ({"lora_alpha": True}, "lora_alpha: expected a number .* got True"),
        ({"r": 8.0}, r"r: expected a whole number from 1 to 65536, got 8\.0"),
        ({"r": 0}, "r: expected a whole number from 1 to 65536, got 0"),
        ({"r": "8"}, "r: expected a whole number .* got '8'"),
        ({"target_modules": {"q_proj": 1}}, "target_modules: expected a string or a list of them"),
        ({"target_modules": ["q_proj", 1]}, "target_modules: expected a string or a list of them"),
        ({"exclude_modules": 5}, "exclude_modules: expected a string or a list of them, got 5"),
        ({"layers_to_transform": ["0"]}, "layers_to_transform: expected a whole number or a list"),
        ({"layers_to_transform": True}, "layers_to_transform: expected a whole number or a list"),
        ({"layers_pattern": [None]}, "layers_pattern: expected a string or a list of them"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern: expected an object"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern.q_proj: expected a whole number from 1"),
        ({"alpha_pattern": {"q_proj": "3"}}, "alpha_pattern.q_proj: expected a number .* got '3'"),
        ({"alpha_pattern": {"x\n": 1e300}}, r"alpha_pattern.x\\n: expected a number"),
        ({"peft_type": ["LORA"]}, r"peft_type is not LORA but \['LORA'\]"),
        ({"init_lora_weights": ["pissa"]}, r"init_lora_weights=\['pissa'\] \(it changes the base"),
        ({"bias": "lora_only"}, "not supported: bias='lora_only'"),
        ({"use_qalora": True}, "not supported: use_qalora=True"),
        ({"arrow_config": {"top_k": 3}}, r"not supported: arrow_config=\{'top_k': 3\}"),
        ({"alora_invocation_tokens": [1]}, r"not supported: alora_invocation_tokens=\[1\]"),
        ({"use_bdlora": {"a": 1}}, "not supported: use_bdlora="),
        ({"kasa_config": {"a": 1}}, "not supported: kasa_config="),
        ({"monteclora_config": {"a": 1}}, "not supported: monteclora_config="),
        ({"init_lora_weights": "mica"}, "init_lora_weights='mica'"),
        ({"y" * 5000: "z" * 5000}, "not supported: y{78}"),
    ],
)  # fmt: skip
def test_wrong_values_are_named(folder: Path, values: dict[str, Any], message: str) -> None:
    write(folder, **values)
    with pytest.raises(AdapterError, match=message) as caught:
        AdapterConfig.read(folder)
    assert str(folder / "adapter_config.json") in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"5", b"null", b'"LORA"', b"{", b"\xff\xff", b"{" * 100_000,
        b'{"r": 8, "r": 8}',
        b'{"a":' * 100_000, b" " * (5 << 20), json.dumps(VALID).encode("utf-16")[:-1],
    ],
)  # fmt: skip
def test_what_is_no_object_is_refused(folder: Path, data: bytes) -> None:
    (folder / "adapter_config.json").write_bytes(data)
    with pytest.raises(AdapterError, match=r"adapter_config\.json: "):
        AdapterConfig.read(folder)


def test_a_folder_in_place_of_the_file_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").mkdir()
    with pytest.raises(AdapterError, match=r"adapter_config\.json: Is a directory"):
        AdapterConfig.read(folder)


def test_null_is_pefts_default(folder: Path) -> None:
    write(folder, **dict.fromkeys(OWN))
    assert AdapterConfig.read(folder) == AdapterConfig()


@pytest.mark.parametrize("named", ["x" * 300, "/x" * 5000, "a\0b", "\ud800", "", None, 5, ["/"]])
def test_a_base_of_any_name_is_no_folder(folder: Path, named: Any) -> None:
    write(folder, base_model_name_or_path=named)
    assert named_base(folder) is None


def harmless(call: Callable[[], object]) -> bool:
    """Whether ``call`` works; what it raises otherwise has to be an `AdapterError` that is fit for
    a log."""
    try:
        call()
    except AdapterError as error:
        text = str(error)
        assert text.isascii()
        assert text.isprintable()
        assert len(text) < 6000
        return False
    return True


def mutations(keys: list[str]) -> Iterator[tuple[str, str]]:
    return ((key, value) for key in keys for value in VALUES)


def test_no_value_raises_anything_else(folder: Path) -> None:
    path = folder / "adapter_config.json"
    worked = 0
    for key, value in mutations(KEYS):
        path.write_text(replaced(key, value))
        worked += harmless(lambda: AdapterConfig.read(folder))
    assert 100 < worked < len(KEYS) * len(VALUES)


def test_no_value_gets_past_the_checks_of_an_adapter(
    folder: Path, meta: tuple[Any, dict[str, AdaptedLinear]]
) -> None:
    for key, value in mutations(OWN):
        (folder / "adapter_config.json").write_text(replaced(key, value))
        harmless(lambda: check_adapter(folder, *meta))


def test_loading_refuses_what_the_check_refuses(
    folder: Path, meta: tuple[Any, dict[str, AdaptedLinear]], engine: Engine
) -> None:
    for key, value in mutations(["lora_alpha", "target_modules", "rank_pattern", "use_dora"]):
        (folder / "adapter_config.json").write_text(replaced(key, value))
        checked = harmless(lambda: check_adapter(folder, *meta))
        assert harmless(lambda: engine.load_adapter("made", folder)) == checked, (key, value[:80])
