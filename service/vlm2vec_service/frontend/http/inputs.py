"""What a body asks for as the gRPC API's messages: model references, options, text and media."""

from typing import Any

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.frontend.access import current
from vlm2vec_service.frontend.http.fetch import Fetcher, RemoteMedia
from vlm2vec_service.frontend.http.input_shapes import INPUT, MANY, MESSAGES, ONE
from vlm2vec_service.preprocess.data_uri import DataUri, is_data_uri, read_base64
from vlm2vec_service.settings import Limits
from vlm2vec_service.versions.catalog import Catalog

FRAMES = "video/jpeg"
"""The media type of a video as JPEG frames, base64, with commas between."""


def model_ref(catalog: Catalog, text: str) -> pb.ModelRef:
    """Parses ``NAME`` or ``NAME@WHICH``: WHICH is an alias, a version or a space, in this order."""
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
    """The options that every body has: ``model``, ``priority`` and ``user``."""
    return pb.CallOptions(
        model=model_ref(catalog, model or ""),
        priority=pb.PRIORITY_BULK if priority == "bulk" else pb.PRIORITY_INTERACTIVE,
        routing_key=user or "",
    )


class InputReader:
    """Checks and converts the inputs of one request; `fetch` then gets what their URLs point to.

    ``field`` is where a value stands in the body, for errors; ``instruction`` is the body's own,
    for inputs that have none. What is wrong raises `InvalidInputError`.
    """

    def __init__(self, limits: Limits, max_inputs: int) -> None:
        self.limits = limits
        self.max_inputs = max_inputs
        self._remote: list[RemoteMedia] = []

    async def fetch(self, fetcher: Fetcher) -> None:
        """Fills what URLs point to into the inputs: those that were returned, not copies."""
        if self._remote:
            await fetcher.fill(self._remote, current.get())

    def inputs(self, value: Any, field: str, instruction: str) -> list[pb.Input]:
        """Reads one input or a list of them."""
        if INPUT.is_many(value):
            return self.many(value, field, instruction)
        return [self.one(value, field, instruction)]

    def many(self, values: Any, field: str, instruction: str) -> list[pb.Input]:
        """Reads a list of 1 to ``max_inputs`` inputs."""
        # Counted first: how long a list may be checked for is not the caller's choice.
        if isinstance(values, list) and not 1 <= len(values) <= self.max_inputs:
            raise InvalidInputError(
                field, f"{len(values)} given; 1 to max_inputs, {self.max_inputs}, are accepted"
            )
        MANY.check(values, field)
        return [self._input(item, f"{field}[{i}]", instruction) for i, item in enumerate(values)]

    def one(self, value: Any, field: str, instruction: str) -> pb.Input:
        """Reads a string, token ids, or an object."""
        ONE.check(value, field)
        return self._input(value, field, instruction)

    def chat(self, value: Any, instruction: str) -> pb.Input:
        """Reads the messages of a chat as one input: what the system says is the instruction."""
        MESSAGES.check(value, "messages")
        message = pb.Input(instruction=instruction)
        for index, item in enumerate(value):
            if item["role"] == "user":
                self._content(message, item["content"], f"messages[{index}].content")
            else:
                parts = pb.Input()
                self._content(parts, item["content"], f"messages[{index}].content")
                message.instruction = " ".join(part.text for part in parts.parts)
        return message

    def _input(self, value: Any, field: str, instruction: str) -> pb.Input:
        """Converts a value of the shape `ONE`."""
        if isinstance(value, str):
            message = pb.Input(instruction=instruction)
            message.parts.add(text=value)
            return message
        if isinstance(value, list):
            return pb.Input(token_ids=value)
        values = {key: item for key, item in value.items() if item is not None}
        # The shared instruction is for inputs that are not a whole prompt already.
        own = values.get("instruction", "" if "prompt" in values else instruction)
        message = pb.Input(instruction=own, prompt=values.get("prompt"))
        for kind in ("text", "image_url", "video_url"):
            if kind in values:
                self._part(message, kind, values[kind], f"{field}.{kind}")
        if "content" in values:
            self._content(message, values["content"], f"{field}.content")
        return message

    def _content(self, message: pb.Input, value: Any, field: str) -> None:
        """Adds a value of the shape `CONTENT`."""
        if isinstance(value, str):
            message.parts.add(text=value)
            return
        for index, item in enumerate(value):
            kind = item["type"]
            self._part(message, kind, item[kind], f"{field}[{index}].{kind}")

    def _part(self, message: pb.Input, kind: str, value: Any, field: str) -> None:
        """Adds a text, or a `URL` of an image or a video."""
        if kind == "text":
            message.parts.add(text=value)
            return
        url = value if isinstance(value, str) else value["url"]
        part = message.parts.add()
        images = sum(item.WhichOneof("part") != "text" for item in message.parts)
        if images > self.limits.max_images + 1:  # one of them may be the video
            raise InvalidInputError(field, f"more than max_images, {self.limits.max_images}")
        if not is_data_uri(url):
            self._remote.append(RemoteMedia(part, kind, url, field))
            return
        data = DataUri.parse(url, field)
        if kind == "image_url":
            part.image = data.read(field, self.limits, "max_image_bytes")
        elif data.type != FRAMES or not data.base64:
            part.video.file = data.read(field, self.limits, "max_video_bytes")
        elif url.count(",", data.start) >= self.limits.max_video_frames:
            most = self.limits.max_video_frames
            raise InvalidInputError(field, f"more frames than max_video_frames, {most}")
        else:
            frames = url[data.start :].split(",")
            part.video.frames.images.extend(
                read_base64(frame, field, self.limits, "max_image_bytes") for frame in frames
            )
