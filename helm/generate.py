"""Writes what the chart takes from elsewhere.

That is the table of values in its README, from the comments of ``values.yaml``, and the schema of
``settings``, from the options of ``vlm2vec serve``.

With ``--check`` it writes nothing, and fails where something would change.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from vlm2vec_cli.serve import serve

CHART = Path(__file__).parent / "vlm2vec-serve"
BY_CHART = {
    "adapter", "alias", "allow-anonymous", "callers", "cache-dir", "config", "device",
    "drain-seconds", "http-listen", "listen", "metrics-listen", "model", "poll-seconds",
    "print-config", "registry", "tls-certificate", "tls-client-ca", "tls-key",
    "webhook-secret-file", "worker",
}  # fmt: skip
"""Options that the chart sets from values of its own."""
TYPES = {
    "integer range": "integer", "float range": "number", "boolean": "boolean", "text": "string",
    "choice": "string",
}  # fmt: skip
BEGIN, END = "<!-- values -->\n", "<!-- end of values -->\n"


def settings_schema() -> dict[str, Any]:
    """The schema of `settings`: each option that the chart does not set itself, in the order of
    the command's help."""
    properties = {}
    for option in serve.params:
        name = (option.name or "").replace("_", "-")
        if name not in BY_CHART:
            allowed = {
                "minimum": getattr(option.type, "min", None),
                "maximum": getattr(option.type, "max", None),
                "enum": _choices(option.type),
            }
            properties[name] = {
                "type": TYPES[option.type.name],
                **{key: value for key, value in allowed.items() if value is not None},
                "description": getattr(option, "help", ""),
            }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _choices(kind: Any) -> list[str] | None:
    """What an option takes, as it is listed and in small letters where the case does not matter."""
    choices = list(getattr(kind, "choices", ()))
    if not getattr(kind, "case_sensitive", True):
        choices += [choice.lower() for choice in choices if choice.lower() not in choices]
    return choices or None


def documented(text: str) -> Iterator[tuple[str, str, Any]]:
    """Path, comment and default of each value in the YAML ``text``, in order.

    A mapping none of whose keys has a comment is one value. Raises ValueError for one without.
    """
    lines = text.splitlines()

    def comment(line: int) -> str:
        found: list[str] = []
        while line > 0 and lines[line - 1].lstrip().startswith("#"):
            line -= 1
            found.insert(0, lines[line].lstrip(" #"))
        return " ".join(found)

    def walk(node: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, str, Any]]:
        for key, value in node.value:
            path, words = prefix + key.value, comment(key.start_mark.line)
            if isinstance(value, yaml.MappingNode) and any(
                comment(inner.start_mark.line) for inner, _ in value.value
                if inner.start_mark.line > key.start_mark.line
            ):  # fmt: skip
                yield from walk(value, path + ".")
            elif words:
                yield path, words, yaml.safe_load(yaml.serialize(value))
            else:
                raise ValueError(f"values.yaml: {path} has no comment")

    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    return walk(root, "")


def table(text: str) -> str:
    """The values as a Markdown table."""
    rows = ["| value | default | meaning |", "|---|---|---|"]
    for path, words, default in documented(text):
        shown = json.dumps(default, ensure_ascii=False).replace("|", "\\|")
        rows.append(f"| `{path}` | `{shown}` | {words.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def outputs() -> dict[Path, str]:
    """The files as they should be."""
    readme, schema = CHART / "README.md", CHART / "values.schema.json"
    text = readme.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    values = json.loads(schema.read_text())
    values["properties"]["settings"] = settings_schema()
    documented_values = table((CHART / "values.yaml").read_text())
    return {
        readme: before + BEGIN + "\n" + documented_values + "\n" + END + after,
        schema: json.dumps(values, indent=2, ensure_ascii=False) + "\n",
    }  # fmt: skip


def main() -> None:
    """Writes the files, or checks them."""
    stale = {path: text for path, text in outputs().items() if path.read_text() != text}
    if "--check" in sys.argv[1:]:
        sys.exit(f"run `make chart`: {', '.join(map(str, stale))} is not current" if stale else 0)
    for path, text in stale.items():
        path.write_text(text)
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
