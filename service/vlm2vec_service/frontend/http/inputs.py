"""What a body asks for as the gRPC API's messages: model references, options, text and media."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.frontend.access import current
from vlm2vec_service.frontend.http.fetch import Fetcher, RemoteMedia, fill_part
from vlm2vec_service.frontend.http.input_shapes import INPUT, MANY, MESSAGES, ONE, URLS
from vlm2vec_service.frontend.http.media_text import IN_CHAT, IN_INPUT, check_no_media
from vlm2vec_service.frontend.http.own_words import Wording, in_own_words
from vlm2vec_service.frontend.http.shapes import Shape
from vlm2vec_service.frontend.parsing import parsed
from vlm2vec_service.preprocess.data_uri import DataUri, is_data_uri, read_base64
from vlm2vec_service.preprocess.pictures import MAX_FPS, MIN_FPS
from vlm2vec_service.preprocess.prepared import Medium
from vlm2vec_service.settings import Limits

T = TypeVar("T")

FRAMES = "video/jpeg"
"""The media type of a video as JPEG frames, base64, with commas between; ``fps`` is a parameter."""
MEDIA = {
    "image_url": Medium.IMAGE,
    "video_url": Medium.VIDEO,
    "audio_url": Medium.AUDIO,
    "input_audio": Medium.AUDIO,
    "image": Medium.IMAGE,
}
"""The keys of an input that hold media, and the types of parts."""
BARE = ("input_audio", "image")
"""Those of them that may be base64 without anything before it."""


@dataclass(frozen=True)
class Task:
    """The instruction for inputs that have none of their own, and its ``field`` in the body."""

    instruction: str = ""
    field: str = "instruction"


class InputReader:
    """Checks and converts the inputs of one request, all within `taken`.

    ``field`` is where a value stands in the body, for errors. What is wrong raises
    `InvalidInputError`. ``ways`` is what such an error says to who sends media as text.
    """

    def __init__(self, limits: Limits, max_inputs: int, ways: str = IN_INPUT) -> None:
        self.limits = limits
        self.max_inputs = max_inputs
        self.ways = ways
        self._remote: list[RemoteMedia] = []
        self._wordings: list[Wording] = []

    async def taken(self, read: Callable[[], T], size: int, fetcher: Fetcher) -> T:
        """The inputs that ``read`` makes by this reader of a body of ``size`` bytes, filled with
        what their URLs point to."""
        inputs = await parsed(read, size)
        if self._remote:
            await fetcher.fill(self._remote, current.get())
        return inputs

    @contextlib.contextmanager
    def own_words(self, names: Mapping[str, str] = {}, first: int = 0) -> Iterator[None]:
        """Gives the errors of a gRPC call with the inputs that were read the fields that the caller
        wrote; ``first`` of them come before those that the call has a list of, and ``names`` has
        fields of its options."""
        try:
            yield
        except InvalidInputError as error:
            if error.field in names:
                raise InvalidInputError(names[error.field], error.problem) from error
            raise in_own_words(error, self._wordings, first) from error

    def inputs(self, value: Any, field: str, task: Task) -> list[pb.Input]:
        """Reads one input or a list of them."""
        if INPUT.is_many(value):
            return self.many(value, field, task)
        return [self.one(value, field, task)]

    def many(self, values: Any, field: str, task: Task, shape: Shape = MANY) -> list[pb.Input]:
        """Reads a list of 1 to ``max_inputs`` inputs of ``shape``, or what it allows instead of a
        list: one input."""
        items = self._items(values, field, shape)
        return [self._input(item, name, task) for name, item in items]

    def media(self, urls: Any, field: str, task: Task, kind: str) -> list[pb.Input]:
        """Reads a list of 1 to ``max_inputs`` URLs of media, each of which is an input; ``kind`` is
        one of `MEDIA`."""
        items = self._items(urls, field, URLS)
        return [self.row([(kind, url, name)], name, task) for name, url in items]

    def row(
        self, pieces: Sequence[tuple[str, str | bytes, str]], field: str, task: Task
    ) -> pb.Input:
        """Makes one input of ``pieces``: of each its kind, ``text`` or one of `MEDIA`; its text, or
        its file or URL; and its field."""
        message, wording = self._begin(field, task)
        for kind, value, place in pieces:
            if isinstance(value, str) and kind == "text":
                self._text(message, wording, value, place)
            else:
                self._media(message, wording, kind, value, place)
        return message

    def one(self, value: Any, field: str, task: Task) -> pb.Input:
        """Reads a string, token ids, or an object."""
        ONE.check(value, field)
        return self._input(value, field, task)

    def chat(self, value: Any, task: Task) -> pb.Input:
        """Reads the messages of a chat as one input: what the system says is the instruction, what
        all others say is embedded."""
        MESSAGES.check(value, "messages")
        message, wording = self._begin("messages", task)
        for index, item in enumerate(value):
            content, field = item["content"], f"messages[{index}].content"
            if item["role"] in ("system", "developer"):
                message.instruction, wording.instruction = _words(content), field
            elif item["role"] == "user" or _words(content):  # an empty turn is to be continued
                self._content(message, wording, content, field)
        return message

    def _items(self, values: Any, field: str, shape: Shape) -> list[tuple[str, Any]]:
        """What ``shape`` allows, a list or one item, as items with their fields."""
        if isinstance(values, list):
            # Counted first: how long a list may be checked for is not the caller's choice.
            self._check_count(len(values), field)
            shape.check(values, field)
            return [(f"{field}[{index}]", item) for index, item in enumerate(values)]
        shape.check(values, field)
        items = separate(values)
        self._check_count(len(items), field)
        return [(field + place, item) for place, item in items]

    def _check_count(self, count: int, field: str) -> None:
        if not 1 <= count <= self.max_inputs:
            raise InvalidInputError(
                field, f"{count} given; 1 to max_inputs, {self.max_inputs}, are accepted"
            )

    def _begin(self, field: str, task: Task) -> tuple[pb.Input, Wording]:
        """An input that is to be filled, and what notes the fields of what it is filled with."""
        wording = Wording(field, task.field)
        self._wordings.append(wording)
        return pb.Input(instruction=task.instruction), wording

    def _input(self, value: Any, field: str, task: Task) -> pb.Input:
        """Converts a value of the shape `ONE`."""
        message, wording = self._begin(field, task)
        if isinstance(value, str):
            check_no_media(value, field, self.ways)
            self._text(message, wording, value, field)
        elif isinstance(value, list):
            message = pb.Input(token_ids=value)
        else:
            self._object(message, wording, {k: v for k, v in value.items() if v is not None})
        return message

    def _object(self, message: pb.Input, wording: Wording, values: dict[str, Any]) -> None:
        """Adds the values of the shape `ITEM` that are not null."""
        field = wording.field
        if "prompt" in values:
            # The shared instruction is for inputs that are not a whole prompt already.
            message.prompt, message.instruction = values["prompt"], ""
            wording.prompt = f"{field}.prompt"
        if "instruction" in values:
            message.instruction, wording.instruction = values["instruction"], f"{field}.instruction"
        if "text" in values:
            self._text(message, wording, values["text"], f"{field}.text")
        for kind in (kind for kind in MEDIA if kind in values):
            self._media(message, wording, kind, values[kind], f"{field}.{kind}")
        if "content" in values:
            self._content(message, wording, values["content"], f"{field}.content")

    def _content(self, message: pb.Input, wording: Wording, value: Any, field: str) -> None:
        """Adds a value of the shape `CONTENT`."""
        if isinstance(value, str):
            check_no_media(value, field, IN_CHAT)
            self._text(message, wording, value, field)
            return
        for index, item in enumerate(value):
            kind = item["type"]
            named = f"{field}[{index}].{kind}"
            if kind == "text":
                self._text(message, wording, item[kind], named)
            else:
                self._media(message, wording, kind, item[kind], named)

    def _text(self, message: pb.Input, wording: Wording, value: str, field: str) -> None:
        message.parts.add(text=value)
        wording.parts.append(("text", field))

    def _media(
        self, message: pb.Input, wording: Wording, kind: str, value: Any, field: str
    ) -> None:
        """Adds a medium: a `URL`, what `INPUT_AUDIO` has, or the bytes of a file; where ``kind`` is
        of `BARE`, it may be bare base64."""
        medium = MEDIA[kind]
        url = value
        if isinstance(value, dict):
            url = value["data" if kind == "input_audio" else "url"]
        part = message.parts.add()
        wording.parts.append((medium.value, field))
        limit = f"max_{medium.value}s"
        most = getattr(self.limits, limit)
        if sum(medium.value == one for one, _ in wording.parts) > most:
            raise InvalidInputError(field, f"more than {limit}, {most}")
        if isinstance(url, bytes):
            fill_part(part, medium, url)
        elif is_data_uri(url):
            self._data(part, medium, DataUri.parse(url, field), field)
        elif kind in BARE and "://" not in url[:20]:
            limit = f"max_{medium.value}_bytes"
            fill_part(part, medium, read_base64(url, field, self.limits, limit))
        else:
            self._remote.append(RemoteMedia(part, medium, url, field))

    def _data(self, part: pb.Part, medium: Medium, data: DataUri, field: str) -> None:
        """Fills ``part`` with what a data URI holds."""
        if medium is not Medium.VIDEO or data.type != FRAMES or not data.base64:
            if "fps" in data.parameters:
                raise InvalidInputError(
                    field, f"fps is for frames: data:{FRAMES};fps=2;base64,FRAME,FRAME"
                )
            fill_part(part, medium, data.read(field, self.limits, f"max_{medium.value}_bytes"))
            return
        if data.uri.count(",", data.start) >= self.limits.max_video_frames:
            most = self.limits.max_video_frames
            raise InvalidInputError(field, f"more frames than max_video_frames, {most}")
        if "fps" in data.parameters:
            part.video.frames.fps = _fps(data.parameters["fps"], field)
        part.video.frames.images.extend(
            read_base64(frame, field, self.limits, "max_image_bytes")
            for frame in data.uri[data.start :].split(",")
        )


def separate(value: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What an object of the shape `ITEM` stands for in the place of a list, each with its place in
    it: itself or, if it has a list of parts and nothing else, each of these, as vLLM reads it."""
    given = [key for key, item in value.items() if item is not None]
    if given != ["content"] or isinstance(value["content"], str):
        return [("", value)]
    parts = enumerate(value["content"])
    return [(f".content[{i}]", {part["type"]: part[part["type"]]}) for i, part in parts]


def _fps(value: str, field: str) -> float:
    """Reads how many frames are shown in a second. Raises `InvalidInputError`."""
    try:
        fps = float(value)
    except ValueError:
        fps = 0.0
    if not MIN_FPS <= fps <= MAX_FPS:
        raise InvalidInputError(
            field, f"fps={value[:20]}: expected a number from {MIN_FPS:g} to {MAX_FPS:g}"
        )
    return fps


def _words(content: Any) -> str:
    """What a message of a chat says that is text alone."""
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part["type"] == "text")
