"""MMEB-V3's data sets of audio and OmniSET, by a model that takes audio."""

import base64
import functools
import io
import json
import re
import wave
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from tests.evaluation import trees
from tests.evaluation.files import heard, picture, rows
from tests.parity.make_backbones import write_all
from vlm2vec import Input, Samples
from vlm2vec_evaluation import EvaluationError, evaluate
from vlm2vec_evaluation.check import check
from vlm2vec_evaluation.data import read_task
from vlm2vec_evaluation.errors import UnsupportedError
from vlm2vec_evaluation.evaluation import Ranked
from vlm2vec_evaluation.gallery import Example, worst
from vlm2vec_evaluation.layouts import recordings
from vlm2vec_evaluation.layouts.source import Row, Source
from vlm2vec_evaluation.local import LocalModel, load
from vlm2vec_evaluation.page import Report, render
from vlm2vec_evaluation.suite import DataSet, Suite, read_suite
from vlm2vec_evaluation.task import PoolTask, Task
from vlm2vec_registry import preset
from vlm2vec_service.preprocess.resample import resample
from vlm2vec_service.settings import EngineSettings, Limits, VideoSettings

OMNI = "qwen2_5_omni"
SCENE = "COCO_val2014_000000000000"
SEGMENTS = "Retrieve the sound event categories that best match the given audio."
CLOTHO = "Retrieve audio clips that best match the given textual description."
ACTIONS = "What actions or objects interactions are the person in the video doing?"
FIRST = {
    "NSynth": ("Recognize the musical instrument category of the audio.", "bass"),
    "UrbanSound8K": ("Recognize the urban sound category of the audio.", "drilling"),
    "CREMA-D": ("Recognize the emotion expressed in the speech audio.", "anger"),
    "Clotho": (f"{CLOTHO}\nQuery: caption 1 of A bus, near.wav", "[AUDIO]"),
    "AVE": (
        "Retrieve the video that best matches the given audio event.",
        "Understand the content of the provided video.",
    ),
    "SpeechCOCO": (
        "Retrieve images that best match the given spoken description.",
        "Understand the content of the provided image.",
    ),
    "TUTSound": (f"{SEGMENTS}\nQuery: car", SEGMENTS),
    "OmniSET_a2v": ("Find the video that best matches the given audio: ", f"caption of {SCENE}"),
    "MSVD": (
        "Find the video snippet that corresponds to the given summary: caption 0",
        "Understand the content of the provided video.",
    ),
    "OmniSET_t2a": ("Find the audio that best matches the given text: a dog", None),
    # Without placeholders and white space of their own: the form has both.
    "HMDB51": (ACTIONS, None),
    "GAE-guiact-q2t": ("Go on from here.", "The way."),
}
"""The words of the first query and of the first candidate."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mmeb")
    for suite in both(folder):
        for name in ("a.png", "b.png"):
            picture(folder / suite.images / name)
        for data_set in chosen(suite):
            trees.LAYOUTS[data_set.layout](suite, data_set)
    return folder


def both(root: Path) -> list[Suite]:
    return [suite_of(root, name) for name in ("mmeb_v3", "omniset")]


def chosen(suite: Suite) -> list[DataSet]:
    """The data sets of audio, those of OmniSET, and one each of films, of screens and of v1."""
    others = ("HMDB51", "MSVD", "GAE-guiact-q2t", "OK-VQA")
    return [
        item for item in suite.data_sets
        if item.modality in ("audio", "omni") or item.name in others
    ]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    """The tiny Qwen2.5-Omni, in the form of VLM2Vec's third generation."""
    folder = tmp_path_factory.mktemp("omni")
    write_all(folder, OMNI)
    form = preset.read("vlm2vec-v3").embedding.to_dict()
    (folder / OMNI / "embedding.json").write_text(json.dumps(form))
    settings = EngineSettings(dtype="float32")
    return load(folder / OMNI, None, settings, Limits(), VideoSettings())


@functools.cache
def suite_of(root: Path, name: str) -> Suite:
    return read_suite(name, root)


