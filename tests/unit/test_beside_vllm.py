"""What the comparison with vLLM asks both sides."""

from pathlib import Path

from PIL import Image

from benchmarks.peers import make_questions


def test_turns_are_of_one_size_and_have_no_beginning_in_common(tmp_path: Path) -> None:
    first, second = (make_questions("text", "tiny", 8, tmp_path, turn) for turn in (0, 1))
    for one, other in zip(first, second, strict=True):
        assert len(one["ids"]) == len(other["ids"])
        # vLLM would remember the part of a prompt that it has seen.
        assert one["ids"][0] != other["ids"][0]


def test_every_turn_has_pictures_of_its_own(tmp_path: Path) -> None:
    turns = [make_questions("image", "tiny", 4, tmp_path, turn) for turn in (0, 1)]
    files = [file for turn in turns for question in turn for file in question["images"]]
    pictures = {Image.open(file).tobytes() for file in files}
    assert len(files) == len(pictures) == 4
