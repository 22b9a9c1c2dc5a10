"""Ways in which files on a disk go bad: those of the cache, and the state file."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

WEIGHTS, CONFIG, EMBEDDING = "adapter_model.safetensors", "adapter_config.json", "embedding.json"


def _each(name: str, change: Callable[[Path], object]) -> Callable[[Path, random.Random], None]:
    """Changes the file called ``name`` of every version."""

    def damage(cache: Path, choose: random.Random) -> None:
        for path in sorted(cache.glob(f"objects/*/{name}")):
            change(path)

    return damage


def _one(name: str, change: Callable[[Path], object]) -> Callable[[Path, random.Random], None]:
    """Changes the file called ``name`` of one version."""

    def damage(cache: Path, choose: random.Random) -> None:
        if paths := sorted(cache.glob(f"objects/*/{name}")):
            change(choose.choice(paths))

    return damage


def _flip(path: Path) -> None:
    """Inverts a byte in place, as a disk does."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 0xFF]))


def _cut(path: Path) -> None:
    """Takes half of a file away, for who opens it from now on."""
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.unlink()
    path.write_bytes(half)


def _empty(path: Path) -> None:
    path.unlink()
    path.touch()


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _rubbish(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"\0\xff not what it was")


def _everything(cache: Path, choose: random.Random) -> None:
    for folder in cache.glob("objects/*/"):
        shutil.rmtree(folder)


def _one_folder(cache: Path, choose: random.Random) -> None:
    if folders := sorted(cache.glob("objects/*/")):
        shutil.rmtree(choose.choice(folders))


def _all_but_state(cache: Path, choose: random.Random) -> None:
    for name in ("objects", "incoming"):
        shutil.rmtree(cache / name, ignore_errors=True)


CACHE_DAMAGE: dict[str, Callable[[Path, random.Random], None]] = {
    "a byte of one version's weights": _one(WEIGHTS, _flip),
    "a byte of all weights": _each(WEIGHTS, _flip),
    "half of one version's weights gone": _one(WEIGHTS, _cut),
    "half of all weights gone": _each(WEIGHTS, _cut),
    "empty weights": _one(WEIGHTS, _empty),
    "no weights": _each(WEIGHTS, Path.unlink),
    "a folder for weights": _one(WEIGHTS, _folder),
    "a byte of a configuration": _one(CONFIG, _flip),
    "no configuration": _one(CONFIG, Path.unlink),
    "rubbish for a configuration": _each(CONFIG, _rubbish),
    "rubbish for embedding.json": _one(EMBEDDING, _rubbish),
    "no embedding.json": _each(EMBEDDING, Path.unlink),
    "one version gone": _one_folder,
    "all versions gone": _everything,
    "objects and incoming gone": _all_but_state,
}
"""What happens to the folder of the cache."""


def _changed(change: Callable[[dict[str, Any]], object]) -> Callable[[str], bytes]:
    def damage(text: str) -> bytes:
        values = json.loads(text)
        change(values)
        return json.dumps(values).encode()

    return damage


def _in_versions(key: str, value: Any) -> Callable[[str], bytes]:
    """Gives ``key`` of every version another value."""

    def change(values: dict[str, Any]) -> None:
        for version in values["versions"].values():
            version[key] = value

    return _changed(change)


def _without(key: str) -> Callable[[str], bytes]:
    return _changed(lambda values: values.pop(key, None))


def _with(key: str, value: Any) -> Callable[[str], bytes]:
    return _changed(lambda values: values.update({key: value}))


def _content(data: bytes) -> Callable[[str], bytes]:
    return lambda text: data


STATE_DAMAGE: dict[str, Callable[[str], bytes | None]] = {
    "empty": _content(b""),
    "half": lambda text: text.encode()[: len(text) // 2],
    "zeros": lambda text: bytes(len(text)),
    "not UTF-8": lambda text: b"\xff\xfe" + text.encode(),
    "a list": _content(b"[]"),
    "a number": _content(b"5"),
    "null": _content(b"null"),
    "a string": _content(b'"state"'),
    "an empty object": _content(b"{}"),
    "nested too deep": _content(b"[" * 100_000),
    "a folder": lambda text: None,
    "no versions": _without("versions"),
    "no aliases": _without("aliases"),
    "versions null": _with("versions", None),
    "versions a list": _with("versions", []),
    "versions numbers": _with("versions", {"1": 5, "2": 6}),
    "aliases a list": _with("aliases", ["champion"]),
    "aliases null": _with("aliases", None),
    "an alias for no version": _with("aliases", {"champion": "77"}),
    "an alias for a number": _with("aliases", {"champion": 1}),
    "a share of words": _with("canary_share", "half"),
    "a share of null": _with("canary_share", None),
    "a share of 7": _with("canary_share", 7),
    "another key": _with("surprise", 1),
    "embedding null": _in_versions("embedding", None),
    "embedding a list": _in_versions("embedding", [1]),
    "embedding of an unknown key": _in_versions("embedding", {"poling": "last"}),
    "digests null": _in_versions("digests", None),
    "digests a list": _in_versions("digests", ["a"]),
    "digests of numbers": _in_versions("digests", {"adapter_config.json": 5}),
    "space a number": _in_versions("space", 5),
    "base null": _in_versions("base", None),
    "uri a list": _in_versions("uri", []),
    "tags null": _in_versions("tags", None),
}
"""What the state file is instead of what it was; None is a folder."""