def data_set_of(root: Path, name: str) -> tuple[Suite, DataSet]:
    suite = suite_of(root, "omniset" if name.startswith("Omni") else "mmeb_v3")
    (data_set,) = [item for item in suite.data_sets if item.name == name]
    return suite, data_set


def task_of(root: Path, name: str, backbone: str = OMNI) -> PoolTask:
    task = read_task(*data_set_of(root, name), backbone)
    assert isinstance(task, PoolTask)
    return task


def input_of(item: object) -> Input:
    assert isinstance(item, Input)
    return item


def test_all_is_scored(root: Path, model: LocalModel) -> None:
    """Each data set is; and the report lets people hear what the worst queries are about."""

    def tasks() -> Iterator[Task | PoolTask]:
        for suite in both(root):
            yield from (read_task(suite, item, model.backbone) for item in chosen(suite))

    examples: dict[str, list[Example]] = {}

    def keep(ranked: Ranked) -> None:
        examples[ranked.scores.name] = worst(ranked)

    found = evaluate(model.embed, tasks(), vectors={}, keep=keep)
    assert (len(found.data_sets), found.skipped) == (11 + 4 + 12, {})
    assert {"audio", "omni", "audio_cls", "audio_ret", "audio_moments"} <= set(found.averages)
    assert all(0 <= row.score <= 1 and row.scores.chance > 0 for row in found.data_sets.values())
    page = render(Report("omni", found, examples=examples))
    heard = re.findall(r'<audio controls src="data:audio/wav;base64,([^"]+)"', page)
    assert heard
    for one in heard:
        with wave.open(io.BytesIO(base64.b64decode(one))) as file:
            assert (file.getnchannels(), file.getframerate()) == (1, 16_000)
            assert 0 < file.getnframes() <= 3 * 16_000
    # Any segment of the label is right, or that one alone.
    loose, strict = (found.data_sets[name].scores.chance for name in ("TUTSound", "TUTSound-hard"))
    assert loose == pytest.approx((2 / 5 + 2 / 5 + 1 / 5 + 1) / 4)
    assert strict == pytest.approx((1 / 5 + 1 / 5 + 1 / 5 + 1) / 4)


@pytest.mark.parametrize("name", FIRST)
def test_words_are_upstreams(name: str, root: Path) -> None:
    task = task_of(root, name)
    query, (_, candidate) = next(iter(task.queries())), next(iter(task.candidates()))
    found = [input_of(one) for one in (query.input, candidate)]
    words = [" ".join(filter(None, (one.instruction, one.text))) for one in found]
    assert words[0] == FIRST[name][0]
    assert FIRST[name][1] in (None, words[1])
    assert [one.prompt for one in found] == [None, None]


def test_the_form_of_the_version_is_around_them(root: Path, model: LocalModel) -> None:
    """The vector is that of the whole prompt as MMEB-V3 writes it: the chat form without the
    assistant's turn, media before words, and white space collapsed."""
    turn = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    audio, image = "<|audio_bos|><|AUDIO|><|audio_eos|>", "<|vision_bos|><|IMAGE|><|vision_eos|>"
    forms = {
        "TUTSound": f"{turn}{audio}{SEGMENTS} Query: car<|im_end|>\n",
        "Clotho": f"{turn}{CLOTHO} Query: caption 1 of A bus, near.wav<|im_end|>\n",
        # A film is so many images here.
        "HMDB51": f"{turn}{image * 8}{ACTIONS}<|im_end|>\n",
        "OmniSET_t2a": f"{turn}Find the audio that best matches the given text: a dog<|im_end|>\n",
        "MSVD": f"{turn}{FIRST['MSVD'][0]}<|im_end|>\n",
        "OmniSET_v2a": f"{turn}<|vision_bos|><|VIDEO|><|vision_eos|>Find the audio that best "
                       "matches the given video:<|im_end|>\n",
    }  # fmt: skip
    asked = {name: input_of(next(iter(task_of(root, name).queries())).input) for name in forms}
    items = {
        name.encode(): Input(prompt=forms[name], images=one.images, video=one.video,
                             audios=one.audios)
        for name, one in asked.items()
    }  # fmt: skip
    vectors = dict(model.embed([(name.encode(), one) for name, one in asked.items()]))
    for name, expected in model.embed(items.items()):
        found = vectors[name]
        assert isinstance(found, np.ndarray), found
        assert isinstance(expected, np.ndarray), expected
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_rows_of_the_first_mmeb_go_to_the_form(root: Path) -> None:
    suite, data_set = data_set_of(root, "OK-VQA")
    task = read_task(suite, data_set, OMNI)
    assert isinstance(task, Task)
    record = task.records[0]
    assert record.query == Input(
        instruction="Find what is shown.", text="question 0",
        images=[root / suite.images / "a.png"],
    )  # fmt: skip
    found = [input_of(one) for one in record.candidates]
    assert [(one.instruction, one.text) for one in found] == [(None, "one"), (None, "two")]


