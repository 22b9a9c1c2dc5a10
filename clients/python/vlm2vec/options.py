"""The options of a call: which model answers, how urgently, and what its vectors are like."""

from typing import Literal, TypeAlias, TypedDict

from vlm2vec.v1 import embedding_pb2 as pb

Priority: TypeAlias = Literal["interactive", "bulk"]
"""How urgent a call is: "interactive" goes first."""
Dtype: TypeAlias = Literal["float32", "float16", "int8", "binary"]
"""The number format in which vectors travel."""

PRIORITIES: dict[str, pb.Priority.ValueType] = {
    "interactive": pb.PRIORITY_INTERACTIVE,
    "bulk": pb.PRIORITY_BULK,
}
"""The priorities by name."""
DTYPES: dict[str, pb.Dtype.ValueType] = {
    "float32": pb.DTYPE_FLOAT32,
    "float16": pb.DTYPE_FLOAT16,
    "int8": pb.DTYPE_INT8,
    "binary": pb.DTYPE_BINARY,
}
"""The number formats by name."""


class Options(TypedDict, total=False):
    """The keyword arguments that embed, stream and rank share.

    At most one of ``alias``, ``version`` and ``space`` may be given.
    """

    model: str
    """The model's name; needed where the server has more than one. ``NAME@WHICH`` also says which
    version: WHICH is an alias, a version or a space, in this order."""
    alias: str | None
    """A movable name for a version, such as "canary"; the default is "champion"."""
    version: str | None
    """The name of one version, which then answers whatever the aliases mean."""
    space: str | None
    """The vector space an index was built in: vectors are of this space, or the call fails."""
    routing_key: str
    """Calls with the same key get the same version while a canary takes a share of the traffic."""
    priority: Priority
    """"interactive" where somebody waits, "bulk" where nobody does."""
    dimensions: int
    """How many of the first components to keep, then normalised again; 0 keeps all."""
    normalize: bool | None
    """Whether to L2-normalise; None means as the model's adapter says, which is usually yes."""
    dtype: Dtype
    """The number format in which vectors travel; they arrive as float32 arrays all the same."""
    truncate: bool | int
    """How many tokens an input may have before the end of its text is left out; True is as many as
    the server takes. Without it, too long an input is an error."""


def call_options(
    *,
    model: str = "",
    alias: str | None = None,
    version: str | None = None,
    space: str | None = None,
    routing_key: str = "",
    priority: str = "interactive",
    dimensions: int = 0,
    normalize: bool | None = None,
    dtype: str = "float32",
    truncate: bool | int = False,
) -> pb.CallOptions:
    """Returns the message for `Options`.

    Raises TypeError for a name that is no string. Raises ValueError for more than one of ``alias``,
    ``version`` and ``space``, for a priority or dtype that is unknown, and for negative numbers.
    """
    selectors = {"alias": alias, "version": version, "space": space}
    for name, value in {"model": model, "routing_key": routing_key, **selectors}.items():
        if not isinstance(value, str) and (value is not None or name not in selectors):
            raise TypeError(f"{name} is {type(value).__name__}, not str: write {name}='{value}'")
    if sum(value is not None for value in selectors.values()) + ("@" in model) > 1:
        raise ValueError("give at most one of alias, version and space, or a model NAME@WHICH")
    if priority not in PRIORITIES:
        raise ValueError(f"priority is {priority!r}, not one of {', '.join(PRIORITIES)}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}, not one of {', '.join(DTYPES)}")
    if not isinstance(truncate, int) or truncate < 0:
        raise ValueError(f"truncate is {truncate!r}, neither True nor a number of tokens")
    if not isinstance(dimensions, int) or dimensions < 0:
        raise ValueError(f"dimensions is {dimensions!r}, not a whole number from 0")
    reference = pb.ModelRef(name=model)
    if alias is not None:
        reference.alias = alias
    elif version is not None:
        reference.version = version
    elif space is not None:
        reference.space = space
    output = pb.OutputOptions(dimensions=dimensions, dtype=DTYPES[dtype])
    if normalize is not None:
        output.normalize = normalize
    options = pb.CallOptions(
        model=reference, output=output, priority=PRIORITIES[priority], routing_key=routing_key
    )
    if truncate:
        options.truncate = 0 if truncate is True else truncate
    return options


def in_space(space: str, options: Options) -> Options:
    """Returns ``options`` that ask for vectors of ``space``, in which the first request of a call
    was answered, unless they name a version: so a promotion in its middle does not end the call."""
    if "@" in options.get("model", "") or options.get("version") or options.get("space"):
        return options
    return {**options, "alias": None, "space": space or None}
