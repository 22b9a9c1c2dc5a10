"""The bodies of requests and answers, as pydantic checks them and the OpenAPI page shows them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.frontend.http.fields import CallBody, Shaped, ignored, only
from vlm2vec_service.frontend.http.input_shapes import DOCUMENTS, INPUT, MESSAGES, ONE
from vlm2vec_service.frontend.http.shapes import ByType, Choice, ListOf, Whole

Number = Annotated[int, Field(ge=1, lt=2**31)] | None
INSTRUCTION = Field(default=None, description="The task, for inputs without one of their own.")
DIMENSIONS = Field(
    default=None, description="Keep the first so many components, and normalise again."
)
NORMALIZE = Field(
    default=None, description="L2-normalise; without it as the adapter says, which is yes."
)
TRUNCATE = Field(
    default=None,
    description="Leave out the end of a text that makes its input longer than the server takes.",
)
FORMAT = Choice(
    ("float", "base64", "binary", "ubinary"),
    description="base64 is of little-endian float32; binary and ubinary are one bit a component, "
    "eight of them as a number from -128 or from 0.",
)
FORMATS = ByType(
    {str: FORMAT, list: ListOf(FORMAT, "a list of one format", least=1)},
    expected="a format or a list of one",
    description="The same as encoding_format.",
)
TOKENS = Shaped(
    Whole(-1, description="Truncate inputs to so many tokens; -1 to as many as the server takes.")
)
SCORED = WithJsonSchema({"description": "One thing or a list of them, as input elsewhere."})
"""The page says it once for all names: seven times everything would hide the rest."""
OWN_TEMPLATE = "the prompt has the form that the adapter was trained with"
OWN_PIXELS = "pictures are read as the adapter was trained with"


class TruncatedBody(CallBody):
    """The base of the requests in which vLLM's fields may stand."""

    truncate_prompt_tokens: Annotated[Any, TOKENS] = None
    truncation_side: Annotated[Any, only("right", why="it is the end that is left out")] = None
    request_id: Annotated[Any, ignored("an id is the header x-request-id")] = None
    cache_salt: Annotated[Any, ignored("there is no cache of prompts")] = None
    mm_processor_kwargs: Annotated[Any, only({}, why=OWN_PIXELS)] = None

    def most_tokens(self) -> int | None:
        """``truncate_prompt_tokens`` as the gRPC API has it, which writes 0 for -1.

        Raises `InvalidInputError` for 0, which would leave nothing.
        """
        most: int | None = self.truncate_prompt_tokens
        if most == 0:
            raise InvalidInputError("truncate_prompt_tokens", "expected 1 or more, or -1")
        return 0 if most == -1 else most


