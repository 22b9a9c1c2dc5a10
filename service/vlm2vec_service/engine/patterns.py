"""Regular expressions that a publisher wrote, tried where they can do no harm.

One that backtracks can run for years, and Python's ``re`` holds the interpreter meanwhile. So all
patterns of an adapter are tried at once in a process of their own (`pattern_child`), which has
limits of time and memory. What is no more than a name is compared here, which costs nothing.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlm2vec_registry.strict import shown
from vlm2vec_service.engine import pattern_child
from vlm2vec_service.errors import AdapterError

MOST = 4096
"""Patterns of one adapter; a model has fewer layers."""
WALL_SECONDS = 15.0
"""Time for all patterns on a machine so busy that the child's limit of CPU time is not reached."""
PLAIN = re.compile(r"[A-Za-z0-9_.]+")
"""Text whose only special characters are dots: it cannot backtrack."""


@dataclass(frozen=True)
class Pattern:
    """A regular expression in the setting ``field``, used as ``kind`` says
    (`pattern_child.KINDS`)."""

    field: str
    kind: str
    text: str

    @property
    def plain(self) -> bool:
        """Whether it needs no child: it can be answered in time that does not grow much."""
        return self.kind == "any layer" or (
            self.kind != "whole" and PLAIN.fullmatch(self.text) is not None
        )


def matches(patterns: Sequence[Pattern], names: Sequence[str]) -> list[dict[str, str]]:
    """Finds for each of ``patterns`` the ``names`` that it matches, in order.

    A name comes with the number of its layer, as the pattern finds it, or with an empty string.
    Raises `AdapterError` that names the pattern which is malformed, or exceeds the limits.
    """
    if len(patterns) > MOST:
        raise AdapterError(f"{patterns[-1].field}: more than {MOST} patterns")
    asked = [pattern for pattern in patterns if not pattern.plain]
    answers = iter(_ask(asked, names) if asked else [])
    ends = _ends(names)
    return [
        _plain(pattern, names, ends) if pattern.plain else next(answers) for pattern in patterns
    ]


def _plain(
    pattern: Pattern, names: Sequence[str], ends: Mapping[int, Mapping[str, Sequence[str]]]
) -> dict[str, str]:
    if pattern.kind == "end":
        # A dot stands for any character, so what is as long may match as well.
        fits = re.compile(pattern.text).fullmatch
        found = (same for end, same in ends.get(len(pattern.text), {}).items() if fits(end))
        return {name: "" for same in found for name in same}
    layers = pattern_child.matching(pattern.kind, pattern.text, names)
    return {names[index]: layer for index, layer in layers.items()}


def _ends(names: Sequence[str]) -> dict[int, dict[str, list[str]]]:
    """Sorts ``names`` by all that they have behind a dot, and that by its length."""
    ends: dict[int, dict[str, list[str]]] = {}
    for name in names:
        parts = name.split(".")
        for start in range(len(parts)):
            end = ".".join(parts[start:])
            ends.setdefault(len(end), {}).setdefault(end, []).append(name)
    return ends


def _ask(patterns: Sequence[Pattern], names: Sequence[str]) -> list[dict[str, str]]:
    """Lets a child process try ``patterns``, which ends with the first that exceeds its limits."""
    task = {"patterns": [(pattern.kind, pattern.text) for pattern in patterns], "names": names}
    try:
        output = subprocess.run(
            # -I and -S: nothing but the standard library, whatever the environment says.
            [sys.executable, "-I", "-S", str(Path(pattern_child.__file__))],
            input=json.dumps(task).encode(),
            stdout=subprocess.PIPE,
            check=False,
            stderr=subprocess.DEVNULL,
            timeout=WALL_SECONDS,
        ).stdout
    except subprocess.TimeoutExpired as expired:
        output = expired.output or b""
    except OSError as error:
        raise AdapterError(f"no process could be started to try its patterns: {error}") from error
    lines = output[: output.rfind(b"\n") + 1].splitlines()
    answers = []
    for pattern, line in zip(patterns, lines, strict=False):
        answer = json.loads(line)
        if isinstance(answer, str):
            problem = shown(answer)[1:-1]
            raise AdapterError(f"{pattern.field}: {shown(pattern.text)} is no pattern: {problem}")
        answers.append({names[int(index)]: layer for index, layer in answer.items()})
    if len(answers) < len(patterns):
        slow = patterns[len(answers)]
        raise AdapterError(
            f"{slow.field}: {shown(slow.text)} takes more than {pattern_child.CPU_SECONDS} s or "
            f"{pattern_child.MEMORY >> 20} MiB to match"
        )
    return answers
