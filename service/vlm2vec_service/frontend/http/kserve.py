"""``/v2``: KServe's open inference protocol, version 2, over REST.

An input is a row of tensors: what ``text``, ``image``, ``video`` and ``audio`` have in one place,
under the ``instruction`` there. Tensors may be in the JSON or, as binary data, behind it.
"""

import importlib.metadata
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.frontend import calls
from vlm2vec_service.frontend.http.caller import caller_of
from vlm2vec_service.frontend.http.errors import RESPONSES, KserveError, Responses
from vlm2vec_service.frontend.http.fetch import Fetcher
from vlm2vec_service.frontend.http.fields import CallBody
from vlm2vec_service.frontend.http.formats import in_json
from vlm2vec_service.frontend.http.input_shapes import TEXT
from vlm2vec_service.frontend.http.inputs import InputReader, Task
from vlm2vec_service.frontend.http.json_body import BodyRoute, read_json
from vlm2vec_service.frontend.http.models import media_taken
from vlm2vec_service.frontend.http.shapes import ByType, Choice, Flag, ListOf, Object, Only, Whole
from vlm2vec_service.frontend.model_ref import resolved
from vlm2vec_service.frontend.parsing import parsed
from vlm2vec_service.frontend.pipeline import Pipeline
from vlm2vec_service.versions.catalog import ServedModel, Version
from vlm2vec_service.versions.residency import State

LENGTH = "inference-header-content-length"
"""The header that says how many bytes of a body are JSON, where binary data follow."""
PIECES = {"text": "text", "image": "image", "video": "video_url", "audio": "input_audio"}
"""The tensors that inputs are made of, and what `InputReader` calls their elements."""
OPTIONS = {
    "options.output.dimensions": "parameters.dimensions",
    "options.truncate": "parameters.truncate",
    "options.routing_key": "parameters.user",
}
"""The options of a call that have another name here."""
FAULTS: Responses = {status: {**said, "model": KserveError} for status, said in RESPONSES.items()}

PARAMETERS = {
    "dimensions": Whole(1, description="Keep the first so many components."),
    "normalize": Flag(description="L2-normalise; without it as the adapter says, which is yes."),
    "truncate": ByType(
        {bool: Flag(), int: Whole(1)},
        "true, false, or the most tokens",
        description="Leave out the end of too long a text.",
    ),
    "priority": Choice(("interactive", "bulk")),
    "user": TEXT.described("Gets the same version while a canary is tried."),
    "binary_data_output": Flag(description="The vectors follow the JSON of the answer."),
}
TENSOR = {
    "name": Choice((*PIECES, "instruction")),
    "shape": ListOf(Whole(1), "[n] or [n, 1]", least=1),
    "datatype": Only(("BYTES",), "texts and files are bytes"),
    "parameters": Object({"binary_data_size": Whole(0, description="Its bytes behind the JSON.")}),
    "data": ListOf(
        ByType({str: TEXT, list: ListOf(TEXT, "a list of strings")}, "a string"),
        "a list of strings",
    ),
}
OUTPUT = {"name": Choice(("embedding",)), "parameters": Object({"binary_data": Flag()})}
BODY = Object(
    {
        "id": TEXT.described("Comes back with the answer."),
        "model_name": TEXT.described("Ignored: the path says it."),
        "parameters": Object(PARAMETERS),
        "inputs": ListOf(Object(TENSOR, ("name", "shape", "datatype")), "a list of tensors", 1),
        "outputs": ListOf(Object(OUTPUT, ("name",)), "a list of outputs"),
    },
    required=("inputs",),
)


class InferAnswer(BaseModel):
    """The vectors, row by row, in the ``data`` of the output ``embedding`` or behind the JSON.
    ``parameters`` say their ``space``, the ``tokens`` of all inputs, and in ``truncated`` which
    rows lost the end of their text, as in "0, 3"."""

    id: str | None = None
    model_name: str
    model_version: str
    parameters: dict[str, str | int]
    outputs: list[dict[str, Any]]


