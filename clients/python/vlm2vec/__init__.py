"""Client of vlm2vec-serve, which turns text, images, video and audio into vectors, over gRPC."""

from vlm2vec.aio.client import AsyncClient
from vlm2vec.audio import Samples
from vlm2vec.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidInput,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    SpaceChanged,
    Unauthenticated,
    Unavailable,
    VLM2VecError,
)
from vlm2vec.inputs import Input
from vlm2vec.media import Frames
from vlm2vec.options import Options
from vlm2vec.results import Embedding, Model, ModelVersion, Ranked, Ranking, Timings
from vlm2vec.sync.client import Client
from vlm2vec.version import __version__

__all__ = [
    "AsyncClient",
    "Client",
    "DeadlineExceeded",
    "Embedding",
    "FailedPrecondition",
    "Frames",
    "Input",
    "Internal",
    "InvalidInput",
    "Model",
    "ModelVersion",
    "NotFound",
    "Options",
    "PermissionDenied",
    "Ranked",
    "Ranking",
    "ResourceExhausted",
    "Samples",
    "SpaceChanged",
    "Timings",
    "Unauthenticated",
    "Unavailable",
    "VLM2VecError",
    "__version__",
]
