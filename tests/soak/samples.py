"""Inputs that can be embedded, each in the form that every way in takes."""

import base64
import io
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tests.e2e.cases import case_inputs
from vlm2vec import Input
from vlm2vec.v1 import embedding_pb2 as pb

MODEL = "qwen"
"""The name of the model, as the test servers have it."""
CASE_IDS = ("text", "text-unicode", "image-tiny", "image-two", "video")
"""The parity cases of few tokens, whose golden vectors say whether the others can be believed."""
WORDS = (
    "a cat", "two boats", "the old harbour", "北京的寺庙", "naïve", "red", "at night", "🛕", "with",
    "of the", "on a lake", "seven", "café", "under snow", "reads", "behind",
)  # fmt: skip
TASKS = ("", "Represent the given text.", "Find an image that matches the given caption:")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")


@dataclass(frozen=True)
class Sample:
    """One input. Words are a ``prompt``, or ``instruction`` and ``text``; ``images`` are encoded
    files, and ``frames`` those of its video."""

    name: str
    prompt: str = ""
    instruction: str = ""
    text: str = ""
    images: tuple[bytes, ...] = ()
    frames: tuple[bytes, ...] = ()

    def message(self) -> pb.Input:
        """The input for gRPC."""
        parts = [pb.Part(image=image) for image in self.images]
        if self.frames:
            parts.append(pb.Part(video=pb.Video(frames=pb.Frames(images=self.frames))))
        if self.text:
            parts.append(pb.Part(text=self.text))
        return pb.Input(prompt=self.prompt or None, instruction=self.instruction, parts=parts)

    def body(self) -> dict[str, Any]:
        """The input for ``/v1/embeddings``."""
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": data_uri(image)}} for image in self.images
        ]
        if self.frames:
            frames = ",".join(base64.b64encode(frame).decode() for frame in self.frames)
            url = f"data:video/jpeg;base64,{frames}"
            content.append({"type": "video_url", "video_url": {"url": url}})
        if self.text:
            content.append({"type": "text", "text": self.text})
        words = {"prompt": self.prompt, "instruction": self.instruction}
        return {key: value for key, value in words.items() if value} | {"content": content}

    def line(self) -> dict[str, Any]:
        """The input as a line of ``vlm2vec embed``, without id and adapter."""
        values = {
            "prompt": self.prompt, "instruction": self.instruction, "text": self.text,
            "images": [data_uri(image) for image in self.images],
            "video": [data_uri(frame) for frame in self.frames],
        }  # fmt: skip
        return {key: value for key, value in values.items() if value}

    def for_client(self) -> Input:
        """The input for the Python client."""
        return Input(
            text=self.text or None,
            instruction=None if self.prompt else self.instruction,
            images=self.images,
            video=self.frames or None,
            prompt=self.prompt or None,
        )


def data_uri(data: bytes) -> str:
    """A file as a data URI; what kind of image it is, the server sees by itself."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def samples(seed: int) -> list[Sample]:
    """The parity cases and others, the same for every ``seed`` that is the same."""
    choose = random.Random(seed)
    return [
        *(_parity_case(id) for id in CASE_IDS),
        *(_text(choose, number) for number in range(24)),
        *(_picture(choose, number) for number in range(12)),
        *(_film(choose, number) for number in range(3)),
    ]


def _parity_case(id: str) -> Sample:
    message = case_inputs(MODEL)[id]
    return Sample(
        f"case-{id}",
        prompt=message.prompt,
        images=tuple(part.image for part in message.parts if part.HasField("image")),
        frames=tuple(frame for part in message.parts for frame in part.video.frames.images),
    )


def _text(choose: random.Random, number: int) -> Sample:
    words = " ".join(choose.choices(WORDS, k=choose.randint(1, 40)))
    return Sample(
        f"text-{number}", instruction=choose.choice(TASKS), text=f"Number {number}: {words}."
    )


def _picture(choose: random.Random, number: int) -> Sample:
    images = tuple(
        encoded(noise(choose, choose.randint(28, 140), choose.randint(28, 140)), name)
        for name in choose.choices(FORMATS, k=choose.choice((1, 1, 2)))
    )
    return Sample(f"picture-{number}", text=f"Picture {number}", images=images)


def _film(choose: random.Random, number: int) -> Sample:
    frames = tuple(encoded(noise(choose, 56, 56), "PNG") for _ in range(choose.randint(2, 4)))
    return Sample(f"film-{number}", text=f"Film {number}", frames=frames)


def noise(choose: random.Random, width: int, height: int) -> Image.Image:
    """A picture that no other call gives again."""
    generator = np.random.default_rng(choose.getrandbits(64))
    coarse = generator.integers(0, 256, (5, 5, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(picture: Image.Image, format: str) -> bytes:
    """The picture as a file."""
    buffer = io.BytesIO()
    picture.save(buffer, format)
    return buffer.getvalue()
