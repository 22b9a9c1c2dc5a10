"""The process that renders a checkpoint's chat template, for `chat_template`.

It reads one JSON object from its standard input: ``template``, ``tokens`` (the special tokens that
templates may name) and ``chats``, pairs of the messages and whether the assistant's turn is begun.
It writes the list of what they became, or the words of the error to its standard error. A template
is a program: it runs in jinja's sandbox, and here so that the limits of a process are its own.
"""

import contextlib
import json
import resource
import sys
from typing import Any, NoReturn

from jinja2.exceptions import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_SECONDS = 2
MEMORY = 512 << 20
MOST_CHARACTERS = 1 << 16
"""Of one prompt."""


def refuse(problem: str) -> NoReturn:
    """Is ``raise_exception`` to a template."""
    raise TemplateError(problem)


def main() -> None:
    """Renders what the standard input asks for."""
    for what, most in ((resource.RLIMIT_CPU, CPU_SECONDS), (resource.RLIMIT_AS, MEMORY)):
        with contextlib.suppress(OSError, ValueError):  # a lower limit stays; macOS has not both
            resource.setrlimit(what, (most, most))
    task = json.load(sys.stdin)
    try:
        print(json.dumps(rendered(task["template"], task["tokens"], task["chats"])))
    except Exception as error:  # noqa: BLE001 (a template may raise anything)
        sys.exit(str(error)[:200] or type(error).__name__)


def rendered(template: str, tokens: dict[str, str], chats: list[tuple[Any, bool]]) -> list[str]:
    """Renders each of ``chats`` as transformers would. Raises what the template does."""
    # The options are transformers' own.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = refuse
    compiled = environment.from_string(template)
    prompts = []
    for messages, begun in chats:
        prompt = ""
        for piece in compiled.generate(messages=messages, add_generation_prompt=begun, **tokens):
            prompt += piece
            if len(prompt) > MOST_CHARACTERS:
                raise TemplateError(f"more than {MOST_CHARACTERS} characters")
        prompts.append(prompt)
    return prompts


if __name__ == "__main__":
    main()