def routes(pipeline: Pipeline, fetcher: Fetcher) -> APIRouter:
    """Makes the router of ``/v2``, ``/v2/health`` and ``/v2/models``."""
    router = APIRouter(tags=["KServe"], route_class=BodyRoute)

    @router.get("/v2")
    async def server_metadata() -> dict[str, str | list[str]]:
        """Describe the server, and what it has of the protocol's extensions."""
        version = importlib.metadata.version("vlm2vec-serve")
        return {"name": "vlm2vec-serve", "version": version, "extensions": ["binary_tensor_data"]}

    @router.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        """Whether the process is alive; it is if this answers."""
        return {"live": True}

    @router.get("/v2/health/ready", responses={503: {}})
    async def ready(response: Response) -> dict[str, bool]:
        """Whether every model is ready."""
        found = all(pipeline.ready.values())
        response.status_code = 200 if found else 503
        return {"ready": found}

    @router.get("/v2/models/{model}", responses=FAULTS)
    @router.get("/v2/models/{model}/versions/{version}", include_in_schema=False)
    async def model_metadata(model: str, version: str = "") -> dict[str, Any]:
        """Describe a model by its versions and tensors; -1 is any number. Here and below, a version
        may be in the path: /v2/models/NAME/versions/VERSION."""
        found, _ = _find(pipeline, model, version)
        dimension = pipeline.served[found.name].dimension or -1
        names = ("text", *media_taken(found.backbone), "instruction")
        return {
            "name": found.name,
            "versions": sorted(found.versions),
            "platform": f"vlm2vec_{found.backbone}",
            "inputs": [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in names],
            "outputs": [{"name": "embedding", "datatype": "FP32", "shape": [-1, dimension]}],
        }

    @router.get("/v2/models/{model}/ready", responses=FAULTS)
    @router.get("/v2/models/{model}/versions/{version}/ready", include_in_schema=False)
    async def model_ready(model: str, response: Response, version: str = "") -> dict[str, Any]:
        """Whether requests for a model, or for a version of it, are answered; 503 if not."""
        found, named = _find(pipeline, model, version)
        answers = pipeline.ready[found.name]
        if named is not None:  # one that is available is loaded for its first request
            state = pipeline.served[found.name].residency.state(named).state
            answers &= state in (State.AVAILABLE, State.HELD)
        response.status_code = 200 if answers else 503
        return {"name": found.name, "ready": answers}

    @router.post(
        "/v2/models/{model}/infer",
        response_model=InferAnswer,
        responses={**FAULTS, 200: {"content": {"application/octet-stream": {}}}},
        openapi_extra={"requestBody": {"content": {"application/json": {"schema": BODY.schema()}}}},
    )
    @router.post("/v2/models/{model}/versions/{version}/infer", include_in_schema=False)
    async def infer(request: Request, model: str, version: str = "") -> Response:
        """Embed the rows of tensors."""
        body = await request.body()
        given = request.headers.get(LENGTH, str(len(body)))
        length = int(given) if given.isdecimal() and len(given) < 20 else -1
        if not 0 <= length <= len(body):
            raise InvalidInputError(LENGTH, f"expected a number up to {len(body)}, all of the body")
        most = request.app.state.max_elements, request.app.state.max_text_bytes
        values = await parsed(lambda: _checked(read_json(body[:length], *most)), length)
        options = _options(values.get("parameters") or {}, _ref(model, version))
        reader = InputReader(pipeline.limits, pipeline.settings.max_inputs)
        inputs = await reader.taken(
            lambda: _read(reader, values["inputs"], memoryview(body)[length:]), len(body), fetcher
        )
        with reader.own_words(OPTIONS):
            answer = await calls.embed(pipeline, inputs, options, caller_of(pipeline))
        size = sum(len(item.vector.data) for item in answer.embeddings)
        return await parsed(lambda: _written(answer, values), size)

    return router


def _ref(model: str, version: str) -> pb.ModelRef:
    return pb.ModelRef(name=model, version=version) if version else pb.ModelRef(name=model)


def _find(pipeline: Pipeline, model: str, version: str) -> tuple[ServedModel, Version | None]:
    """The model of a path, and the version if it names one. Raises `ServeError`."""
    ref = resolved(pipeline.catalog, _ref(model, version))
    caller_of(pipeline).identity.check_model(ref.name)
    found = pipeline.catalog.model(ref.name)
    is_named = ref.WhichOneof("selector") is not None
    return found, found.choose(ref.alias, ref.version, ref.space) if is_named else None


def _checked(values: Any) -> dict[str, Any]:
    """A body that is as `BODY` describes it. Raises `InvalidInputError`."""
    if not isinstance(values, dict):
        raise InvalidInputError("body", "expected a JSON object")
    BODY.check(values, "")
    if len(values.get("outputs") or ()) > 1:
        raise InvalidInputError("outputs", "there is one, embedding")
    return values


def _options(given: dict[str, Any], model: pb.ModelRef) -> pb.CallOptions:
    """What `PARAMETERS` say of a call."""
    truncate = given.get("truncate")
    call = CallBody(priority=given.get("priority"), user=given.get("user"))
    options = call.options(0 if truncate is True else truncate or None)
    options.model.CopyFrom(model)
    options.output.dimensions = given.get("dimensions") or 0
    if given.get("normalize") is not None:
        options.output.normalize = given["normalize"]
    return options


