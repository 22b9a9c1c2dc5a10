"""Regular expressions of a publisher: matched as PEFT does, and never in the way of anybody."""

import re
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest
from peft.utils.other import get_pattern_key

from tests.conftest import adapter_folder
from tests.unit.test_adapters import edit_config
from vlm2vec_service.engine import Engine, patterns
from vlm2vec_service.engine.adapter import check_adapter
from vlm2vec_service.engine.patterns import Pattern, matches
from vlm2vec_service.errors import AdapterError
from vlm2vec_service.settings import EngineSettings

HANGS = "(([a-z_0-9.]+)+)+!"
NAMES = [
    f"{stack}.{layer}.{end}"
    for stack in ("model.layers", "model.language_model.layers", "visual.blocks")
    for layer in (0, 1, 11)
    for end in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.0")
] + ["lm_head"]


@pytest.mark.parametrize(
    "key",
    [
        "q_proj", "proj", "0", ".", "..", "q.proj", "mlp.0", "mlp.", ".q_proj", "_proj", "lm_head",
        "layers.1.self_attn.q_proj", "model.layers.0.mlp.up_proj", "nothing", "x" * 500,
        "^lm_head", "^model.layers.*", "(?!model).*", r"layers\.1+\..*", "q_proj|k_proj", "a)|(.*",
        ".*(?<!language_model)", "q_proj$", "", "$", "(?i)Q_PROJ",
    ],
)  # fmt: skip
def test_keys_match_as_in_peft(key: str) -> None:
    pattern = Pattern("alpha_pattern", "end", key)
    try:
        expected = {name for name in NAMES if get_pattern_key([key], name) == key}
    except re.error:
        with pytest.raises(AdapterError, match=r"alpha_pattern: .* is no pattern"):
            matches([pattern], NAMES)
        return
    assert set(matches([pattern], NAMES)[0]) == expected


def test_answers_come_in_order_with_the_layers_numbers() -> None:
    found = matches(
        [
            Pattern("layers_pattern", "layer", "blocks"),
            Pattern("target_modules", "whole", r".*\.1\..*q_proj"),
            Pattern("rank_pattern", "end", "lm_head"),
            Pattern("layers_pattern", "layer", "(layers|blocks)"),
            Pattern("layers_pattern", "any layer", ""),
        ],
        ["visual.blocks.11.mlp.0", "model.layers.1.self_attn.q_proj", "lm_head"],
    )
    both = {"visual.blocks.11.mlp.0": "11", "model.layers.1.self_attn.q_proj": "1"}
    assert found == [
        {"visual.blocks.11.mlp.0": "11"},
        {"model.layers.1.self_attn.q_proj": ""},
        {"lm_head": ""},
        both,
        both,
    ]


def test_names_cost_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere")
    keys = [Pattern("rank_pattern", "end", name) for name in NAMES]
    assert matches(keys, NAMES) == [{name: ""} for name in NAMES]
    with pytest.raises(AdapterError, match="no process could be started"):
        matches([Pattern("rank_pattern", "end", ".*")], NAMES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(q_proj", r"rank_pattern: '\(q_proj' is no pattern: missing \)"),
        ("*", r"rank_pattern: '\*' is no pattern: nothing to repeat"),
        ("[\x1b", r"rank_pattern: '\[\\x1b' is no pattern: unterminated character set"),
        ("\ud800(", r"rank_pattern: '\\ud800\(' is no pattern"),
        ("(" * 200_000, "is no pattern: maximum recursion depth exceeded"),
        ("x{99999999999999999999}", "is no pattern: the repetition number is too large"),
        (f"(?P<{'x' * 100_000}!>a)", r"is no pattern: bad character in group name .x{40}"),
    ],
)
def test_malformed_patterns_are_named(text: str, message: str) -> None:
    with pytest.raises(AdapterError, match=message) as caught:
        matches(
            [Pattern("target_modules", "whole", ".*"), Pattern("rank_pattern", "end", text)], NAMES
        )
    assert len(str(caught.value)) < 400
    assert str(caught.value).isascii()


def test_there_is_a_most_of_them() -> None:
    with pytest.raises(AdapterError, match="alpha_pattern: more than 4096 patterns"):
        matches([Pattern("alpha_pattern", "end", "x")] * (patterns.MOST + 1), NAMES)


def test_a_pattern_that_backtracks_is_named_and_holds_nobody_up() -> None:
    beats = []
    done = threading.Event()

    def beat() -> None:
        while not done.wait(0.01):
            beats.append(time.monotonic())

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(AdapterError, match=r"layers_pattern: .* takes more than 2 s"):
            matches(
                [
                    Pattern("exclude_modules", "whole", ".*x"),
                    Pattern("layers_pattern", "layer", HANGS),
                ],
                NAMES,
            )
    finally:
        done.set()
        thread.join()
    # A hundred a second, on an idle machine.
    assert len(beats) > 20


def test_an_engine_refuses_it_and_goes_on(checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter_folder("qwen2_vl", "dora"), tmp_path, dirs_exist_ok=True)
    engine = Engine.load(checkpoints / "qwen2_vl", EngineSettings(dtype="float32"))
    edit_config(tmp_path, target_modules=HANGS)
    with pytest.raises(AdapterError, match=r"target_modules: '\(\(\[a-z_0-9.\]\+\)\+\)\+!' takes"):
        engine.load_adapter("hangs", tmp_path)
    edit_config(tmp_path, target_modules=r".*_proj", alpha_pattern={"q_proj": 1, HANGS: 2})
    with pytest.raises(AdapterError, match=f"{re.escape(str(tmp_path))}: alpha_pattern: .* takes"):
        check_adapter(tmp_path, engine.backbone, engine.linears)
    engine.load_adapter("works", adapter_folder("qwen2_vl", "dora"))
    assert set(engine.adapters) == {"works"}
