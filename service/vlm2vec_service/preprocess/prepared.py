"""What enters preprocessing and what leaves it."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.pictures import Frames, Picture, Pictures, VideoSource
from vlm2vec_service.preprocess.sampling import Sampling

DIGEST_BYTES = 16
FRAMES_A_SECOND = 100
"""Frames that the log-mel of an audio has for a second of it."""

Kind: TypeAlias = Literal["image", "video", "audio"]


class Medium(Enum):
    """What stands among the parts of a request for its next image, video or audio."""

    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"


class AudioSource(Protocol):
    """An audio that has been measured and is not decoded yet."""

    def samples(self, seconds: float) -> npt.NDArray[np.float32]:
        """Decodes the first ``seconds`` of it, mixed to one channel of 16,000 samples a second.

        Raises `InvalidInputError` that names the field of a damaged one, and what `Stop.check`
        does.
        """


class Sources(NamedTuple):
    """The media of a request, in order within each kind, for which a preprocessor finds places."""

    images: Sequence[Pictures] = ()
    videos: Sequence[Pictures] = ()
    audios: Sequence[AudioSource] = ()


@dataclass(slots=True)  # a frozen one takes three times as long to make, and each input makes one
class Request:
    """One input as the caller wrote it, with its pictures measured.

    It has a raw ``prompt`` with the model's own placeholders, or an ``instruction`` and a
    ``text`` that the adapter's prompt template joins, or ``token_ids`` of the model's own
    tokenizer and nothing else. ``parts`` has the texts instead of ``text`` where there are several
    or the media stand among them; without it they are images, videos, audios and text. ``images``
    and ``videos`` are files that are decoded when the input is prepared, as the adapter wants it,
    or RGB pictures; a video may be its frames. ``audios`` are files or samples.
    ``truncate`` is how many tokens the input is cut to where it has more, from the end of its text;
    0 is as many as there may be, None cuts nothing.
    """

    prompt: str | None = None
    instruction: str | None = None
    text: str | None = None
    parts: tuple[str | Medium, ...] = ()
    images: tuple[Picture, ...] = ()
    videos: tuple[Frames | VideoSource, ...] = ()
    audios: tuple[AudioSource, ...] = ()
    token_ids: tuple[int, ...] = ()
    truncate: int | None = None

    @property
    def has_media(self) -> bool:
        """Whether anything is to be seen or heard."""
        return bool(self.images or self.videos or self.audios)

    @property
    def texts(self) -> tuple[str, ...]:
        """Lists the texts in their order."""
        if self.text is not None:
            return (self.text,)
        return tuple([part for part in self.parts if isinstance(part, str)])

    @property
    def in_order(self) -> tuple[str | Medium, ...]:
        """Lists texts and media in the caller's order."""
        media = (Medium.IMAGE,) * len(self.images) + (Medium.VIDEO,) * len(self.videos)
        return self.parts or media + (Medium.AUDIO,) * len(self.audios) + self.texts


@dataclass(frozen=True)
class Media:
    """One image, video or audio that is ready for the engine.

    ``values`` are the resized pixels of an image or video, uint8 ``(frames, height, width, 3)``, or
    the log-mel of an audio, float32 ``(frames, bands)``. ``start`` is the index of its first token
    in the input and ``tokens`` the number of tokens that it takes there. ``digest`` is
    `DIGEST_BYTES` long; where two are equal the kinds and the values are, and a file that is
    prepared twice in one way has the same one twice.
    """

    kind: Kind
    values: npt.NDArray[Any]
    start: int
    tokens: int
    digest: bytes

    @classmethod
    def of(
        cls,
        kind: Kind,
        values: npt.NDArray[Any],
        start: int,
        tokens: int,
        pictures: Pictures | None = None,
    ) -> "Media":
        """Makes a `Media` and computes its digest from ``kind`` and ``values``, or for less from
        the file of ``pictures``, if that is what ``values`` are the pixels of."""
        content: bytes | memoryview = np.ascontiguousarray(values).data
        made = f"{kind}{values.shape}"
        if pictures is not None and pictures.file and len(pictures.file) < values.nbytes:
            content, made = pictures.file, f"{made} of a file: {pictures.steps}"
        # Processors have instructions for it: it takes half the time of BLAKE2.
        digest = hashlib.sha256(f"{len(made)} {made}".encode())
        digest.update(content)
        return cls(kind, values, start, tokens, digest.digest()[:DIGEST_BYTES])


