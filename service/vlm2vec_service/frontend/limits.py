"""What a call's options may be, and how many inputs it may have."""

from collections.abc import Sequence

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import InvalidInputError

MAX_ID_BYTES = 256
MAX_NAME_BYTES = 256
PRIORITIES = frozenset(pb.Priority.values())
DTYPES = frozenset(pb.Dtype.values())


def check_options(options: pb.CallOptions, max_tokens: int) -> None:
    """Refuses what no server could do, and truncation to more than ``max_tokens``. Raises
    `InvalidInputError` naming the field."""
    model = options.model
    names = {
        "options.model.name": model.name,
        "options.model.alias": model.alias,
        "options.model.version": model.version,
        "options.model.space": model.space,
        "options.routing_key": options.routing_key,
    }
    for field, value in names.items():
        if value and len(value.encode()) > MAX_NAME_BYTES:
            raise InvalidInputError(field, f"longer than {MAX_NAME_BYTES} bytes")
    selector = model.WhichOneof("selector")
    if selector and not getattr(model, selector):
        raise InvalidInputError(f"options.model.{selector}", "set, but empty")
    if options.priority not in PRIORITIES:
        raise InvalidInputError("options.priority", f"{options.priority} is no priority")
    if options.output.dtype not in DTYPES:
        raise InvalidInputError("options.output.dtype", f"{options.output.dtype} is no format")
    if options.truncate > max_tokens:
        raise InvalidInputError(
            "options.truncate", f"{options.truncate} tokens are more than max_tokens, {max_tokens}"
        )


def check_dimensions(options: pb.OutputOptions, dimension: int, allowed: Sequence[int]) -> None:
    """Refuses to cut to more than a whole vector's ``dimension``, and to a prefix that the vector
    was not trained for: ``allowed`` are those of the version's ``embedding.json``."""
    wanted = options.dimensions
    if wanted > dimension:
        raise InvalidInputError(
            "options.output.dimensions", f"{wanted} are more than the model's {dimension}"
        )
    if wanted not in (0, dimension, *allowed):
        raise InvalidInputError(
            "options.output.dimensions",
            f"the version's vectors were not trained to be cut to {wanted}; it may be "
            f"{', '.join(map(str, sorted({dimension, *allowed})))} (dimensions in embedding.json)",
        )


def check_count(field: str, count: int, most: int) -> None:
    """Refuses a call without inputs, and one of more than ``most``, which is ``max_inputs``."""
    if not 1 <= count <= most:
        raise InvalidInputError(field, f"{count} given; 1 to max_inputs, {most}, are accepted")


def check_parts(message: pb.Input, most: int, field: str) -> None:
    """Refuses an input of more than ``most`` parts, which is ``max_parts``, before anybody looks at
    one of them."""
    if len(message.parts) > most:
        raise InvalidInputError(
            f"{field}.parts", f"{len(message.parts)} are more than max_parts, {most}"
        )


def check_stream_request(request: pb.EmbedStreamRequest) -> None:
    """Refuses a request of a stream without an id or an input, and one in another's ``more`` that
    has more itself."""
    if not 1 <= len(request.id.encode()) <= MAX_ID_BYTES:
        raise InvalidInputError("id", f"needed, 1 to {MAX_ID_BYTES} bytes")
    if not request.HasField("input"):
        raise InvalidInputError("input", "missing")
    if request.more:
        raise InvalidInputError("more", "none in a request that is in another's more")
