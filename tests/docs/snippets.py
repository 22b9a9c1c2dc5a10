"""The fenced snippets of the docs, and what the shell's say without being run."""

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from tests.unit.test_docs import DOCS, ROOT
from vlm2vec.command.main import main as client
from vlm2vec_cli.main import vlm2vec

FENCE = re.compile(r"(?m)^(?:<!-- (.+?) -->\n)?```(\w*)\n((?s:.*?))^```$")
"""A note, which may stand before the fence; the language; the text."""
ENDS = {"|", "||", "&", "&&", ";", ">", ">>"}
"""Words of a shell's line behind which a command has ended."""


@dataclass(frozen=True)
class Snippet:
    """A fenced snippet. ``note`` is the comment before its fence, if there is one."""

    path: Path
    line: int
    language: str
    note: str
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def snippets(path: Path) -> list[Snippet]:
    """All snippets of a page, in order."""
    text = path.read_text()
    return [
        Snippet(path, text.count("\n", 0, found.start()) + 1, found[2], found[1] or "", found[3])
        for found in FENCE.finditer(text)
    ]


EVERY = [snippet for path in DOCS for snippet in snippets(path)]


def commands(text: str) -> Iterator[list[str]]:
    """The commands of ours in a shell's text, word by word: first ``vlm2vec`` or its client's."""
    for line in text.replace("\\\n", " ").splitlines():
        if "vlm2vec" not in line:
            continue
        words = shlex.split(line, comments=True)
        for start, word in enumerate(words):
            program = Path(word).name.replace("vlm2vec_cli", "vlm2vec")
            if program in ("vlm2vec", "vlm2vec-client"):
                rest = words[start + 1 :]
                end = next((at for at, word in enumerate(rest) if word in ENDS), len(rest))
                yield [program, *rest[:end]]


def unknown_flags(command: list[str]) -> list[str]:
    """The flags of a command of ours that it does not have."""
    flags = [word.partition("=")[0] for word in command if word.startswith("--")]
    known = _client_flags(command[1]) if command[0] == "vlm2vec-client" else _flags(command[1:])
    return [flag for flag in flags if flag not in known]


def _flags(words: list[str]) -> set[str]:
    found: click.Command = vlm2vec
    while isinstance(found, click.Group) and words and not words[0].startswith("--"):
        name, *words = words
        known = found.commands.get(name)
        assert known, f"vlm2vec has no command {name}"
        found = known
    return {"--help", "--version"}.union(
        *(item.opts + item.secondary_opts for item in found.params)
    )


def _client_flags(name: str) -> set[str]:
    written = io.StringIO()
    with contextlib.redirect_stdout(written), contextlib.suppress(SystemExit):
        client([name, "--help"])
    return set(re.findall(r"--[a-z][a-z-]*", written.getvalue()))
