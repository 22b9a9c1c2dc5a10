"""What the bodies of all requests have in common: strict fields, and those that every call has."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.frontend.http.input_shapes import TEXT
from vlm2vec_service.frontend.http.inputs import Task
from vlm2vec_service.frontend.http.shapes import (
    Anything,
    ByType,
    Choice,
    Only,
    Schema,
    Shape,
    Whole,
    check_keys,
)

TASKS = (
    "search_document", "search_query", "classification", "clustering", "image",
    "retrieval.passage", "retrieval.query", "text-matching", "separation", "code.passage",
    "code.query",
)  # fmt: skip
"""What other servers call a task. A VLM2Vec model is told its task in a sentence, or none."""
PRIORITY = ByType(
    {str: Choice(("interactive", "bulk")), int: Whole()},
    expected="interactive, bulk or a whole number",
    description="bulk lets everybody who waits go first; so does any number above 0.",
)


@dataclass(frozen=True)
class Shaped:
    """Metadata of a field: what its value has to look like, if it is not null."""

    shape: Shape

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> Schema:
        """The schema for the OpenAPI page."""
        return self.shape.schema(nullable=True)


def only(*values: Any, why: str) -> Shaped:
    """For a field of other servers that may say what is so here anyway, one of ``values``, and is
    refused for the reason ``why`` where it asks for another vector."""
    return Shaped(Only(values, why, description=f"{Only(values, why).problem}."))


def ignored(why: str) -> Shaped:
    """For a field of other servers that nothing is done with, because it changes no vector."""
    return Shaped(Anything(description=f"Ignored: {why}."))


class Body(BaseModel):
    """The base of all requests: an unknown field is an error, and no value is converted."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def check(cls, values: Any) -> Any:
        """Raises `InvalidInputError` for an unknown key, of which pydantic would gather every one,
        for a string that is no valid Unicode, which pydantic lets pass, and for a value that does
        not have the shape of its field."""
        if isinstance(values, dict):
            check_keys(values, cls.model_fields)
            for key, value in values.items():
                if isinstance(value, str):
                    TEXT.check(value, key)
                for item in cls.model_fields[key].metadata if value is not None else ():
                    if isinstance(item, Shaped):
                        item.shape.check(value, key)
        return values

    def one_of(self, *names: str) -> Any:
        """What the caller says under one of several names of a field; None where under none.

        Raises `InvalidInputError` where they disagree.
        """
        given = [(name, value) for name in names if (value := getattr(self, name)) is not None]
        for name, value in given[1:]:
            if value != given[0][1]:
                raise InvalidInputError(name, f"it is the same as {given[0][0]}, which disagrees")
        return given[0][1] if given else None

    def task_of(self, instruction: str | None, field: str) -> Task:
        """The ``instruction``, or the task in ``field`` if that is a sentence.

        Raises `InvalidInputError` for another sentence than the instruction, and for a word that is
        none of `TASKS`.
        """
        said: str = getattr(self, field) or ""
        if " " not in said:
            if said and said not in TASKS:
                raise InvalidInputError(field, f"expected a sentence, or one of {', '.join(TASKS)}")
            return Task(instruction or "")
        if instruction not in (None, said):
            raise InvalidInputError(field, "it is the same as instruction, which disagrees")
        return Task(said, field)


class CallBody(Body):
    """The base of the requests that embed something."""

    model: str | None = Field(
        default="",
        description="NAME, NAME@ALIAS, NAME@VERSION or NAME@SPACE; "
        "a server with one model needs none.",
        examples=["v2", "v2@canary"],
    )
    priority: Annotated[Any, Shaped(PRIORITY)] = None
    user: str | None = Field(
        default=None, description="The end user; gets the same version while a canary is tried."
    )

    def options(self, truncate: int | None) -> pb.CallOptions:
        """The options of the call, with ``truncate`` as the gRPC API has it."""
        bulk = self.priority == "bulk" or (isinstance(self.priority, int) and self.priority > 0)
        return pb.CallOptions(
            model=pb.ModelRef(name=self.model or ""),
            priority=pb.PRIORITY_BULK if bulk else pb.PRIORITY_INTERACTIVE,
            routing_key=self.user or "",
            truncate=truncate,
        )
