"""An MTEB encoder on the client, so that any MTEB task of texts, images, videos and audio runs on
the service.

    with vlm2vec.Client("localhost:50051") as client:
        encoder = ServedEncoder(client, "vlm2vec-v2@champion")
        mteb.evaluate(encoder, mteb.get_tasks(["VidoreDocVQARetrieval"]))

Needs the extra ``mteb``. The interface is that of mteb 2.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import numpy.typing as npt
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import PromptType

from vlm2vec import Client, Input, Samples
from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_evaluation.layouts.recordings import decoded
from vlm2vec_evaluation.mteb_instructions import REPRESENT, mmeb_instructions
from vlm2vec_evaluation.prompts import takes
from vlm2vec_evaluation.target import find_target

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import BatchedInput, EncodeKwargs
    from torch.utils.data import DataLoader

__all__ = ["REPRESENT", "ServedEncoder", "mmeb_instructions"]

KINDS = ("video", "image", "audio")
FRAMES = 8
"""How many frames of a video are embedded, evenly spaced, as in MMEB."""


class ServedEncoder(AbsEncoder):
    """One version of a served model, as MTEB sees it.

    Its results are filed under ``vlm2vec-serve/NAME``, with the space as the revision.
    """

    mteb_model_meta: ModelMeta

    def __init__(
        self,
        client: Client,
        model: str = "",
        *,
        instructions: Mapping[str, Any] | None = None,
        window: int = 256,
    ) -> None:
        """Chooses the version that ``model``, NAME, NAME@ALIAS or NAME@VERSION, is now.

        It stays that one, whatever the alias does.

        ``instructions`` are by the name of a task, the type of a task, "query" or "document"; each
        is a string, or strings by "query" and "document". `mmeb_instructions` has VLM2Vec's.
        Without one, queries have the task's own prompt, and documents none, or that of `REPRESENT`
        where there is more than a text.

        Raises `EvaluationError` if no such model is served.
        """
        models = client.models()
        target = find_target(models, model)
        (served,) = [item for item in models if item.name == target.model]
        self.prompts_dict = dict(instructions or {})
        self._takes = takes(target.backbone)
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": f"vlm2vec-serve/{target.model}",
                "revision": target.space,
                "modalities": ["text", *self._takes],
                "embed_dim": served.dimension,
                "similarity_fn_name": ScoringFunction.COSINE,
                "use_instructions": True,
            }
        )
        self._client = client
        self._model, self._space = target.model, target.space
        self._window = window

    def encode(
        self,
        inputs: "DataLoader[BatchedInput]",
        *,
        task_metadata: "TaskMetadata",
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: "Unpack[EncodeKwargs]",
    ) -> npt.NDArray[np.float32]:
        """Embeds ``inputs`` as float32 ``(n, dim)``, in order.

        Raises `VLM2VecError` where an input has no vector.
        """
        items = (
            Input(
                text=row.text,
                images=[] if row.image is None else [row.image],
                video=row.frames,
                audios=[] if row.audio is None else [row.audio],
                instruction=self._instruction(task_metadata, prompt_type, row.shown),
            )
            for row in self._rows(inputs)
        )
        found = dict(
            self._client.stream(
                enumerate(items),
                window=self._window,
                model=self._model,
                space=self._space,
                progress=kwargs.get("show_progress_bar", False),
            )
        )
        return np.stack([np.asarray(found[index], np.float32) for index in range(len(found))])

    def _instruction(
        self, task: "TaskMetadata", prompt_type: PromptType | None, shown: str | None
    ) -> str | None:
        told = self.prompts_dict or {}
        own = told.get(task.name, told.get(task.type))
        if isinstance(own, Mapping):
            kind = prompt_type.value if prompt_type else "query" if shown else "document"
            return own.get(kind) or None
        if prompt_type is PromptType.document and own is None and "document" not in told:
            return REPRESENT[shown] if shown else None
        return self.get_instruction(task, prompt_type) or None

    def _rows(self, inputs: "DataLoader[BatchedInput]") -> "Iterator[_Row]":
        """Reads rows. Raises `EvaluationError` for media that the model does not take."""
        for batch in inputs:
            columns = dict(batch)
            lists = [columns.get(key) for key in ("text", "image", "video", "audio")]
            if other := [key for key in KINDS if key in columns and key not in self._takes]:
                raise EvaluationError(f"the model takes no {' and no '.join(other)}")
            size = max(len(one) for one in lists if one is not None)
            for text, image, video, audio in zip(
                *(one or [None] * size for one in lists), strict=True
            ):
                yield _Row(
                    text, image, None if video is None else _frames(video),
                    None if audio is None else decoded(audio),
                )  # fmt: skip


@dataclass(frozen=True)
class _Row:
    """What is embedded together; each may be missing."""

    text: str | None
    image: Any
    frames: list[npt.NDArray[np.uint8]] | None
    audio: Samples | None

    @property
    def shown(self) -> str | None:
        """The first kind of media that there is."""
        there = zip(KINDS, (self.frames, self.image, self.audio), strict=True)
        return next((kind for kind, one in there if one is not None), None)


def _frames(video: Any) -> list[npt.NDArray[np.uint8]]:
    """Takes `FRAMES` pictures ``(height, width, 3)`` of a video: of a decoder, which has them when
    they are asked for, or of all frames as an array, with the colours in front or behind."""
    places = np.linspace(0, len(video) - 1, min(FRAMES, len(video))).astype(int).tolist()
    if hasattr(video, "get_frames_at"):
        frames = np.asarray(video.get_frames_at(places).data)
    else:
        frames = np.stack([np.asarray(video[place]) for place in places])
    if frames.shape[1] == 3:
        frames = frames.transpose(0, 2, 3, 1)
    return [np.ascontiguousarray(frame, np.uint8) for frame in frames]