class EmbeddingsBody(TruncatedBody):
    """A request to embed ``input`` or ``messages``: exactly one of the two is needed."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": "a cat and a dog"}]})
    input: Annotated[Any, WithJsonSchema(INPUT.schema(nullable=True))] = None
    messages: Annotated[Any, WithJsonSchema(MESSAGES.schema(nullable=True))] = None
    instruction: str | None = INSTRUCTION
    encoding_format: Annotated[Any, Shaped(FORMAT)] = None
    dimensions: Number = DIMENSIONS
    normalize: bool | None = NORMALIZE
    truncate: bool | None = TRUNCATE
    task: str | None = Field(
        default=None, description="The same as instruction, if it is a sentence; a word is ignored."
    )
    modality: Literal["text", "image", "video", "audio"] | None = Field(
        default=None,
        description="What the strings of input are: texts, or URLs and data URIs of media.",
    )
    embedding_type: Annotated[Any, Shaped(FORMATS)] = None
    normalized: bool | None = Field(default=None, description="The same as normalize.")
    use_activation: bool | None = Field(default=None, description="The same as normalize.")
    late_chunking: Annotated[Any, only(False, why="each input is read by itself")] = None
    return_multivector: Annotated[Any, only(False, why="an input has one vector")] = None
    add_special_tokens: Annotated[
        Any, only(True, why="a prompt has the special tokens that the model was trained with")
    ] = None
    padding: Annotated[Any, only("do_not_pad", why="nothing is padded")] = None
    embed_dtype: Annotated[Any, only("float32", why="vectors are float32 over HTTP")] = None
    endianness: Annotated[Any, only("little", "native", why="base64 is little-endian")] = None
    chat_template: Annotated[Any, only(why=OWN_TEMPLATE)] = None
    chat_template_kwargs: Annotated[Any, only({}, why=OWN_TEMPLATE)] = None
    media_io_kwargs: Annotated[Any, only({}, why=OWN_PIXELS)] = None
    add_generation_prompt: Annotated[Any, only(False, why=OWN_TEMPLATE)] = None
    continue_final_message: Annotated[Any, ignored("no turn of a chat has an end")] = None


class RerankBody(TruncatedBody):
    """A request to order ``documents`` by how near they are to ``query``."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": "a cat", "documents": ["two cats", "a boat"]}]}
    )
    query: Annotated[Any, WithJsonSchema(ONE.schema())]
    documents: Annotated[Any, WithJsonSchema(DOCUMENTS.schema())]
    top_n: Annotated[int, Field(ge=0, lt=2**31)] | None = Field(
        default=None, description="Return only the best so many; 0 returns all."
    )
    return_documents: bool | None = None
    instruction: str | None = Field(default=None, description="The query's task.")
    document_instruction: str | None = Field(default=None, description="The documents' task.")
    max_tokens_per_doc: Number = Field(
        default=None, description="The same as truncate_prompt_tokens: for the query, too."
    )
    return_embeddings: Annotated[Any, only(False, why="/v1/embeddings gives them")] = None
    use_activation: Annotated[Any, ignored("a score is the cosine")] = None


class ScoreBody(TruncatedBody):
    """A request for the cosines of one thing to one or more others, in their order; each of the two
    is given under one of several names."""

    text_1: Annotated[Any, SCORED] = None
    data_1: Annotated[Any, SCORED] = None
    queries: Annotated[Any, SCORED] = None
    text_2: Annotated[Any, SCORED] = None
    data_2: Annotated[Any, SCORED] = None
    documents: Annotated[Any, SCORED] = None
    items: Annotated[Any, SCORED] = None
    instruction: str | None = Field(default=None, description="The task of the first.")
    document_instruction: str | None = Field(default=None, description="The task of the others.")
    use_activation: Annotated[Any, ignored("a score is the cosine")] = None
    encoding_format: Annotated[Any, ignored("an answer has no vectors")] = None


class EmbeddingObject(BaseModel):
    """The vector of one input: a list of numbers, or base64 of little-endian float32. It is
    ``truncated`` where the end of the input's text was left out."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str
    truncated: Literal[True] | None = None


class Usage(BaseModel):
    """The number of tokens of all inputs together, those of media included."""

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
    truncated: Literal[True] | None = None


class RerankAnswer(BaseModel):
    """The answer to `RerankBody`: the documents, the best first."""

    id: str
    model: str
    version: str
    space: str
    results: list[RerankedDocument]
    usage: Usage


class Score(BaseModel):
    """The cosine of a document by its index, -1 to 1."""

    index: int
    object: Literal["score"]
    score: float


class ScoreAnswer(BaseModel):
    """The answer to `ScoreBody`: the documents in their order."""

    id: str
    object: Literal["list"]
    model: str
    version: str
    space: str
    data: list[Score]
    usage: Usage


class ServedVersion(BaseModel):
    """A version of a model, its vector space, and the aliases that point to it."""

    version: str
    space: str
    aliases: list[str]


class ModelObject(BaseModel):
    """A model that is served, with its versions; ``takes`` lists the media that it reads beside
    text, of image, video and audio, ``reason`` says why it is not ready, and ``canary_share``, 0 to
    1, how many of the calls that name no version the canary answers."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    backbone: str
    takes: list[str]
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

    status: Literal["alive", "ready", "not ready", "starting", "started"]
