"""What holds many inputs: lists and generators, and the tables of pandas, polars and pyarrow."""

import operator
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Protocol, TypeAlias

from vlm2vec.inputs import KEYS, Input, InputLike, is_series
from vlm2vec.media import is_pixels
from vlm2vec.stream_items import Item

ROWS = 64
"""How many rows of an Arrow table are made Python objects at a time."""


class Table(Protocol):
    """A table of pandas, polars or pyarrow, by what they have in common."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Exports the table to other libraries."""


Inputs: TypeAlias = Iterable[InputLike] | Table
"""Any number of inputs, one after the other or as the rows of a table."""
Items: TypeAlias = Iterable[Item] | Table
"""The same for a stream, where each may have an id."""


def each(inputs: Any) -> Iterator[Any]:
    """Yields what ``inputs`` holds; of a table, a dict for each row.

    Raises TypeError at once for what is one input, and for what has no order to answer in.
    """
    if is_one(inputs):
        hint = ": give its items()" if isinstance(inputs, Mapping) else ": put it in a list"
        raise TypeError(f"expected inputs, got one {type(inputs).__name__}{hint}")
    if isinstance(inputs, AbstractSet):
        raise TypeError(f"a {type(inputs).__name__} has no order for the vectors: give a list")
    if hasattr(inputs, "iter_rows"):  # polars
        return iter(inputs.iter_rows(named=True))
    if hasattr(inputs, "to_pydict"):  # pyarrow
        return _arrow_rows(inputs)
    if hasattr(inputs, "itertuples"):  # pandas
        columns = [str(name) for name in inputs.columns]
        tuples = inputs.itertuples(index=False, name=None)
        return (dict(zip(columns, row, strict=True)) for row in tuples)
    return iter(inputs)


def is_one(inputs: Any) -> bool:
    """Tells whether ``inputs`` is one input, or at least not several."""
    if isinstance(inputs, Input | str | bytes | bytearray | Mapping) or is_pixels(inputs):
        return True
    if is_series(inputs) and len(inputs):
        return set(KEYS).issuperset(inputs.keys())
    # A table of pyarrow is not iterable.
    return not isinstance(inputs, Iterable) and not hasattr(inputs, "__arrow_c_stream__")


def length(inputs: object) -> int | None:
    """Returns how many inputs there are, where that can be known without counting."""
    return operator.length_hint(inputs) or None


def _arrow_rows(table: Any) -> Iterator[Mapping[str, Any]]:
    """Yields the rows of a table or a record batch of pyarrow."""
    for start in range(0, len(table), ROWS):
        yield from table.slice(start, ROWS).to_pylist()
