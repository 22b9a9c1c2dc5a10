"""``prompt`` of ``embedding.json``: the form that a model's prompts have, as data."""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from vlm2vec_registry.strict import Fields, is_text

SYSTEM, CONTENT = "{system}", "{content}"
"""Where the system prompt and the caller's content stand in the turns of a form."""
KIND = "{kind}"
"""Where the kind of an input stands in the closing words of a form."""
KINDS = ("image", "video", "text")
"""What an input is made of, in the order of prompts without another."""
AUDIO = "audio"
"""The kind that an ``order`` may have as well; without it audios are behind the other media."""
GIVEN = ("given",)
"""The ``order`` that leaves the parts of an input as the caller wrote them."""
INSTRUCTIONS = ("text", "system")
"""Where the instruction goes: before the text, or in the place of the system prompt."""
TURNS = ("system_turn", "user_turn", "assistant_turn", "brackets", "audio_brackets")
"""The keys for which a checkpoint's own template stands."""
SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class PromptTemplate:
    """How placeholders, instruction and text become one prompt.

    The content is made of placeholders, with ``between_media`` between two of them, and of words:
    the instruction and the texts, with ``separator`` and ``text_separator`` between them.
    ``media_separator`` stands between placeholders and words. A part that is absent takes its
    separator along. ``brackets`` stand around each placeholder, ``audio_brackets`` around that of
    an audio. ``order`` has the kinds of parts in the order that they get, or is `GIVEN`, which
    keeps the caller's and puts nothing between parts. ``closing`` ends the content, with the kind
    of its media, or ``text``, at ``{kind}``.
    ``empty`` is the content of an input that has none; None refuses it. In a text whatever
    ``blanked`` lists becomes a space, and with ``collapse`` all white space at a place one space,
    at the ends none; words that are empty then, or absent, become a space. Control tokens in words
    are plain text, unless ``control_tokens`` has them read as such.

    The prompt is ``system_turn`` around the system prompt, where there is one; ``user_turn`` around
    the content; with ``generation_prompt`` the ``assistant_turn``; and ``suffix``. Where
    ``chat_template`` is the SHA-256 of the checkpoint's own template, in hexadecimal digits, that
    stands for turns and brackets. ``system`` is the system prompt; with an ``instruction`` of
    ``system`` it is the default of one, which gets a full stop, with ``full_stop``, where it ends
    in no punctuation.
    """

    media_separator: str = " "
    separator: str = " "
    suffix: str = ""
    between_media: str = " "
    text_separator: str = " "
    brackets: tuple[str, str] = ("", "")
    audio_brackets: tuple[str, str] = ("", "")
    order: tuple[str, ...] = KINDS
    closing: str = ""
    empty: str | None = None
    blanked: tuple[str, ...] = ()
    collapse: bool = False
    control_tokens: bool = False
    system: str = ""
    instruction: str = INSTRUCTIONS[0]
    full_stop: bool = False
    system_turn: str = ""
    user_turn: str = CONTENT
    assistant_turn: str = ""
    generation_prompt: bool = False
    chat_template: str = ""

    @classmethod
    def read(cls, given: Fields | None) -> "PromptTemplate":
        """Takes the template from the fields of ``prompt``. Raises `FormatError`."""
        if given is None:
            return cls()
        values: dict[str, Any] = {}
        for key in fields(cls):
            if key.name in _TAKEN:
                values[key.name] = _TAKEN[key.name](given)
            elif isinstance(key.default, bool):
                values[key.name] = given.flag(key.name, key.default)
            else:
                values[key.name] = given.text(key.name, key.default)
        given.done()
        template = cls(**values)
        template._check(given)
        return template

    def to_dict(self) -> dict[str, Any]:
        """The values of ``prompt``: the three keys that were there first, and those of the others
        that say something."""
        values = {key.name: (getattr(self, key.name), key.default) for key in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, (value, default) in values.items()
            if name in ("media_separator", "separator", "suffix") or value != default
        }

    def _check(self, given: Fields) -> None:
        """Refuses turns that would leave out the content, or that the checkpoint's template has."""
        if self.chat_template:
            if not SHA256.fullmatch(self.chat_template):
                given.fail("chat_template", "64 hexadecimal digits", self.chat_template)
            for key in TURNS:
                if getattr(self, key) != getattr(PromptTemplate, key):
                    given.fail(key, "none beside chat_template", getattr(self, key))
        if self.user_turn.count(CONTENT) != 1:
            given.fail("user_turn", f"{CONTENT} once in it", self.user_turn)
        if self.system_turn and self.system_turn.count(SYSTEM) != 1:
            given.fail("system_turn", f"{SYSTEM} once in it", self.system_turn)
        takes_system = self.chat_template or self.system_turn
        if not takes_system and (self.system or self.instruction == "system"):
            key = "system" if self.system else "instruction"
            given.fail(key, "a system_turn or chat_template with it", getattr(self, key))
        if self.generation_prompt and not (self.chat_template or self.assistant_turn):
            given.fail("generation_prompt", "an assistant_turn or chat_template with it", True)


def _brackets(given: Fields, key: str) -> tuple[str, str]:
    found = given.list_of(key, is_text, "two strings")
    if found is None:
        return "", ""
    if len(found) != 2:
        given.fail(key, "a list of two strings", found)
    return found[0], found[1]


def _order(given: Fields) -> tuple[str, ...]:
    found = given.list_of("order", is_text, f"the kinds {', '.join(KINDS)}")
    order = KINDS if found is None else tuple(found)
    media = [kind for kind in order if kind != "text"]
    is_whole = sorted(order) in (sorted(KINDS), sorted((*KINDS, AUDIO)))
    if order != GIVEN and not (is_whole and "text" in (order[0], order[-1])):
        kinds = ", ".join((*KINDS, AUDIO))
        given.fail("order", f'each of {kinds} once, media together; or ["given"]', found)
    if media[-1:] == [AUDIO]:  # where it is without being said: both are one order, and one space
        return tuple(kind for kind in order if kind != AUDIO)
    return order


_TAKEN: dict[str, Callable[[Fields], Any]] = {
    "brackets": lambda given: _brackets(given, "brackets"),
    "audio_brackets": lambda given: _brackets(given, "audio_brackets"),
    "order": _order,
    "empty": lambda given: given.text("empty", None),
    "blanked": lambda given: tuple(given.list_of("blanked", is_text, "strings") or ()),
    "instruction": lambda given: given.choice("instruction", INSTRUCTIONS[0], INSTRUCTIONS),
}
