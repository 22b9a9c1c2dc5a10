"""The process that tries regular expressions from an adapter, so that none can hold up a worker.

It reads one JSON object from its standard input, ``patterns`` (pairs of a kind and a text) and
``names``, and writes a line of JSON for each pattern as soon as it is done: the matching names by
index, each with the layer's number or an empty string, or the words of the error. It needs no
package.
"""

import json
import re
import resource
import sys
from collections.abc import Sequence

KINDS = {
    "whole": "{}",
    "end": r"(.*\.)?({})$",
    "layer": r"(?:^|.*?\.){}\.(?P<idx>\d+)\.",
    "any layer": r".*?\.[^.]*\.(?P<idx>\d+)\.",
}
"""How PEFT uses a pattern. ``whole`` has to match the whole name, ``end`` its last parts; the layer
kinds find the first number behind a part that matches."""

CPU_SECONDS = 2
MEMORY = 1 << 30


def matching(kind: str, text: str, names: Sequence[str]) -> dict[int, str]:
    """Finds the ``names`` that the pattern matches, by index, each with the layer's number (for
    the layer kinds) or an empty string. Raises what the module ``re`` does."""
    expression = re.compile(KINDS[kind].format(text))
    match = expression.fullmatch if kind == "whole" else expression.match
    found = ((index, match(name)) for index, name in enumerate(names))
    return {i: m["idx"] if "layer" in kind else "" for i, m in found if m}


def limit(what: int, most: int) -> None:
    """Lowers a limit of this process to ``most``, or leaves it if it is lower."""
    hard = resource.getrlimit(what)[1]
    if hard == resource.RLIM_INFINITY or hard > most:
        resource.setrlimit(what, (most, most))


def main() -> None:
    """Answers the one question on the standard input."""
    limit(resource.RLIMIT_CPU, CPU_SECONDS)
    limit(resource.RLIMIT_AS, MEMORY)
    task = json.load(sys.stdin)
    for kind, text in task["patterns"]:
        try:
            answer: object = matching(kind, text, task["names"])
        except (re.error, ValueError, OverflowError, RecursionError, MemoryError) as error:
            answer = str(error) or type(error).__name__
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
