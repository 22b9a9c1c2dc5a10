"""Bodies to the messages that gRPC has: model references, options, text and media."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.frontend.http.fetch import Fetcher, Media
from vlm2vec_service.settings import Limits
from vlm2vec_service.versions.catalog import Catalog

ITEM_KEYS = ("instruction", "prompt", "text", "image_url", "video_url", "content")
FRAMES = "data:video/jpeg;base64,"
"""A video as JPEG frames, base64, with commas between."""


def model_ref(catalog: Catalog, text: str) -> pb.ModelRef:
    """``NAME`` or ``NAME@WHICH``, where WHICH is an alias, a version or a space, in this order."""
    name, at, which = text.partition("@")
    if not at:
        return pb.ModelRef(name=name)
    model = catalog.models.get(name)
    if model is not None and which not in model.aliases:
        if which in model.versions:
            return pb.ModelRef(name=name, version=which)
        if any(version.space == which for version in model.versions.values()):
            return pb.ModelRef(name=name, space=which)
    return pb.ModelRef(name=name, alias=which)


def call_options(
    catalog: Catalog, model: str | None, priority: str | None, user: str | None
) -> pb.CallOptions:
    """Options that every body has."""
    return pb.CallOptions(
        model=model_ref(catalog, model or ""),
        priority=pb.PRIORITY_BULK if priority == "bulk" else pb.PRIORITY_INTERACTIVE,
        routing_key=user or "",
    )


class Reader:
    """Reads the inputs of one request; `fetch` then gets what they point to."""

    def __init__(self, limits: Limits, max_inputs: int) -> None:
        self.limits = limits
        self.max_inputs = max_inputs
        self._media: list[Media] = []

    async def fetch(self, fetcher: Fetcher) -> None:
        """Fills what URLs point to into the inputs: those that were returned, not copies."""
        if self._media:
            await fetcher.fill(self._media)

    def inputs(self, value: Any, field: str, instruction: str) -> list[pb.Input]:
        """One input or a list of them, whatever they are. Raises `InvalidInputError`."""
        if not isinstance(value, list):
            return [self.one(value, field, instruction)]
        if value and _is_token(value[0]):
            return [_tokens(value, field)]
        return self.many(value, field, instruction)

    def many(self, values: Sequence[Any], field: str, instruction: str) -> list[pb.Input]:
        """A list of inputs, as many as may be. Raises `InvalidInputError`."""
        if not 1 <= len(values) <= self.max_inputs:
            raise InvalidInputError(
                field, f"{len(values)} given; 1 to max_inputs, {self.max_inputs}, are accepted"
            )
        return [self.one(item, f"{field}[{i}]", instruction) for i, item in enumerate(values)]

    def one(self, value: Any, field: str, instruction: str) -> pb.Input:
        """A string, token ids, or an object."""
        if isinstance(value, str):
            message = pb.Input(instruction=instruction)
            message.parts.add(text=_text(value, field))
            return message
        if isinstance(value, list):
            return _tokens(value, field)
        values = _object(value, field, ITEM_KEYS)
        message = pb.Input(instruction=instruction)
        if "instruction" in values:
            message.instruction = _text(values["instruction"], f"{field}.instruction")
        if "prompt" in values:
            message.prompt = _text(values["prompt"], f"{field}.prompt")
            if "instruction" not in values:
                message.instruction = ""  # the shared one is for those who have no whole prompt
        for kind in ("text", "image_url", "video_url"):
            if kind in values:
                self._part(message, kind, values[kind], f"{field}.{kind}")
        if "content" in values:
            self._content(message, values["content"], f"{field}.content")
        return message

    def chat(self, value: Any, instruction: str) -> pb.Input:
        """Messages of a chat: what the system says is the instruction."""
        if not isinstance(value, list) or not value:
            raise InvalidInputError("messages", "expected a list of messages")
        message = pb.Input(instruction=instruction)
        for index, item in enumerate(value):
            place = f"messages[{index}]"
            values = _object(item, place, ("role", "content", "name"))
            role = values.get("role")
            if role in ("system", "developer"):
                parts = pb.Input()
                self._content(parts, values.get("content"), f"{place}.content")
                if any(part.WhichOneof("part") != "text" for part in parts.parts):
                    raise InvalidInputError(f"{place}.content", "an instruction is text")
                message.instruction = " ".join(part.text for part in parts.parts)
            elif role == "user":
                self._content(message, values.get("content"), f"{place}.content")
            else:
                raise InvalidInputError(f"{place}.role", "expected system, developer or user")
        return message

    def _content(self, message: pb.Input, value: Any, field: str) -> None:
        """Adds a string, or parts by their type."""
        if isinstance(value, str):
            message.parts.add(text=_text(value, field))
            return
        if not isinstance(value, list):
            raise InvalidInputError(field, "expected a string or a list of parts")
        for index, item in enumerate(value):
            place = f"{field}[{index}]"
            kind = item.get("type") if isinstance(item, dict) else None
            if kind not in ("text", "image_url", "video_url"):
                raise InvalidInputError(f"{place}.type", "expected text, image_url or video_url")
            values = _object(item, place, ("type", kind))
            if kind not in values:
                raise InvalidInputError(f"{place}.{kind}", "missing")
            self._part(message, kind, values[kind], f"{place}.{kind}")

    def _part(self, message: pb.Input, kind: str, value: Any, field: str) -> None:
        if kind == "text":
            message.parts.add(text=_text(value, field))
            return
        if isinstance(value, dict):
            value = _object(value, field, ("url", "detail")).get("url")
        url = _text(value, field)
        part = message.parts.add()
        images = sum(item.WhichOneof("part") != "text" for item in message.parts)
        if images > self.limits.max_images + 1:  # one of them may be the video
            raise InvalidInputError(field, f"more than max_images, {self.limits.max_images}")
        if not url.startswith("data:"):
            self._media.append(Media(part, kind, url, field))
        elif kind == "image_url":
            part.image = data_uri(url, field)
        elif url.startswith(FRAMES):
            frames = url.removeprefix(FRAMES).split(",")
            part.video.frames.images.extend(_base64(frame, field) for frame in frames)
        else:
            part.video.file = data_uri(url, field)


def data_uri(uri: str, field: str) -> bytes:
    """The bytes of ``data:TYPE;base64,...`` (RFC 2397). Raises `InvalidInputError`."""
    head, comma, data = uri.partition(",")
    if not comma or not head.endswith(";base64"):
        raise InvalidInputError(field, "a data URI must be base64: data:TYPE;base64,...")
    return _base64(data, field)


def _base64(data: str, field: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInputError(field, f"no base64: {error}") from error


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _tokens(values: Sequence[Any], field: str) -> pb.Input:
    if not values:
        raise InvalidInputError(field, "the list is empty")
    if not all(_is_token(value) and 0 <= value < 2**32 for value in values):
        raise InvalidInputError(field, "expected token ids: whole numbers, 0 or more")
    return pb.Input(token_ids=values)


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise InvalidInputError(field, "expected a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half a surrogate pair, which JSON can hold
        raise InvalidInputError(field, f"no valid Unicode: {error.reason}") from error
    return value


def _object(value: Any, field: str, keys: Sequence[str]) -> Mapping[str, Any]:
    """An object's values that are not null. Raises `InvalidInputError` for unknown keys."""
    if not isinstance(value, dict):
        raise InvalidInputError(field, "expected a string or an object")
    if unknown := sorted(set(value) - set(keys)):
        raise InvalidInputError(
            f"{field}.{unknown[0][:99]}", f"unknown; known are {', '.join(keys)}"
        )
    return {key: item for key, item in value.items() if item is not None}
