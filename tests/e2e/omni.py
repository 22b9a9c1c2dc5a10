"""A server of a tiny Qwen2.5-Omni, and the parity cases with audio as it is sent them."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.e2e.cases import Vector, options, unpack
from tests.e2e.server import Server, running_server
from tests.parity.audio_specs import wav, waveform
from tests.parity.backbone_cases import CASES, DATA, goldens
from tests.parity.make_backbones import write_all
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_registry import preset

OMNI = {case["id"]: case for case in CASES["qwen2_5_omni"]}
TWO = OMNI["chat-audio-two"]
"""A case of two audios in the form of the adapter ``lora``."""


@contextlib.contextmanager
def running_omni(folder: Path) -> Iterator[Server]:
    """Starts a server of a model ``omni`` in the form of VLM2Vec's third generation, and its
    version ``lora`` in that of chats. Both take as much of an audio as the cases do."""
    write_all(folder, "qwen2_5_omni_thinker")
    adapter = shutil.copytree(DATA / "adapters" / "qwen2_5_omni" / "lora", folder / "lora")
    for name, file in (
        ("vlm2vec-v3", folder / "v3.json"),
        ("omni-chat", adapter / "embedding.json"),
    ):
        embedding = replace(preset.read(name).embedding, audio_max_seconds=10.24)
        file.write_text(json.dumps(embedding.to_dict()))
    flags = (
        "--model", f"omni={folder / 'qwen2_5_omni_thinker'}", "--embedding",
        f"omni={folder / 'v3.json'}", "--adapter", f"omni/lora={adapter}", "--alias",
        "omni@champion=base", "--dtype", "float32", "--max-audio-bytes", "1000000",
    )  # fmt: skip
    with running_server(folder, *flags) as started:
        yield started


def golden(id: str, version: str = "base") -> Vector:
    return goldens()[f"qwen2_5_omni/{version}/{id}"]


def grpc_vectors(server: Server, *inputs: pb.Input, version: str = "base") -> list[Vector]:
    request = pb.EmbedRequest(options=options("omni", version), inputs=inputs)
    return [unpack(item.vector) for item in server.embedding.Embed(request).embeddings]


def files(id: str) -> list[bytes]:
    """The audios of a case as WAV files."""
    return [wav(spec) for spec in OMNI[id]["audios"]]


def samples(spec: dict[str, Any]) -> pb.Samples:
    """An audio as samples, in the format of its case."""
    sound = waveform(spec)
    integers = spec["format"] == "int16"
    return pb.Samples(
        data=((sound * 32768).astype("<i2") if integers else sound).tobytes(),
        format=pb.SAMPLE_FORMAT_INT16 if integers else pb.SAMPLE_FORMAT_FLOAT32,
        rate=spec["rate"],
        channels=sound.shape[1],
    )
