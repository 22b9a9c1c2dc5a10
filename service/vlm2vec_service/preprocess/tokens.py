"""Prompts to token ids, with callers' words as plain text."""

import itertools
import re
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from tokenizers import AddedToken, Tokenizer


@dataclass(frozen=True)
class Prompt:
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
        return replace(self, text=text, words=(start, start + len(words)))


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
        added = reversed(tokenizer.encode("a").special_tokens_mask)
        self.tail = len(list(itertools.takewhile(bool, added)))
        """How many tokens the tokenizer appends to every text."""

    def spell(self, template: str) -> str:
        """Writes the control tokens in a part of a template so that `encode` knows them."""
        return self.control.sub(lambda found: self._names[found[0]], template)

    def encode(self, text: str) -> list[int]:
        """Gives the token ids of ``text``, in which only what was spelt is a control token."""
        return [self._ids.get(id, id) for id in self._plain.encode(text).ids]

    def encode_raw(self, text: str) -> list[int]:
        """Gives the token ids of ``text`` as the model's own tokenizer does."""
        ids: list[int] = self._raw.encode(text).ids
        return ids

    def shortened(self, words: str, tokens: int, most: int | None) -> str:
        """Leaves out of ``words``, which have no control tokens, the last ``tokens`` of their first
        ``most``, and all that is behind: never half a character, so perhaps a little more. Without
        a token that stays it is nothing."""
        places = self._plain.encode(words, add_special_tokens=False).offsets
        kept = min(len(places), most or len(places)) - tokens
        return words[: places[kept][0]].rstrip() if kept > 0 else ""


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
