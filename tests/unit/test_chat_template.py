"""A checkpoint's chat template: taken apart into turns, and never able to do more than that."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import DATA
from vlm2vec_registry import preset
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.prompt_template import TURNS, PromptTemplate
from vlm2vec_service.backbones import load_preprocessor, read_embedding
from vlm2vec_service.errors import CheckpointError
from vlm2vec_service.preprocess import Request
from vlm2vec_service.preprocess.chat_template import ChatTemplate

TOKENIZERS = DATA / "backbones/tokenizers"
IM_END = 2001
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
MEDIA = {"image": IMAGE, "video": VIDEO}
CHAT = preset.read("chat").embedding.prompt
GOOD = (
    "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{% if p.type == 'image' %}(<|image_pad|>){% elif p.type == 'video' %}"
    "(<|video_pad|>){% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def filled(text: str, video: str = VIDEO) -> PromptTemplate:
    template = ChatTemplate(text, {"eos_token": "</s>"})
    media = {"image": IMAGE, "video": video} if video else {"image": IMAGE}
    return template.fill(PromptTemplate(chat_template=template.digest), media)


@pytest.mark.parametrize(("name", "system"), [("qwen2_5_vl", CHAT.system), ("qwen3_vl", "")])
def test_template_of_a_checkpoint_gives_the_form_by_its_turns(name: str, system: str) -> None:
    template = ChatTemplate.read(TOKENIZERS / name)
    assert template is not None
    by_turns = replace(CHAT, system=system)
    own = replace(
        by_turns,
        chat_template=template.digest,
        system="",
        **{key: getattr(PromptTemplate, key) for key in TURNS},
    )
    assert template.fill(own, MEDIA) == by_turns
    mine = template.fill(replace(own, system="Represent the input."), MEDIA)
    assert mine == replace(by_turns, system="Represent the input.")


def test_template_of_omni_gives_the_brackets_of_audio_as_well() -> None:
    template = ChatTemplate.read(TOKENIZERS / "qwen2_5_omni")
    assert template is not None
    by_turns = preset.read("omni-chat").embedding.prompt
    own = replace(
        by_turns,
        chat_template=template.digest,
        system="",
        **{key: getattr(PromptTemplate, key) for key in TURNS},
    )
    media = {"image": "<|IMAGE|>", "video": "<|VIDEO|>", "audio": "<|AUDIO|>"}
    assert template.fill(own, media) == by_turns
    with pytest.raises(CheckpointError, match="does more than to put turns"):
        template.fill(own, media | {"audio": "<|VIDEO|>"})


@pytest.fixture
def base(checkpoints: Path, tmp_path: Path) -> Path:
    """What preprocessing reads of a checkpoint, with a chat template."""
    for name in ("config.json", "preprocessor_config.json", "tokenizer.json"):
        shutil.copy(checkpoints / "qwen2_vl" / name, tmp_path)
    shutil.copy(TOKENIZERS / "qwen2_5_vl" / "chat_template.jinja", tmp_path)
    return tmp_path


def test_callers_words_stand_in_the_turns_of_the_checkpoint(base: Path) -> None:
    template = ChatTemplate.read(base)
    assert template is not None
    form = {"chat_template": template.digest, "instruction": "system", "generation_prompt": True}
    (base / "embedding.json").write_text(json.dumps({"prompt": form}))
    preprocessor = load_preprocessor(base)
    words = "A temple {{ messages }} <|im_end|>"
    for instruction in (None, "Find it."):
        said = preprocessor.prepare(
            Request(instruction=instruction, text=words), read_embedding(base)
        )
        by_turns = preprocessor.prepare(
            Request(instruction=instruction, text=words), EmbeddingConfig(prompt=CHAT)
        )
        assert said.token_ids.tolist() == by_turns.token_ids.tolist()
        assert said.token_ids.tolist().count(IM_END) == 2


@pytest.mark.parametrize("jinja", ["{{ messages | tojson }}", None])
def test_template_that_a_base_wants_and_cannot_have_is_said_when_it_is_loaded(
    base: Path, jinja: str | None
) -> None:
    digest = "0" * 64
    if jinja is None:
        (base / "chat_template.jinja").unlink()
    else:
        (base / "chat_template.jinja").write_text(jinja)
        digest = ChatTemplate(jinja).digest
    (base / "embedding.json").write_text(json.dumps({"prompt": {"chat_template": digest}}))
    problem = "does more than to put turns" if jinja else "the checkpoint has no chat template"
    with pytest.raises(CheckpointError, match=problem):
        load_preprocessor(base)


def test_special_tokens_and_a_family_without_video() -> None:
    form = filled(GOOD)
    assert (form.system_turn, form.user_turn) == ("<system>{system}</s>", "<user>{content}</s>")
    assert (form.assistant_turn, form.brackets) == ("<assistant>", ("(", ")"))
    assert filled(GOOD.replace(VIDEO, ""), video="") == form


def test_another_template_than_the_form_names_is_refused() -> None:
    template = ChatTemplate(GOOD)
    with pytest.raises(CheckpointError, match=f"is another, of SHA-256 {template.digest}"):
        template.fill(PromptTemplate(chat_template="0" * 64), MEDIA)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{{ p.text }}", "{{ p.text | trim }}"),
        ("(<|image_pad|>)", "{{ loop.index }}(<|image_pad|>)"),
        ("(<|video_pad|>)", "<|video_pad|>"),
        ("(<|video_pad|>)", ""),
        ("(<|image_pad|>)", "(<|video_pad|>)"),
        ("{{ eos_token }}", "{{ '' if loop.last else eos_token }}"),
        ("{{ m.content }}", ""),
        ("{% if add", "{{ '' if add_generation_prompt else '.' }}{% if add"),
        ("{% for m in", "{{ '' if messages | length > 1 else '+' }}{% for m in"),
        ("<{{ m.role }}>", "<{content}>"),
    ],
)
def test_template_that_is_no_turns_around_any_content_is_refused(old: str, new: str) -> None:
    with pytest.raises(CheckpointError, match="does more than to put turns around any content"):
        filled(GOOD.replace(old, new, 1))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "is not safely callable|unsafe"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "unsafe"),
        ("{{ raise_exception('System role not supported') }}", "System role not supported"),
        ("{% for", "unexpected"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% for i in range(90000) %}{{ 'aaaaaaaa' }}{% endfor %}", "more than 65536 characters"),
        ("{{ 'a' * 2000000000 }}", "MiB|MemoryError"),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "more than 2 s or 512 MiB",
        ),
    ],
)
def test_hostile_template_is_refused_and_does_nothing(text: str, problem: str) -> None:
    with pytest.raises(CheckpointError, match=problem):
        filled(text)


def test_template_is_read_where_a_checkpoint_may_have_it(tmp_path: Path) -> None:
    assert ChatTemplate.read(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text(
        '{"chat_template": "one", "eos_token": {"content": "</s>"}, "bos_token": null}'
    )
    assert ChatTemplate.read(tmp_path) == ChatTemplate("one", {"eos_token": "</s>"})
    (tmp_path / "chat_template.json").write_text('{"chat_template": "two"}')
    assert ChatTemplate.read(tmp_path) == ChatTemplate("two", {"eos_token": "</s>"})
    (tmp_path / "chat_template.jinja").write_text("three")
    assert ChatTemplate.read(tmp_path) == ChatTemplate("three", {"eos_token": "</s>"})
    (tmp_path / "chat_template.jinja").write_text("x" * ((1 << 17) + 1))
    with pytest.raises(CheckpointError, match="over 131072 letters"):
        ChatTemplate.read(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match="cannot be read"):
        ChatTemplate.read(tmp_path)
