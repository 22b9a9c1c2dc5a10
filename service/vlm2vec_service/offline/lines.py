"""From the lines of a JSON-lines file to requests, with media measured and limits kept."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm2vec_registry.strict import is_number
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.data_uri import DataUri, is_data_uri
from vlm2vec_service.preprocess.images import EncodedImage, measure_image
from vlm2vec_service.preprocess.pictures import MAX_FPS, MIN_FPS, Frames, VideoSource
from vlm2vec_service.preprocess.prepared import AudioSource, Medium, Request
from vlm2vec_service.preprocess.sampling import Sampling
from vlm2vec_service.settings import Limits

BESIDE_PARTS = ("prompt", "text", "images", "video", "videos", "audio", "audios")
"""Keys that say what ``parts`` says."""
KEYS = {"id", "adapter", "instruction", "parts", *BESIDE_PARTS}
UNWRITABLE = re.compile(r"[\0\ud800-\udfff]")
"""Characters that JSON can hold and a name in an output file cannot."""


@dataclass(frozen=True)
class Line:
    """A request with the id of its vector and the adapter to use; None is the base model."""

    id: str
    adapter: str | None
    request: Request


@dataclass(frozen=True)
class LineReader:
    """Reads lines within ``limits``; relative paths start at ``folder``.

    ``sampling`` says which frames of a video file the adapter of a line takes.
    """

    folder: Path
    limits: Limits
    sampling: Callable[[str | None], int | Sampling]

    def parse(self, data: bytes) -> Line:
        """Reads one line and the files that it names.

        Raises `InvalidInputError` naming the key at fault.
        """
        try:
            values = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InvalidInputError("line", f"no JSON: {error}") from error
        if not isinstance(values, dict):
            raise InvalidInputError("line", "expected a JSON object")
        values = {key: value for key, value in values.items() if value is not None}
        if unknown := sorted(set(values) - KEYS):
            raise InvalidInputError(unknown[0], f"unknown key; known are {', '.join(sorted(KEYS))}")
        for key in ("adapter", "prompt", "instruction", "text"):
            if not isinstance(values.get(key, ""), str):
                raise InvalidInputError(key, "expected a string")
        if not isinstance(values.get("id"), str | int) or values["id"] == "":
            raise InvalidInputError("id", "every line needs one, a string or a number")
        if UNWRITABLE.search(str(values["id"])) or len(str(values["id"])) > 1024:
            raise InvalidInputError(
                "id", "longer than 1024, or with a NUL or half a surrogate pair"
            )
        for one in ("video", "audio"):
            if one in values and f"{one}s" in values:
                raise InvalidInputError(f"{one}s", f"beside {one}: give one or the other")
        if "parts" in values:
            return Line(str(values["id"]), values.get("adapter"), self._of_parts(values))
        request = Request(
            prompt=values.get("prompt"),
            instruction=values.get("instruction"),
            text=values.get("text"),
            images=self._images(values.get("images", []), "images", "max_images"),
            videos=self._videos(values),
            audios=self._audios(values),
        )
        return Line(str(values["id"]), values.get("adapter"), request)

    def _of_parts(self, values: dict[str, Any]) -> Request:
        """Takes texts and media in the order in which they stand."""
        given = values["parts"]
        if beside := [key for key in BESIDE_PARTS if key in values]:
            raise InvalidInputError(beside[0], "beside parts: give one or the other")
        if not isinstance(given, list) or not all(_is_part(part) for part in given):
            kinds = '{"text": ...}, {"image": ...}, {"video": ...} or {"audio": ...}'
            raise InvalidInputError("parts", f"expected a list, each of it {kinds}")
        for medium in Medium:
            kind, limit = medium.value, f"max_{medium.value}s"
            count, most = sum(kind in part for part in given), getattr(self.limits, limit)
            if count > most:
                raise InvalidInputError("parts", f"{count} {kind}s are more than {limit}, {most}")
        parts: list[str | Medium] = []
        images: list[EncodedImage] = []
        videos: list[Frames | VideoSource] = []
        audios: list[AudioSource] = []
        for index, part in enumerate(given):
            ((kind, source),) = part.items()
            field = f"parts[{index}].{kind}"
            if kind == "text":
                parts.append(source)
                continue
            parts.append(Medium(kind))
            if kind == "image":
                images.append(self._image(source, field))
            elif kind == "audio":
                audios.append(self._audio(source, field))
            else:
                videos.append(self._video(source, field, values.get("adapter")))
        return Request(
            instruction=values.get("instruction"),
            parts=tuple(parts),
            images=tuple(images),
            videos=tuple(videos),
            audios=tuple(audios),
        )

    def _images(self, sources: Any, field: str, limit: str) -> tuple[EncodedImage, ...]:
        if not isinstance(sources, list):
            raise InvalidInputError(field, "expected a list of paths or data URIs")
        if len(sources) > (most := getattr(self.limits, limit)):
            raise InvalidInputError(field, f"{len(sources)} are more than {limit}, {most}")
        return tuple(self._image(source, f"{field}[{i}]") for i, source in enumerate(sources))

    def _image(self, source: Any, field: str) -> EncodedImage:
        return measure_image(self._read(source, field, "max_image_bytes"), self.limits, field)

    def _videos(self, values: dict[str, Any]) -> tuple[Frames | VideoSource, ...]:
        adapter, named = values.get("adapter"), self._several(values, "video")
        return tuple(self._video(source, field, adapter) for field, source in named.items())

    def _audios(self, values: dict[str, Any]) -> tuple[AudioSource, ...]:
        named = self._several(values, "audio")
        return tuple(self._audio(source, field) for field, source in named.items())

    def _several(self, values: dict[str, Any], one: str) -> dict[str, Any]:
        """The media under the name of a kind, ``one``, or under its plural, by their fields."""
        many = f"{one}s"
        sources = values.get(many, [])
        if not isinstance(sources, list):
            raise InvalidInputError(many, f"expected a list of {many}")
        if len(sources) > (most := getattr(self.limits, f"max_{many}")):
            raise InvalidInputError(many, f"{len(sources)} are more than max_{many}, {most}")
        if values.get(one, []) != []:
            return {one: values[one]}
        return {f"{many}[{index}]": source for index, source in enumerate(sources)}

    def _audio(self, source: Any, field: str) -> AudioSource:
        # PyAV is needed, and so imported, for files of audio and video alone.
        from vlm2vec_service.preprocess.audio import measure_audio

        return measure_audio(self._read(source, field, "max_audio_bytes"), self.limits, field)

    def _video(self, source: Any, field: str, adapter: str | None) -> Frames | VideoSource:
        """Takes the frames of a video, which may say how many are shown in a second, or a file."""
        if isinstance(source, list):
            return Frames(self._images(source, field, "max_video_frames"))
        if isinstance(source, dict):
            if unknown := sorted(set(source) - {"frames", "fps"}):
                raise InvalidInputError(f"{field}.{unknown[0]}", "unknown key; known: fps, frames")
            fps = source.get("fps")
            if fps is not None and not is_number(fps, MIN_FPS, MAX_FPS):
                raise InvalidInputError(
                    f"{field}.fps", f"expected a number from {MIN_FPS:g} to {MAX_FPS:g}"
                )
            pictures = self._images(source.get("frames"), f"{field}.frames", "max_video_frames")
            return Frames(pictures, fps)
        from vlm2vec_service.preprocess.video import sample_video

        data = self._read(source, field, "max_video_bytes")
        return sample_video(data, self.sampling(adapter), self.limits, field)

    def _read(self, source: Any, field: str, limit: str) -> bytes:
        if not isinstance(source, str):
            raise InvalidInputError(field, "expected a path or a data URI")
        if is_data_uri(source):
            return DataUri.parse(source, field).read(field, self.limits, limit)
        path = self.folder / source
        try:
            size = path.stat().st_size
            if size > (most := getattr(self.limits, limit)):
                raise InvalidInputError(
                    field, f"{path}: {size} bytes are more than {limit}, {most}"
                )
            return path.read_bytes()
        except OSError as error:
            raise InvalidInputError(field, f"{path}: {error.strerror}") from error
        except ValueError as error:  # a NUL, or half a surrogate pair
            raise InvalidInputError(field, f"no path: {error}") from error


def _is_part(part: Any) -> bool:
    """Whether ``part`` is an object with one kind of content, of which text is a string."""
    if not isinstance(part, dict) or len(part) != 1:
        return False
    ((kind, content),) = part.items()
    return kind in {medium.value for medium in Medium} or (
        kind == "text" and isinstance(content, str)
    )