def _read(reader: InputReader, tensors: list[Any], rest: memoryview) -> list[pb.Input]:
    """The inputs in the rows of ``tensors``, which may be in ``rest``, behind the JSON. Raises
    `InvalidInputError`."""
    rows = max(tensor["shape"][0] for tensor in tensors)
    if rows > reader.max_inputs:
        raise InvalidInputError("inputs", f"{rows} rows; max_inputs is {reader.max_inputs}")
    columns: dict[str, list[tuple[str | bytes, str]]] = {}
    for index, tensor in enumerate(tensors):
        name, (count, *more), field = tensor["name"], tensor["shape"], f"inputs[{index}]"
        if name in columns:
            raise InvalidInputError(f"{field}.name", f"{name} is there twice")
        if more not in ([], [1]) or count not in ({rows, 1} if name == "instruction" else {rows}):
            raise InvalidInputError(f"{field}.shape", f"expected [{rows}] or [{rows}, 1]")
        columns[name], rest = _column(tensor, field, rest)
    if rest:
        raise InvalidInputError("inputs", f"{len(rest)} bytes that follow are of none of them")
    tasks = [Task(str(value), place) for value, place in columns.pop("instruction", [("", "")])]
    if not columns:
        raise InvalidInputError("inputs", f"needed: one of {', '.join(PIECES)}")
    inputs = []
    for row in range(rows):
        pieces = [(PIECES[name], *column[row]) for name, column in columns.items()]
        there = [piece for piece in pieces if piece[1]]
        inputs.append(reader.row(there, pieces[0][2], tasks[row % len(tasks)]))
    return inputs


def _column(
    tensor: dict[str, Any], field: str, rest: memoryview
) -> tuple[list[tuple[str | bytes, str]], memoryview]:
    """The elements of a tensor with their fields, and what of ``rest`` is of the next ones. Raises
    `InvalidInputError`."""
    count, data = tensor["shape"][0], tensor.get("data")
    size = (tensor.get("parameters") or {}).get("binary_data_size")
    if (size is None) == (data is None):
        problem = "needed, or parameters.binary_data_size: exactly one of them"
        raise InvalidInputError(f"{field}.data", problem)
    if data is not None:
        flat = [one for item in data for one in ([item] if isinstance(item, str) else item)]
        if len(flat) != count:
            raise InvalidInputError(f"{field}.data", f"{len(flat)} elements; shape says {count}")
        return [(item, f"{field}.data[{row}]") for row, item in enumerate(flat)], rest
    elements, end = [], 0
    for row in range(count):
        start = end + 4
        end = start + int.from_bytes(rest[end:start], "little")
        place = f"{field}.data[{row}]"
        elements.append((_meant(tensor["name"], bytes(rest[start:end]), place), place))
    if end != size or size > len(rest):
        problem = f"{size} bytes are not {count} elements, each behind its length in four bytes"
        raise InvalidInputError(f"{field}.parameters.binary_data_size", problem)
    return elements, rest[size:]


def _meant(name: str, value: bytes, field: str) -> str | bytes:
    """An element of binary data: a text; a file; or, since no file is ASCII alone, a URL or base64.
    Raises `InvalidInputError` for a text that is not in UTF-8."""
    if name not in ("text", "instruction") and (b"\0" in value or not value.isascii()):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(field, "no text in UTF-8") from error


def _written(answer: pb.EmbedResponse, body: dict[str, Any]) -> Response:
    """Writes an `InferAnswer`, and the vectors behind it where ``body`` asks for that."""
    vectors, first = answer.embeddings, answer.embeddings[0]
    (asked,) = body.get("outputs") or [{}]
    binary = (body.get("parameters") or {}).get("binary_data_output")
    binary = (asked.get("parameters") or {}).get("binary_data", binary)
    shape = [len(vectors), len(first.vector.data) // 4]
    output: dict[str, Any] = {"name": "embedding", "datatype": "FP32", "shape": shape}
    if binary:
        output["parameters"] = {"binary_data_size": 4 * shape[0] * shape[1]}
    else:
        numbers = (orjson.dumps(in_json(item.vector, "float"))[1:-1] for item in vectors)
        output["data"] = orjson.Fragment(b"[%b]" % b",".join(numbers))
    parameters = {"space": first.space, "tokens": sum(item.tokens for item in vectors)}
    if cut := ", ".join(str(row) for row, item in enumerate(vectors) if item.truncated):
        parameters["truncated"] = cut
    id = {} if body.get("id") is None else {"id": body["id"]}
    route = {"model_name": first.model, "model_version": first.version}
    content = orjson.dumps({**id, **route, "parameters": parameters, "outputs": [output]})
    if not binary:
        return Response(content, media_type="application/json")
    data = b"".join((content, *(item.vector.data for item in vectors)))
    return Response(data, 200, {LENGTH: str(len(content))}, "application/octet-stream")
