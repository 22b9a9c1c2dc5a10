"""Adapter folders for tests that never run one: a valid file of settings, and weights of any
size."""

import json
import struct
from pathlib import Path


def write_adapter(folder: Path, nbytes: int = 100, byte: int = 0, **config: object) -> Path:
    """Makes ``folder`` an adapter whose weights' file has ``nbytes``, all of one tensor, each
    ``byte``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, **config}))
    count = nbytes - 8 - 72
    header = json.dumps({"a": {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}})
    data = struct.pack("<Q", 72) + header.encode().ljust(72) + bytes([byte]) * count
    assert len(data) == nbytes
    (folder / "adapter_model.safetensors").write_bytes(data)
    return folder
