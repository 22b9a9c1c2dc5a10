"""Prompts to token ids, with callers' words as plain text."""

import functools
import itertools
import os
import re
import secrets
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from tokenizers import AddedToken, Tokenizer

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a text is too little to share out
KEPT_PIECES, KEPT_CHARACTERS = 256, 256
"""Pieces of prompts whose token ids are kept, and how long one may be: templates have the same ones
again and again."""
LONG_CHARACTERS = 2_048
"""Texts with more take milliseconds to encode."""


class Prompt(NamedTuple):
    """A whole prompt with its placeholders.

    ``encode`` gives the token ids of a piece of its ``text``, or of all of it. ``max_text_tokens``
    is how many tokens of text it may keep, for `cut_text`; None is all of them. ``words`` is the
    first and the last place of what may be left out of the text from its end, ``system`` how many
    of its characters are the turn of the system prompt. ``spell`` writes a control token as it
    stands in the text.
    """

    text: str
    encode: Callable[[str], list[int]]
    max_text_tokens: int | None = None
    words: tuple[int, int] = (0, 0)
    system: int = 0
    spell: Callable[[str], str] = str

    def with_words(self, change: Callable[[str], str]) -> "Prompt":
        """Puts ``change`` of its words into their place."""
        start, stop = self.words
        words = change(self.text[start:stop])
        text = self.text[:start] + words + self.text[stop:]
        return self._replace(text=text, words=(start, start + len(words)))


class PromptTokenizer:
    """Encodes prompts so that control tokens, such as ``<|im_end|>``, come only from those who may
    write them: an adapter's template, and the caller of a raw prompt.

    A second tokenizer of the same model knows each control token by a secret name alone, which
    `spell` writes into the template. What callers write as words is plain text to it, whatever it
    looks like, and text without control tokens has the same ids from both. Many threads may use it
    at once.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._raw = tokenizer
        self._plain = Tokenizer(tokenizer.model)  # which is shared, not copied
        self._plain.normalizer = tokenizer.normalizer
        self._plain.pre_tokenizer = tokenizer.pre_tokenizer
        self._plain.post_processor = tokenizer.post_processor
        secret = secrets.token_hex(16)
        # New tokens are numbered from the size of the vocabulary: past every id, if it has gaps.
        last = max(self._plain.get_vocab().values(), default=-1)
        gaps = range(self._plain.get_vocab_size(), last + 1)
        self._plain.add_tokens([f"{secret}gap{id}x" for id in gaps])
        control = tokenizer.get_added_tokens_decoder()
        self._names = {token.content: f"{secret}x{id}x" for id, token in control.items()}
        self._plain.add_tokens([_renamed(t, self._names[t.content]) for t in control.values()])
        plain = self._plain.get_vocab()
        self._ids = {plain[self._names[token.content]]: id for id, token in control.items()}
        longest_first = sorted(self._names, key=len, reverse=True)
        self.control = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        """Finds the control tokens in a raw prompt or a template."""
        apart = "|".join(self._names[t.content] for t in control.values() if self._stands_apart(t))
        self._apart = re.compile(f"({apart})" if apart else r"(?!)")
        self._kept = functools.lru_cache(KEPT_PIECES)(self._piece)
        added = reversed(tokenizer.encode("a").special_tokens_mask)
        self.tail = len(list(itertools.takewhile(bool, added)))
        """How many tokens the tokenizer appends to every text."""

    def spell(self, template: str) -> str:
        """Writes the control tokens in a part of a template so that `encode` knows them."""
        return self.control.sub(lambda found: self._names[found[0]], template)

    def encode(self, text: str) -> list[int]:
        """Gives the token ids of ``text``, in which only what was spelt is a control token."""
        pieces = self._apart.split(text)
        if len(pieces) == 1:
            return self._piece(text)
        ids: list[int] = []
        for piece in pieces:
            ids += self._kept(piece) if len(piece) <= KEPT_CHARACTERS else self._piece(piece)
        return ids

    def _piece(self, text: str) -> list[int]:
        ids = _encoded(self._plain, text)
        if self._ids.keys().isdisjoint(ids):
            return ids
        return [self._ids.get(id, id) for id in ids]

    def _stands_apart(self, token: AddedToken) -> bool:
        """Whether the text before a control token and that behind it have the ids that they have by
        themselves: not where the token takes blanks, nor where a text gets a first token."""
        if token.lstrip or token.rstrip or token.single_word or token.normalized:
            return False
        pieces = ("a", self._names[token.content], "b")
        return self._piece("".join(pieces)) == [id for one in pieces for id in self._piece(one)]

    def encode_raw(self, text: str) -> list[int]:
        """Gives the token ids of ``text`` as the model's own tokenizer does."""
        return _encoded(self._raw, text)

    def shortened(self, words: str, tokens: int, most: int | None) -> str:
        """Leaves out of ``words``, which have no control tokens, the last ``tokens`` of their first
        ``most``, and all that is behind: never half a character, so perhaps a little more. Without
        a token that stays it is nothing."""
        places = self._plain.encode_batch([words], add_special_tokens=False)[0].offsets
        kept = min(len(places), most or len(places)) - tokens
        return words[: places[kept][0]].rstrip() if kept > 0 else ""


def _encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    """The token ids of ``text``."""
    # A batch leaves the interpreter to other threads meanwhile. For a short text they would take it
    # longer than that takes; a long one would keep all of them waiting.
    is_long = len(text) > LONG_CHARACTERS
    encoded = tokenizer.encode_batch_fast([text])[0] if is_long else tokenizer.encode(text)
    ids: list[int] = encoded.ids
    return ids


def cut_text(token_ids: Sequence[int], most: int | None, media: Collection[int]) -> list[int]:
    """Leaves out the text behind its first ``most`` tokens; None leaves all in.

    The ids in ``media`` are no text: they stay, and do not count.
    """
    if most is None:
        return list(token_ids)
    kept: list[int] = []
    room = most
    for token in token_ids:
        if token in media:
            kept.append(token)
        elif room:
            kept.append(token)
            room -= 1
    return kept


def _renamed(token: AddedToken, name: str) -> AddedToken:
    return AddedToken(
        name,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=token.special,
    )
