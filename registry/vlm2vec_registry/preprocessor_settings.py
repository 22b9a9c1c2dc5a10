"""``preprocessor_config.json`` beside an adapter: what of it `embedding.json` can say."""

from pathlib import Path
from typing import Any

from vlm2vec_registry.errors import ArtifactError
from vlm2vec_registry.strict import FormatError, read_object, shown

FILE_NAME = "preprocessor_config.json"
AREAS = {
    "min_pixels": ("shortest_edge", "min_pixels"),
    "max_pixels": ("longest_edge", "max_pixels"),
}
"""Settings of Qwen2-VL, and their names in ``size`` where a newer transformers wrote the file."""
QWEN_KEY = "merge_size"
"""A key that only files of Qwen2-VL's kind have: the edges in their ``size`` are areas."""
FIXED = (
    "image_mean", "image_std", "merge_size", "num_img_tokens", "patch_size", "temporal_patch_size",
)  # fmt: skip
USUAL = {
    "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
    "resample": 3, "rescale_factor": 1 / 255,
}  # fmt: skip
"""Settings, as `FIXED`, that a base alone decides, with what a file means that leaves them out."""


def differing(path: Path, base: Path | None) -> dict[str, Any]:
    """The image settings of the file ``path``, in the terms of ``embedding.json``, that differ from
    those of the checkpoint ``base``; all of them where ``base`` is None.

    Raises `FormatError` for values of a wrong type, and `ArtifactError` where the two files differ
    in what an adapter cannot decide, such as the mean of the pixels.
    """
    values = read_object(path)
    found = _settings(values, path)
    if base is None:
        return found
    beside = read_object(base / FILE_NAME)
    usual = {**dict.fromkeys(FIXED), **USUAL}
    for key, default in usual.items():
        ours, theirs = values.get(key, default), beside.get(key, default)
        if ours is not None and theirs is not None and ours != theirs:
            raise ArtifactError(
                f"{path}: {key} is {shown(ours)}, but {shown(theirs)} in the base's; an adapter "
                f"cannot change it. If it does not matter, take it out of the file"
            )
    known = _settings(beside, base / FILE_NAME)
    return {key: value for key, value in found.items() if known.get(key) != value}


def _settings(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The settings among the ``values`` of the file ``path`` that ``embedding.json`` knows."""
    size = values.get("size")
    size = size if isinstance(size, dict) else {}
    areas = size if QWEN_KEY in values else {}
    found = {
        key: next((x for x in (values.get(key), *map(areas.get, names)) if x is not None), None)
        for key, names in AREAS.items()
    }
    found["num_crops"] = values.get("num_crops")
    for key, value in found.items():
        if value is not None and not (type(value) is int and value > 0):
            raise FormatError(f"{path}: {key}: expected a positive number, got {shown(value)}")
    result: dict[str, Any] = {key: value for key, value in found.items() if value is not None}
    if {"width", "height"} <= set(size) and values.get("do_resize", True):
        result["resize"] = [size["width"], size["height"]]
    return result