def right(root: Path, name: str) -> list[set[str]]:
    return [set(query.right) for query in task_of(root, name).queries()]


def test_what_is_right(root: Path) -> None:
    assert right(root, "NSynth") == [{"guitar"}, {"bass"}]
    assert right(root, "Clotho") == [{"A bus, near.wav"}] * 5 + [{"rain.wav"}] * 5
    # Of several grades the highest counts, and what no query needs is no candidate.
    assert right(root, "SoundDescs") == [{"c2"}, {"c3"}]
    names = [name for name, _ in task_of(root, "SoundDescs").candidates()]
    assert names == ["c1", "c2", "c3"]
    assert right(root, "AVE") == [{"RUhOCu3LNXM"}, {"-BU-8WzRYJA"}]
    file = "audio/street/a001.wav|"
    cars = {f"{file}0.200-0.900", f"{file}2.000-2.050"}
    assert right(root, "TUTSound")[:3] == [cars, cars, {f"{file}2.600-3.000"}]
    assert right(root, "TUTSound-hard")[1] == {f"{file}2.000-2.050"}
    query = next(iter(task_of(root, "TUTSound").queries()))
    # Behind the events the windows of a second in which they hardly are.
    assert list(query.candidates or ())[3:] == [f"{file}1.000-2.000", f"{file}1.500-2.500"]
    (query,) = task_of(root, "OmniSET_t2a").queries()
    assert (len(query.candidates or ()), set(query.right)) == (12, {f"{SCENE}/audio"})


def test_segments_are_cut_before_they_are_resampled(root: Path) -> None:
    path = root / "audio-tasks/tutsound/TUT-sound-events-2017-development/audio/street/a001.wav"
    with wave.open(io.BytesIO(path.read_bytes())) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
    mixed = (samples / 32768).mean(axis=1).astype(np.float32)
    found = recordings.cut(path, 0.2, 0.9)
    assert found.rate == 16_000
    # 0.7 seconds are a hair below 30,870 samples in floating point, and upstream takes those.
    expected = resample(mixed[8820 : 8820 + 30_869], 44_100)
    np.testing.assert_allclose(found.array, expected, atol=1e-6)
    assert len(recordings.whole(path).array) == 3 * 16_000
    assert recordings.length(path) == 3.0


