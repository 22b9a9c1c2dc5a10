"""What a section measured, a row at a time, and the table of all of them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

SECTIONS = {"kernels": 40, "parity": 110, "engine": 240, "training": 60, "startup": 90}
"""The sections in their order, and the seconds that each may take."""


@dataclass(frozen=True)
class Options:
    """What a section is to measure.

    ``size`` is one of `benchmarks.models.SIZES`, or empty for the real ones. ``output`` is the
    folder for what does not fit into a row.
    """

    device: str = "cuda"
    size: str = ""
    output: str = "."

    @property
    def dtype(self) -> str:
        """Names the arithmetic: bfloat16, or float32 on a CPU, of which many only emulate it."""
        return "float32" if self.device == "cpu" else "bfloat16"


@dataclass(frozen=True)
class Row:
    """One measurement: ``value`` in ``unit``, and in ``note`` what it compares to.

    ``ok`` says whether it is as it has to be; None is a number that nothing has to reach.
    """

    section: str
    name: str
    value: float
    unit: str
    note: str = ""
    ok: bool | None = None

    def to_json(self) -> str:
        """Writes the row as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "Row":
        """Reads what `to_json` wrote."""
        return cls(**json.loads(line))


def table(rows: Sequence[Row]) -> str:
    """Lays out ``rows`` as a table, with a mark at each that is not as it has to be."""
    lines = []
    name = max([len(row.name) for row in rows], default=0)
    for row in rows:
        mark = {True: "ok", False: "FAILED", None: ""}[row.ok]
        lines.append(
            f"{row.section:9} {row.name:{name}} {row.value:12.5g} {row.unit:10} {mark:7}{row.note}"
        )
    return "\n".join(line.rstrip() for line in lines)
