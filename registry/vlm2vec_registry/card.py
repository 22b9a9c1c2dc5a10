"""What people read of a version on MLflow's page: a description in Markdown.

Its parts that programs write stand between comments, which no page shows, so that they can be
written again while what people wrote beside them stays.
"""

import re
from collections.abc import Iterable, Mapping

MOST_CHARACTERS = 5000
"""Of a description: what MLflow's databases have room for."""


def table(rows: Iterable[tuple[str, ...]]) -> str:
    """Writes ``rows``, the first of which are the headings, as a table in Markdown."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * lines[0].count(" | ") + "---|")
    return "\n".join(lines)


def facts(values: Mapping[str, str]) -> str:
    """Writes what is known of a version as a table of two columns, without what is empty."""
    return table([("", ""), *((key, value) for key, value in values.items() if value)])


TABLE = re.compile(
    r"(?:^#+ (?P<heading>.+)\n(?:(?!#|\|).*\n)*)?(?P<rows>(?:^\|.*\n?)+)", re.MULTILINE
)


def first_table(readme: str) -> str:
    """The first table of a model card, with the heading above it; empty where there is none."""
    found = TABLE.search(readme)
    if found is None:
        return ""
    heading = f"**{found['heading'].strip()}**\n\n" if found["heading"] else ""
    return heading + found["rows"].strip()


def with_part(description: str, name: str, text: str) -> str:
    """Returns ``description`` with ``text`` for the part ``name``, which is new or was there.

    A part that has no room in `MOST_CHARACTERS` is left out.
    """
    begin, end = f"<!-- vlm2vec: {name} -->", f"<!-- end of {name} -->"
    part = f"{begin}\n\n{text}\n\n{end}"
    before, found, rest = description.partition(begin)
    if found and end in rest:
        whole = before + part + rest.partition(end)[2]
    else:
        whole = f"{description}\n\n{part}".strip()
    return whole if len(whole) <= MOST_CHARACTERS else description