def test_films_of_events_are_eight_frames(root: Path) -> None:
    found = {name: input_of(one).video for name, one in task_of(root, "AVE").candidates()}
    folder = root / "audio-tasks/AVE/AVE_Dataset"
    with av.open(str(folder / "AVE/-BU-8WzRYJA.mp4")) as film:
        frames = [np.asarray(frame.to_ndarray(format="rgb24")) for frame in film.decode(video=0)]
    shown = found["-BU-8WzRYJA"]
    assert isinstance(shown, list)
    for place, shot in zip((0, 1, 3, 4, 6, 7, 9, 11), shown, strict=True):
        assert shot.shape == (224, 224, 3)
        # Every fourth pixel of one that is four times as large is that pixel, about.
        small = shot[2::4, 2::4].astype(float) - frames[place]
        assert np.abs(small).mean() < 40
        other = shot[2::4, 2::4].astype(float) - frames[(place + 5) % 12]
        assert np.abs(small).mean() < np.abs(other).mean() / 2
    # Saved frames go before the film; of fewer some are there several times.
    shown = found["RUhOCu3LNXM"]
    assert isinstance(shown, list)
    assert len({shot.tobytes() for shot in shown}) == 3


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"audio": {"bytes": b"abc", "path": "x.wav"}}, b"abc"),
        ({"audio": {"bytes": None, "path": "x.wav"}}, "x.wav"),
        ({"audio_bytes": b"abc", "audio_path": "x.wav"}, b"abc"),
        ({"audio_path": "sub/x.wav"}, "sub/x.wav"),
        ({"audio": {"array": [[0.0, 0.5], [0.0, 0.25]], "sampling_rate": 8000}}, (2, 2)),
        ({"audio": {"array": [0.0, 0.5], "sampling_rate": 8000}}, (2,)),
        ({"category": "dog"}, "row 1: there is no audio; there are category"),
    ],
)
def test_the_audio_of_a_row(row: Row, expected: object, root: Path) -> None:
    source = Source(*data_set_of(root, "ESC-50"), OMNI)
    if isinstance(expected, str) and expected.startswith("row"):
        with pytest.raises(EvaluationError, match=expected):
            recordings.recording(source, row, "row 1")
        return
    found = recordings.recording(source, row, "row 1")
    if isinstance(found, Samples):
        assert (found.array.shape, found.rate) == (expected, 8000)
    else:
        assert found == (source.path / expected if isinstance(expected, str) else expected)


def test_emotions_may_be_a_table_with_files(tmp_path: Path) -> None:
    folder = tmp_path / "audio-tasks/creamD"
    rows(folder / "processed.csv", [{"file": "1001_DFA.wav", "major_emotion": "anger"}])
    (folder / "dataset_infos.json").write_text("[]")  # which is no table
    (query,) = task_of(tmp_path, "CREMA-D").queries()
    assert input_of(query.input).audios == (folder / "AudioWAV/1001_DFA.wav",)
    assert set(query.right) == {"anger"}


def test_a_family_without_audio_reads_no_file(tmp_path: Path, root: Path) -> None:
    for name in ("ESC-50", "TUTSound", "AVE", "OmniSET_a2t"):
        task = task_of(tmp_path, name, "qwen2_vl")
        for items in (task.candidates, task.queries):
            with pytest.raises(UnsupportedError, match="takes no audio"):
                list(items())
    (query,) = task_of(root, "OmniSET_v2t", "qwen2_vl").queries()
    assert len(query.candidates or ()) == 9


def test_missing_audio_is_named(tmp_path: Path) -> None:
    for suite in both(tmp_path):
        for item in suite.data_sets:
            if item.name in ("Clotho", "AVE", "TUTSound", "OmniSET_a2t"):
                trees.LAYOUTS[item.layout](suite, item)
    removed = {
        "Clotho": "clotho/evaluation/rain.wav",
        "AVE": "AVE/AVE_Dataset/AVE/-BU-8WzRYJA.mp4",
        "TUTSound": "tutsound/TUT-sound-events-2017-development/audio/street/b003.wav",
    }
    for file in removed.values():
        (tmp_path / "audio-tasks" / file).unlink()
    (tmp_path / "omniset/audios" / f"{SCENE}.wav").unlink()
    for name, file in {**removed, "OmniSET_a2t": f"{SCENE}.wav"}.items():
        suite, data_set = data_set_of(tmp_path, name)
        (found,) = check(suite, [data_set], None)
        assert found.problem.startswith(f"data set {name}: 1 not there: "), found.problem
        assert found.problem.endswith(file)
    broken = tmp_path / "audio-tasks" / removed["TUTSound"]
    broken.write_bytes(heard("b003.wav")[:20])
    with pytest.raises(EvaluationError, match=r"data set TUTSound: .*b003\.wav"):
        list(task_of(tmp_path, "TUTSound").queries())
    table = tmp_path / "audio-tasks/AVE/AVE_Dataset/testSet.txt"
    for line, problem in (("Bark&x&good&0&ten", "'ten' are no seconds"), ("Bark&x", "2 columns")):
        table.write_text(line)
        with pytest.raises(EvaluationError, match=f"data set AVE: .*{problem}"):
            list(task_of(tmp_path, "AVE").queries())
