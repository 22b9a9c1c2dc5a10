"""What requests and answers look like; the OpenAPI page shows these."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

TEXT = {"type": "string"}
URL = {
    "anyOf": [TEXT, {"type": "object", "properties": {"url": TEXT}, "required": ["url"]}],
    "description": "A data URI; or an https URL, where the server fetches from its origin.",
}
PART = {
    "type": "object",
    "properties": {
        "type": {"enum": ["text", "image_url", "video_url"]},
        "text": TEXT,
        "image_url": URL,
        "video_url": URL,
    },
    "required": ["type"],
}
PARTS = {"anyOf": [TEXT, {"type": "array", "items": PART}]}
ITEM = {
    "type": "object",
    "properties": {
        "instruction": {**TEXT, "description": "The task."},
        "prompt": {**TEXT, "description": "A raw prompt with the model's own placeholders."},
        "text": TEXT,
        "image_url": URL,
        "video_url": URL,
        "content": PARTS,
    },
    "additionalProperties": False,
}
ONE = {"anyOf": [TEXT, ITEM]}
TOKENS = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0},
    "minItems": 1,
    "description": "Ids of the model's own tokenizer.",
}
INPUT = {
    "anyOf": [
        TEXT,
        {"type": "array", "items": ONE, "minItems": 1},
        TOKENS,
        {"type": "array", "items": TOKENS, "minItems": 1},
        ITEM,
        {"type": "null"},
    ],
    "description": "One thing to embed or a list of them: text, token ids, or objects with media.",
}
MESSAGES = {
    "anyOf": [
        {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "role": {"enum": ["system", "developer", "user"]},
                    "content": PARTS,
                },
                "required": ["role", "content"],
            },
            "minItems": 1,
        },
        {"type": "null"},
    ],
    "description": "One thing to embed as a chat: the system's content is the instruction.",
}

MODEL = Field(
    default="",
    description="NAME, NAME@ALIAS, NAME@VERSION or NAME@SPACE; a server with one model needs none.",
    examples=["v2", "v2@canary"],
)
INSTRUCTION = Field(default=None, description="The task, for inputs without one of their own.")
PRIORITY = Field(default=None, description="bulk lets everybody who waits go first.")


class Body(BaseModel):
    """A request: an unknown field is an error, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


class EmbeddingsBody(Body):
    """A request to embed; ``input`` or ``messages`` is needed."""

    model: str | None = MODEL
    input: Annotated[Any, WithJsonSchema(INPUT)] = None
    messages: Annotated[Any, WithJsonSchema(MESSAGES)] = None
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
    """A query, and what to order by it."""

    model: str | None = MODEL
    query: Annotated[Any, WithJsonSchema(ONE)]
    documents: Annotated[Any, WithJsonSchema({"type": "array", "items": ONE, "minItems": 1})]
    top_n: Annotated[int, Field(ge=1, lt=2**31)] | None = Field(
        default=None, description="Return only the best so many."
    )
    return_documents: bool | None = None
    instruction: str | None = Field(default=None, description="The query's task.")
    document_instruction: str | None = Field(default=None, description="The documents' task.")
    priority: Literal["interactive", "bulk"] | None = PRIORITY
    user: str | None = None


class EmbeddingObject(BaseModel):
    """One vector: a list of numbers, or base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens of all inputs, those of images and video included."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """Vectors in the order of the inputs, and the vector space they are in."""

    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    version: str
    space: str
    usage: Usage


class RerankedDocument(BaseModel):
    """A document's index in the request, and its cosine to the query."""

    index: int
    relevance_score: float
    document: dict[str, Any] | None = None


class RerankAnswer(BaseModel):
    """Documents, the best first."""

    id: str
    model: str
    version: str
    space: str
    results: list[RerankedDocument]
    usage: Usage


class ModelVersion(BaseModel):
    """A version, its vector space, and the aliases that point to it."""

    version: str
    space: str
    aliases: list[str]


class ModelObject(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    backbone: str
    dimension: int
    ready: bool
    versions: list[ModelVersion]


class ModelList(BaseModel):
    """The models that the caller may use."""

    object: Literal["list"]
    data: list[ModelObject]


class Status(BaseModel):
    """Health."""

    status: Literal["alive", "ready", "not ready"]
