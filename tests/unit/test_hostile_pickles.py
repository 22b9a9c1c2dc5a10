"""Files that pretend to be ``adapter_model.bin``: nothing runs, and nothing but an error comes
out."""

import builtins
import contextlib
import io
import os
import pickle
import random
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vlm2vec_registry.adapter_bin import MOST_DIRECTORY, MOST_PICKLE, convert
from vlm2vec_registry.errors import ArtifactError

MARK = b"("
ORDERED = b"ccollections\nOrderedDict\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
FLOATS = 16
"""Elements of the storage 0 that every hostile file has."""


class Calls:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def packed(
    program: bytes, files: dict[str, bytes] | None = None, twice: str = "", **options: Any
) -> bytes:
    """A zip such as torch.save writes, with ``program`` as its pickle, and the file ``twice`` once
    more."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", **options) as archive:
        archive.writestr("archive/data.pkl", program)
        for name, data in ({"archive/data/0": bytes(4 * FLOATS)} | (files or {})).items():
            archive.writestr(name, data)
        if twice:
            archive.writestr(twice, b"")
    return out.getvalue()


def refused(folder: Path, content: bytes, problem: str, **options: Any) -> None:
    source, target = folder / "adapter_model.bin", folder / "adapter_model.safetensors"
    source.write_bytes(content)
    with pytest.raises(ArtifactError, match=problem):
        convert(source, target, **options)
    assert not target.exists()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(*values: int) -> bytes:
    return MARK + b"".join(map(number, values)) + b"t"


def storage(kind: str = "FloatStorage", key: str = "0", count: int = FLOATS) -> bytes:
    reference = text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu")
    return MARK + reference + number(count) + b"tQ"


def tensor(
    offset: int = 0,
    shape: tuple[int, ...] = (2, 8),
    strides: tuple[int, ...] = (8, 1),
    of: bytes | None = None,
) -> bytes:
    where = (of or storage()) + number(offset) + numbers(*shape) + numbers(*strides)
    return REBUILD + MARK + where + b"\x89" + ORDERED + b")Rt" + b"R"


def file_of(**tensors: bytes) -> bytes:
    """The program of a file of ``tensors``."""
    items = b"".join(text(name) + made for name, made in tensors.items())
    return b"\x80\x02}" + MARK + items + b"u."


def programs(marker: Path) -> dict[str, tuple[bytes, str]]:
    """Programs that make the file ``marker`` when Python unpickles them, and what we call them."""
    touch, write = f"touch '{marker}'", f"open({str(marker)!r}, 'w')"
    calls: dict[str, tuple[Any, str]] = {
        "system": (Calls(os.system, touch), r"posix\.system"),
        "eval": (Calls(eval, write), r"builtin.*\.eval"),
        "exec": (Calls(exec, write), r"builtin.*\.exec"),
        "nested": ({"a": [1, {"b": (Calls(open, str(marker), "w"),)}]}, "EMPTY_LIST|io.open"),
        "nested in an argument": (
            {"a": Calls(torch.Tensor, Calls(os.system, touch))}, r"torch(\._tensor)?\.Tensor",
        ),
        "state": (Calls(map, print, Calls(eval, write)), r"itertools\.imap"),
        "torch": (Calls(torch.hub.os.system, touch), r"posix\.system"),  # type: ignore[attr-defined]
    }  # fmt: skip
    found = {
        name: (pickle.dumps(value, protocol=2), problem) for name, (value, problem) in calls.items()
    }
    system = touch.encode()
    memo = (
        b"\x80\x02cposix\nsystem\nq\x00" + ORDERED + b"q\x01h\x00q\x01000" + text(touch)
        + b"q\x02h\x01h\x02\x85R."
    )  # fmt: skip
    return found | {
        "chain": (
            b"\x80\x02c__builtin__\ngetattr\n(c__builtin__\n__import__\n"
            + text("os") + b"\x85R" + text("system") + b"tR" + text(touch) + b"\x85R.",
            "__builtin__.getattr",
        ),
        "by a swapped memo": (memo, r"posix\.system"),
        "old instruction": (
            b"(S'" + system.replace(b"'", b'"') + b"'\niposix\nsystem\n.", "INST|STRING"
        ),
        "object": (b"(cposix\nsystem\n" + text(touch) + b"o.", r"posix\.system"),
        "protocol 4": (
            b"\x80\x04" + text("posix") + text("system") + b"\x93" + text(touch) + b"\x85R.",
            "STACK_GLOBAL",
        ),
        "behind a good tensor": (
            file_of(a=tensor(), b=b"cposix\nsystem\n" + text(touch) + b"\x85R"), r"posix\.system",
        ),
        "text that looks like one of ours": (
            b"\x80\x02ccollections\nOrderedDict.__init__\n)R0cposix\nsystem\n" + text(touch)
            + b"\x85R.", r"collections\.OrderedDict\.__init__",
        ),
    }  # fmt: skip


def test_python_would_run_these(tmp_path: Path) -> None:
    """Otherwise the test below would show nothing."""
    ran = []
    for name, (program, _) in programs(tmp_path / "made").items():
        # Many fail after they have done their harm.
        with contextlib.suppress(Exception):
            pickle.loads(program)
        if (tmp_path / "made").exists():
            ran.append(name)
            (tmp_path / "made").unlink()
    assert len(ran) >= 10


@pytest.mark.parametrize("name", programs(Path()))
def test_nothing_runs(tmp_path: Path, name: str) -> None:
    program, problem = programs(tmp_path / "made")[name]
    refused(tmp_path, packed(program), problem)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        (b"\x80\x02" + REBUILD + ORDERED + b")Rb.", "set attributes"),
        (b"\x80\x02" + ORDERED + b"}b.", "set attributes"),
        (b"\x80\x02" + REBUILD + b"N" + text("__code__") + b"}s\x86b.", "damaged|set attributes"),
        (b"\x80\x02" + ORDERED + MARK + text("a") + b"N\x86tR.", "call collections.OrderedDict in"),
        (b"\x80\x02" + ORDERED + ORDERED + b")R\x85R.", "call collections.OrderedDict in"),
        (b"\x80\x02" + text("x") + b")R.", "would call a str"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "call torch.FloatStorage in"),
        (b"\x80\x02" + ORDERED + b")\x81.", "instruction NEWOBJ"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (b"\x80\x02P0\n.", r"instruction PERSID \('0'\)"),
        (b"\x80\x02}(" + text("a") + b"u.", "no dictionary"),
        (b"\x80\x02}}" + b"Ns.", "a key is a dict"),
        (b"\x80\x02}", "damaged"),
        (b"\x80\x02.", "with one value"),
        (b"\x80\x02(N.", "with one value"),
        (b"\x80\x02h\x07.", "damaged"),
        (b"\x80\x02t.", "a mark is missing"),
        (b"\x80\x02(0.", "instruction POP"),
        (b"", "damaged"),
        (b"I" + b"9" * 100_000 + b"\n.", "damaged|INT"),
        (b"\x80\x02\x8a\xff", "damaged"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "damaged"),
    ],
)
def test_other_programs_are_refused(tmp_path: Path, program: bytes, problem: str) -> None:
    refused(tmp_path, packed(program), problem)


def test_nothing_of_python_is_changed(tmp_path: Path) -> None:
    """BUILD sets attributes of what the program names, where there is something behind a name."""
    before = dict(vars(builtins)), dict(vars(torch._utils._rebuild_tensor_v2))
    program = b"\x80\x02" + REBUILD + b"}" + text("evil") + text("x") + b"sb."
    refused(tmp_path, packed(program), "set attributes")
    assert before == (dict(vars(builtins)), dict(vars(torch._utils._rebuild_tensor_v2)))


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (tensor(shape=(3, 8)), "beyond its storage 0, 16 elements"),
        (tensor(offset=1), "beyond its storage"),
        (tensor(offset=17, shape=(0,), strides=(1,)), "beyond its storage"),
        (tensor(shape=(2, 2), strides=(15, 1)), "beyond its storage"),
        (tensor(shape=(2,), strides=(1 << 40,)), "beyond its storage"),
        (tensor(shape=(1 << 45, 1 << 45), strides=(0, 0)), "tensors have more than"),
        (tensor(shape=(1 << 40,), strides=(0,)), "tensors have more than"),
        (tensor(shape=(0, 1 << 45), strides=(1, 1)), "tensors have more than"),
        (tensor(shape=(1 << 63,), strides=(0,)), "no sizes"),
        (tensor(shape=(1 << 2000,), strides=(0,)), "no sizes"),
        (tensor(offset=-1), "no sizes"),
        (tensor(shape=(-2, 8)), "no sizes"),
        (tensor(strides=(-8, 1)), "no sizes"),
        (tensor(strides=(1,)), "no sizes"),
        (tensor(shape=(1,) * 33, strides=(1,) * 33), "no sizes"),
        (tensor(of=b"N"), "no storage"),
        (tensor(of=storage(count=17)), "64 bytes, not 68"),
        (tensor(of=storage(count=1 << 40)), "64 bytes, not"),
        (tensor(of=storage("DoubleStorage", count=16)), "64 bytes, not 128"),
        (tensor(of=storage("storage.UntypedStorage")), "torch.storage.UntypedStorage"),
        (tensor(of=storage(key="1")), "data/1 is missing"),
        (tensor(of=storage(key="../0")), "no number"),
        (tensor(of=storage(key="0" * 20)), "no number"),
        (tensor(of=storage(key="\u0660")), "no number"),
        (tensor(of=text("0") + b"Q"), "no storage"),
        (tensor(of=REBUILD.replace(b"v2", b"v3")), "_rebuild_tensor_v3"),
    ],
)
def test_nothing_outside_a_storage_is_read(tmp_path: Path, made: bytes, problem: str) -> None:
    refused(tmp_path, packed(file_of(a=made)), problem)


def test_one_storage_has_one_kind(tmp_path: Path) -> None:
    other = tensor(of=storage("HalfStorage", count=32))
    refused(tmp_path, packed(file_of(a=tensor(), b=other)), "of two kinds")


def test_memory_stays_small_whatever_the_program(tmp_path: Path) -> None:
    """Doubling by the memo, deep nests, and a dictionary that holds itself."""
    double = b"\x80\x02)q\x00" + b"h\x00\x86q\x00" * 5000 + b"."
    deep = b"\x80\x02)" + b"\x85" * 100_000 + b"."
    own = b"\x80\x02}q\x00" + text("a") + b"h\x00s."
    deep_key = b"\x80\x02})" + b"\x85" * 100_000 + b"Ns."
    tracemalloc.start()
    try:
        for program, problem in (
            (double, "holds a tuple"), (deep, "holds a tuple"), (own, "'a' is a dict"),
            (deep_key, "a key is a tuple"),
        ):  # fmt: skip
            refused(tmp_path, packed(program), problem)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_zips_that_are_not_of_torch(tmp_path: Path) -> None:
    good = file_of(a=tensor())
    compressed = packed(good, {"archive/data/0": bytes(1 << 20)}, compression=zipfile.ZIP_DEFLATED)
    refused(tmp_path, compressed, "is compressed")
    refused(
        tmp_path, packed(b"\x80\x02" + b"N" * MOST_PICKLE), "data.pkl has .* more than are read"
    )
    refused(tmp_path, packed(good, {"other/data.pkl": good}), "not one data.pkl")
    refused(tmp_path, packed(good, {"archive/byteorder": b"big"}), "big-endian")
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = packed(good, twice="archive/data/0")
    refused(tmp_path, twice, "one name")
    damaged = packed(good).replace(bytes(4 * FLOATS), bytes(4 * FLOATS - 1) + b"\x01", 1)
    refused(tmp_path, damaged, "CRC")
    for content in (b"", b"PK", b"\x80\x02}.", packed(good)[:-30]):
        refused(tmp_path, content, "no zip of torch.save|damaged")


def test_names_in_the_zip_are_no_paths(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    evil = {"../../evil": b"x", "/tmp/evil": b"x", "archive/../../evil": b"x"}
    (folder / "adapter_model.bin").write_bytes(packed(file_of(a=tensor()), evil))
    assert convert(folder / "adapter_model.bin", folder / "out") == 1
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "adapter_model.bin", "out",
    ]  # fmt: skip


def test_a_huge_directory_is_not_read(tmp_path: Path) -> None:
    """A zip's directory of a million files takes a gigabyte once it is parsed."""
    content = bytearray(packed(file_of(a=tensor())))
    end = content.rindex(b"PK\x05\x06")
    size, start = struct.unpack("<II", content[end + 12 : end + 20])
    padded = content[:end] + content[start : start + size] * (MOST_DIRECTORY // size)
    footer = bytearray(content[end:])
    struct.pack_into("<I", footer, 12, len(padded) - start)
    refused(tmp_path, bytes(padded + footer), "directory is larger")


def test_entries_that_claim_more_than_the_file_has(tmp_path: Path) -> None:
    content = bytearray(
        packed(file_of(a=tensor(of=storage(count=1 << 20), shape=(2,), strides=(1,))))
    )
    entry = content.rindex(b"archive/data/0") - 46
    struct.pack_into("<II", content, entry + 20, 4 << 20, 4 << 20)
    refused(tmp_path, bytes(content), "damaged")


def test_damage_anywhere_is_an_error_of_ours(tmp_path: Path) -> None:
    """Bytes of a real file and of its pickle changed, cut and doubled at random."""
    chance = random.Random(0)
    saved = io.BytesIO()
    torch.save({"a": torch.randn(4, 4).t(), "b": torch.nn.Parameter(torch.ones(3).half())}, saved)
    whole = saved.getvalue()
    program = zipfile.ZipFile(saved).read("archive/data.pkl")
    path = tmp_path / "adapter_model.bin"
    for turn in range(3000):
        data = bytearray(program if turn % 3 else whole)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data))
            data[at : at + chance.choice((0, 1, 1, 1, 4))] = bytes(
                chance.choice((chance.randrange(256), *b"().Rbtu}qhcQ\x85\x8a"))
                for _ in range(chance.choice((0, 1, 1, 1, 3)))
            )
        path.write_bytes(packed(bytes(data), {"archive/data/1": bytes(6)}) if turn % 3 else data)
        with contextlib.suppress(ArtifactError):
            convert(path, tmp_path / "out")