@dataclass(slots=True)
class Prepared:
    """One input as the engine takes it.

    ``token_ids`` is int32 ``(n,)``; where media stand it holds the model's placeholder id, or
    ``-N`` for image N in a family whose placeholders are no tokens. ``positions`` is int32
    ``(3, n)`` and holds the temporal, height and width position of each token; all three are
    equal where the family counts tokens and nothing else. ``truncated`` says whether the end of the
    text was left out. The vector is the mean of the last ``pooled`` tokens; ``both_ways`` says
    whether a token attends to those behind it as well.
    """

    token_ids: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    media: tuple[Media, ...] = field(default=())
    truncated: bool = False
    pooled: int = 1
    both_ways: bool = False

    @classmethod
    def in_sequence(cls, token_ids: Sequence[int], media: tuple[Media, ...] = ()) -> "Prepared":
        """Makes an input whose positions are 0, 1, 2 and so on, on all three axes."""
        return cls(np.asarray(token_ids, np.int32), in_order(len(token_ids)), media)

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def audio_seconds(self) -> float:
        """Seconds of its audios, by the frames of their log-mels."""
        frames = sum(len(media.values) for media in self.media if media.kind == "audio")
        return frames / FRAMES_A_SECOND

    @property
    def nbytes(self) -> int:
        """Bytes that its arrays take in memory, at most."""
        media = sum(media.values.nbytes for media in self.media)
        return self.token_ids.nbytes + self.positions.nbytes + media


class Draft(NamedTuple):
    """An input whose tokens are known, and whose pictures are not decoded yet.

    ``truncated`` is as in the `Prepared` that ``finish`` makes, which decodes one picture at a time
    and raises `InvalidInputError` for one that is damaged. The last of its media ends before the
    token ``media_end``.
    """

    tokens: int
    truncated: bool
    finish: Callable[[], Prepared]
    media_end: int = 0

    def cut(self, most: int, tail: int) -> "Draft":
        """Leaves ``most`` tokens: the first ones, and the last ``tail``, which end every input.
        Raises `InvalidInputError` where tokens of media would be left out."""
        if self.tokens <= most:
            return self
        if self.media_end > most - tail:
            raise InvalidInputError(
                "input",
                f"its media end at token {self.media_end}, and the model takes no more than {most}",
            )

        def finish() -> Prepared:
            whole = self.finish()
            ids = np.delete(whole.token_ids, slice(most - tail, self.tokens - tail))
            return replace(whole, token_ids=ids, positions=whole.positions[:, :most])

        return self._replace(tokens=most, truncated=True, finish=finish)


@functools.lru_cache(256)
def in_order(length: int) -> npt.NDArray[np.int32]:
    """The positions 0, 1, 2 and so on, the same on all three axes: int32 ``(3, length)``, of which
    there is one for all inputs of that length, not to be written to."""
    return np.broadcast_to(np.arange(length, dtype=np.int32), (3, length))


TOKEN_BYTES = 4 + 3 * 4
"""Bytes of a token: its id and three positions."""
PIXEL_BYTES = 2 * 32 * 32 * 3
"""Most bytes of pixels for a token of any family: Qwen3-VL takes two frames of 32 x 32 pixels."""


def most_bytes(tokens: int, has_media: bool) -> int:
    """The most that a `Prepared` of so many ``tokens`` takes in memory, before it is made."""
    return tokens * (TOKEN_BYTES + has_media * PIXEL_BYTES)


class Preprocessor(Protocol):
    """Turns requests into prepared inputs; many threads may call it at once."""

    def sampling(self, embedding: EmbeddingConfig, frames: int) -> Sampling:
        """Says which frames of a video file are taken, ``frames`` being how many of any."""

    def prepare(self, request: Request, embedding: EmbeddingConfig) -> Prepared:
        """Turns ``request`` into the engine's input, as the adapter's ``embedding`` says.

        Raises `InvalidInputError` that names the field at fault.
        """
