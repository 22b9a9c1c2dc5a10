"""A checkpoint's own chat template, taken apart into the turns and brackets of a form.

It is rendered a few times when it is first needed, of words that nobody writes, and never sees what
callers write. A template whose prompts are not the same turns around any content is refused.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlm2vec_registry.prompt_template import CONTENT, SYSTEM, PromptTemplate
from vlm2vec_service.errors import CheckpointError
from vlm2vec_service.preprocess import chat_template_child

COMMAND = [sys.executable, "-I", str(Path(chat_template_child.__file__))]
"""-I: nothing but what is installed, whatever the environment says."""
WALL_SECONDS = 30.0
MOST_CHARACTERS = 1 << 17
"""Of a template."""
SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
FIRST, SECOND, ABOUT = " first words\n", " second words\n", "words of the system"
"""Texts that a template has to leave as they are, blanks included."""


@dataclass(frozen=True)
class ChatTemplate:
    """The text of a template, with the special ``tokens`` that it may name."""

    text: str
    tokens: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of the text, in hexadecimal digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @classmethod
    def read(cls, base: Path) -> "ChatTemplate | None":
        """Reads that of the checkpoint ``base``: ``chat_template.jinja``, ``chat_template.json`` or
        in ``tokenizer_config.json``. None where there is none. Raises `CheckpointError`."""
        try:
            known = _object(base / "tokenizer_config.json")
            jinja = base / "chat_template.jinja"
            text: Any = jinja.read_text() if jinja.exists() else None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{base}: its chat template cannot be read: {error}") from error
        if text is None:
            text = _object(base / "chat_template.json").get("chat_template")
        text = known.get("chat_template") if text is None else text
        if not isinstance(text, str):  # several by name are none that could be meant
            return None
        if len(text) > MOST_CHARACTERS:
            raise CheckpointError(f"{base}: its chat template has over {MOST_CHARACTERS} letters")
        tokens = {name: _token(known.get(name)) for name in SPECIAL}
        return cls(text, {name: token for name, token in tokens.items() if token is not None})

    def fill(self, form: PromptTemplate, placeholders: Mapping[str, str]) -> PromptTemplate:
        """Returns ``form`` with the template's turns and brackets. ``placeholders`` are those that
        it writes for the kinds of media that the family takes, ``image`` among them.

        Raises `CheckpointError` for a template that is another than the form names, or that cannot
        be taken apart.
        """
        if form.chat_template != self.digest:
            raise CheckpointError(
                f"prompt.chat_template: the checkpoint's is another, of SHA-256 {self.digest}"
            )
        alone, both, begun, without, *shown = self._render(placeholders)
        start, _, end = both.partition(FIRST)
        before, _, behind = alone.partition(ABOUT)
        user = start.removeprefix(alone)
        brackets = {
            kind: _brackets(one.removeprefix(start).partition(FIRST)[0], placeholders[kind])
            for kind, one in zip(placeholders, shown, strict=True)
        }
        audio = brackets.get("audio", ("", ""))
        system = _between(before, without.removesuffix(f"{user}{FIRST}{end}"), behind)
        seen = [alone, both, begun, without, *shown]
        assistant = begun.removeprefix(both)
        turns = f"{before}{ABOUT}{behind}{user}"
        said = [
            f"{before}{ABOUT}{behind}",
            f"{turns}{FIRST}{end}",
            f"{turns}{FIRST}{end}{assistant}",
            f"{f'{before}{system}{behind}' if system else ''}{user}{FIRST}{end}",
        ]
        for kind, placeholder in placeholders.items():
            marked = _marked(audio if kind == "audio" else brackets["image"], placeholder)
            said.append(f"{turns}{marked * 2}{FIRST}{SECOND}{end}")
        if seen != said or CONTENT in turns + end:
            raise CheckpointError(
                "prompt.chat_template: the checkpoint's does more than to put turns around any "
                "content; say the form by its turns"
            )
        return replace(
            form,
            chat_template="",
            system=form.system or system,
            system_turn=f"{before}{SYSTEM}{behind}",
            user_turn=f"{user}{CONTENT}{end}",
            assistant_turn=assistant,
            brackets=brackets["image"],
            audio_brackets=audio,
        )

    def _render(self, kinds: Iterable[str]) -> list[str]:
        """Renders the chats that show what the template does, the last ones with two media of each
        of ``kinds``."""
        first, second = ({"type": "text", "text": text} for text in (FIRST, SECOND))
        about = {"role": "system", "content": ABOUT}

        def user(*parts: dict[str, str]) -> dict[str, Any]:
            return {"role": "user", "content": list(parts)}

        chats = [
            ([about], False),
            ([about, user(first)], False),
            ([about, user(first)], True),
            ([user(first)], False),
            *(([about, user({"type": kind}, {"type": kind}, first, second)], False)
              for kind in kinds),
        ]  # fmt: skip
        task = {"template": self.text, "tokens": dict(self.tokens), "chats": chats}
        try:
            answer = subprocess.run(
                COMMAND, input=json.dumps(task).encode(), capture_output=True, check=False,
                timeout=WALL_SECONDS,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CheckpointError(f"the chat template could not be rendered: {error}") from error
        if answer.returncode:
            problem = answer.stderr.decode(errors="replace").strip() or (
                f"it takes more than {chat_template_child.CPU_SECONDS} s or "
                f"{chat_template_child.MEMORY >> 20} MiB"
            )
            raise CheckpointError(f"the chat template could not be rendered: {problem[-200:]}")
        prompts: list[str] = json.loads(answer.stdout)
        return prompts


def _brackets(two: str, placeholder: str) -> tuple[str, str]:
    """What stands before and behind the placeholder of each of two media."""
    start, _, end = two[: len(two) // 2].partition(placeholder)
    return start, end


def _marked(brackets: tuple[str, str], placeholder: str) -> str:
    return f"{brackets[0]}{placeholder}{brackets[1]}"


def _between(start: str, turn: str, end: str) -> str:
    """The system prompt in a turn that the template writes by itself; empty where it is none."""
    return turn.removeprefix(start).removesuffix(end) if turn.startswith(start) else ""


def _object(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    values = json.loads(path.read_text())
    return values if isinstance(values, dict) else {}


def _token(value: Any) -> str | None:
    """A special token as ``tokenizer_config.json`` has it: a string, or an object around one."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None
