"""The table of layouts. Importing it imports no reader."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlm2vec_evaluation.layouts.source import Source
    from vlm2vec_evaluation.task import PoolTask, Task


@dataclass(frozen=True)
class Layout:
    """How the files of a data set lie, and the function that reads them, as ``MODULE:FUNCTION``.

    ``options`` are the keys of a suite's data set that the reader takes, and their types.
    """

    reader: str
    options: Mapping[str, type] = field(default_factory=dict)

    def read(self, source: "Source") -> "Task | PoolTask":
        """Reads a data set. Raises `EvaluationError`, which names the file at fault."""
        module, _, name = self.reader.partition(":")
        reader: Callable[[Source], Task | PoolTask] = getattr(
            import_module(f"vlm2vec_evaluation.{module}"), name
        )
        return reader(source)


FRAMES = {"frames": str, "instruction": str, "count": int, "pad": bool}
"""The folder of frames, what is asked, how many frames are taken, and whether fewer are repeated
until they are so many."""
AUDIO = {"instruction": str, "file": str}
"""What is asked, and where the file of a row's audio is: a pattern with the row's keys."""

LAYOUTS = {
    "mmeb": Layout("data:read"),
    "video_classes": Layout(
        "layouts.video:classes", {**FRAMES, "labels": str, "choices": str, "first": int}
    ),
    "video_questions": Layout("layouts.questions:read", {**FRAMES, "style": str}),
    "video_search": Layout(
        "layouts.video:search", {**FRAMES, "target": str, "id": str, "caption": str}
    ),
    "video_clips": Layout("layouts.moments:clips", {**FRAMES, "target": str}),
    "video_moments": Layout("layouts.moments:moments", {**FRAMES, "target": str}),
    "pages": Layout(
        "layouts.pages:read",
        {"instruction": str, "target": str, "pictures": str, "language": str},
    ),
    "passages": Layout("layouts.passages:read", {"instruction": str}),
    "bright": Layout("layouts.passages:bright", {"documents": str}),
    "tools": Layout("layouts.agents:tools", {"tools": str}),
    "gui": Layout("layouts.agents:gui", {"variant": str, "pictures": str}),
    "memories": Layout("layouts.passages:memories", {"instructions": str}),
    "products": Layout("layouts.products:read", {"instruction": str, "pictures": str}),
    "omniset": Layout("layouts.omniset:read", {"asks": str, "sought": str, "folder": str}),
    "audio_classes": Layout("layouts.audio:classes", AUDIO),
    "audio_captions": Layout("layouts.audio:captions", AUDIO),
    "audio_descriptions": Layout("layouts.audio:descriptions", AUDIO),
    "audio_speech": Layout("layouts.audio:speech", {**AUDIO, "target": str}),
    "audio_videos": Layout("layouts.events:videos", {**AUDIO, "target": str}),
    "audio_segments": Layout("layouts.events:segments", {**AUDIO, "strict": bool}),
}
