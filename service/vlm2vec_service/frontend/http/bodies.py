"""The bodies of requests and answers, as pydantic checks them and the OpenAPI page shows them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from vlm2vec_service.frontend.http.input_shapes import INPUT, MANY, MESSAGES, ONE, TEXT
from vlm2vec_service.frontend.http.shapes import check_keys

MODEL = Field(
    default="",
    description="NAME, NAME@ALIAS, NAME@VERSION or NAME@SPACE; a server with one model needs none.",
    examples=["v2", "v2@canary"],
)
INSTRUCTION = Field(default=None, description="The task, for inputs without one of their own.")
PRIORITY = Field(default=None, description="bulk lets everybody who waits go first.")


class Body(BaseModel):
    """The base of all requests: an unknown field is an error, and no value is converted."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def check(cls, values: Any) -> Any:
        """Raises `InvalidInputError` for an unknown key, of which pydantic would gather every one,
        and for a string that is no valid Unicode, which pydantic lets pass."""
        if isinstance(values, dict):
            check_keys(values, cls.model_fields)
            for key, value in values.items():
                if isinstance(value, str):
                    TEXT.check(value, key)
        return values


class EmbeddingsBody(Body):
    """A request to embed ``input`` or ``messages``: exactly one of the two is needed."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": "a cat and a dog"}]})
    model: str | None = MODEL
    input: Annotated[Any, WithJsonSchema(INPUT.schema(nullable=True))] = None
    messages: Annotated[Any, WithJsonSchema(MESSAGES.schema(nullable=True))] = None
    instruction: str | None = INSTRUCTION
    encoding_format: Literal["float", "base64"] | None = Field(
        default=None, description="base64 is of little-endian float32."
    )
    dimensions: Annotated[int, Field(ge=1, lt=2**31)] | None = Field(
        default=None, description="Keep the first so many components, and normalise again."
    )
    normalize: bool | None = Field(
        default=None, description="L2-normalise; without it as the adapter says, which is yes."
    )
    priority: Literal["interactive", "bulk"] | None = PRIORITY
    user: str | None = Field(
        default=None, description="The end user; gets the same version while a canary is tried."
    )


class RerankBody(Body):
    """A request to order ``documents`` by how near they are to ``query``."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": "a cat", "documents": ["two cats", "a boat"]}]}
    )
    model: str | None = MODEL
    query: Annotated[Any, WithJsonSchema(ONE.schema())]
    documents: Annotated[Any, WithJsonSchema(MANY.schema())]
    top_n: Annotated[int, Field(ge=1, lt=2**31)] | None = Field(
        default=None, description="Return only the best so many."
    )
    return_documents: bool | None = None
    instruction: str | None = Field(default=None, description="The query's task.")
    document_instruction: str | None = Field(default=None, description="The documents' task.")
    priority: Literal["interactive", "bulk"] | None = PRIORITY
    user: str | None = None


class EmbeddingObject(BaseModel):
    """The vector of one input: a list of numbers, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """The number of tokens of all inputs together, those of images and video included."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """The answer to `EmbeddingsBody`: vectors in the order of the inputs, and their space."""

    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    version: str
    space: str
    usage: Usage


class RerankedDocument(BaseModel):
    """A document by its index in the request, with its cosine to the query, -1 to 1."""

    index: int
    relevance_score: float
    document: dict[str, Any] | None = None


class RerankAnswer(BaseModel):
    """The answer to `RerankBody`: the documents, the best first."""

    id: str
    model: str
    version: str
    space: str
    results: list[RerankedDocument]
    usage: Usage


class ServedVersion(BaseModel):
    """A version of a model, its vector space, and the aliases that point to it."""

    version: str
    space: str
    aliases: list[str]


class ModelObject(BaseModel):
    """A model that is served, with its versions; ``reason`` says why it is not ready, and
    ``canary_share``, 0 to 1, how many of the calls that name no version the canary answers."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    backbone: str
    dimension: int
    ready: bool
    reason: str
    canary_share: float
    versions: list[ServedVersion]


class ModelList(BaseModel):
    """The models that the caller may use."""

    object: Literal["list"]
    data: list[ModelObject]


class Status(BaseModel):
    """Whether the process lives, or is ready to embed."""

    status: Literal["alive", "ready", "not ready"]
