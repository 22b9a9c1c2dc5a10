"""What a call asks for beside its inputs."""

from typing import Literal, TypeAlias, TypedDict

from vlm2vec.v1 import embedding_pb2 as pb

Priority: TypeAlias = Literal["interactive", "bulk"]
Dtype: TypeAlias = Literal["float32", "float16", "int8", "binary"]

PRIORITIES: dict[str, pb.Priority.ValueType] = {
    "interactive": pb.PRIORITY_INTERACTIVE,
    "bulk": pb.PRIORITY_BULK,
}
DTYPES: dict[str, pb.Dtype.ValueType] = {
    "float32": pb.DTYPE_FLOAT32,
    "float16": pb.DTYPE_FLOAT16,
    "int8": pb.DTYPE_INT8,
    "binary": pb.DTYPE_BINARY,
}


class Options(TypedDict, total=False):
    """The keywords that embed, stream and rank share; at most one of alias, version and space."""

    model: str
    """The model's name; needed where the server has more than one."""
    alias: str | None
    """A movable name for a version, such as "canary"; the default is "champion"."""
    version: str | None
    """One version."""
    space: str | None
    """The vector space an index was built in: vectors come from it, or the call fails."""
    routing_key: str
    """Calls with the same key get the same version while a canary takes a share."""
    priority: Priority
    """"interactive" where somebody waits, "bulk" where nobody does."""
    dimensions: int
    """Keep the first so many components and normalise again; 0 keeps all."""
    normalize: bool | None
    """L2-normalise; None means as the model's adapter says, which is usually yes."""
    dtype: Dtype
    """How vectors travel; they arrive as float32 arrays all the same."""


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
) -> pb.CallOptions:
    """The message for `Options`; raises ValueError for what contradicts itself or is unknown."""
    if sum(selector is not None for selector in (alias, version, space)) > 1:
        raise ValueError("give at most one of alias, version and space")
    if priority not in PRIORITIES:
        raise ValueError(f"priority is {priority!r}, not one of {', '.join(PRIORITIES)}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}, not one of {', '.join(DTYPES)}")
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
    return pb.CallOptions(
        model=reference, output=output, priority=PRIORITIES[priority], routing_key=routing_key
    )
