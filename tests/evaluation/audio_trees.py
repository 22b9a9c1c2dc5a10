"""Writes the files of MMEB-V3's data sets of audio, each in the form that people download."""

from collections.abc import Callable

from tests.evaluation.files import Row, drawn, film, heard, moving, rows, sound
from vlm2vec_evaluation.suite import DataSet, Suite


def audio_classes(suite: Suite, data_set: DataSet) -> None:
    cells = [{"bytes": heard(f"{number}.wav"), "path": None} for number in range(2)]
    path = suite.root / data_set.path
    forms: dict[str, list[Row]] = {
        "NSynth": [{"audio": cells[0], "instrument_family": 3, "instrument_family_str": "guitar"},
                   {"audio": cells[1], "instrument_family": 0, "instrument_family_str": "bass"}],
        "ESC-50": [{"filename": "1-1-A-0.wav", "target": 0, "category": "dog", "audio": cells[0]},
                   {"filename": "1-2-A-4.wav", "target": 4, "category": "frog", "audio": cells[1]}],
        "UrbanSound8K": [{"slice_file_name": f"7061-{number}.wav", "fold": number + 1,
                          "classID": number, "class": ("siren", "drilling")[number]}
                         for number in range(2)],
        "SpeechCommands": [{"audio": cells[0], "label_id": 0, "label_name": "yes"},
                           {"audio": cells[1], "label_id": 1, "label_name": "no"}],
        "CREMA-D": [{"audio": cells[0], "major_emotion": "anger"},
                    {"audio": cells[1], "major_emotion": "fear"}],
    }  # fmt: skip
    made = forms[data_set.name]
    if data_set.name in ("ESC-50", "CREMA-D"):
        path = path / "data" / "train-00000-of-00001.parquet"
    rows(path, made)
    for row in made if data_set.name == "UrbanSound8K" else []:
        sound(suite.root / data_set.options["file"].format_map(row))


def audio_captions(suite: Suite, data_set: DataSet) -> None:
    names = ["A bus, near.wav", "rain.wav"]
    rows(suite.root / data_set.path, [
        {"file_name": name, **{f"caption_{n}": f" caption {n} of {name} " for n in range(1, 6)}}
        for name in names
    ])  # fmt: skip
    for name in names:
        sound(suite.root / data_set.options["file"].format(file_name=name))


def audio_descriptions(suite: Suite, data_set: DataSet) -> None:
    folder = suite.root / data_set.path / "eval"
    rows(folder / "query-00000.parquet", [
        {"query-id": f"q{number}", "text": f"a sound {number}"} for number in range(2)
    ])  # fmt: skip
    rows(folder / "qrels-00000.parquet", [
        {"query-id": "q0", "corpus-id": "c1", "score": 1},
        {"query-id": "q0", "corpus-id": "c2", "score": 2},
        {"query-id": "q1", "corpus-id": "c3", "score": 1},
    ])  # fmt: skip
    rows(folder / "corpus-00000.parquet", [
        {"corpus-id": f"c{number}", "audio_bytes": heard(f"c{number}.wav"), "audio_path": None}
        for number in range(5)
    ])  # fmt: skip


def audio_speech(suite: Suite, data_set: DataSet) -> None:
    folder = suite.root / data_set.path
    rows(folder / "speechcoco_query.parquet", [
        {"query-id": f"q{number}", "image_id": f"i{number}",
         "audio": {"bytes": heard(f"q{number}.wav"), "path": f"q{number}.wav"}}
        for number in range(2)
    ])  # fmt: skip
    rows(folder / "speechcoco_corpus.parquet", [
        {"corpus-id": f"i{number}", "image": {"bytes": drawn(f"i{number}.png"), "path": None}}
        for number in range(2)
    ])  # fmt: skip


def audio_videos(suite: Suite, data_set: DataSet) -> None:
    folder = suite.root / data_set.path
    (folder / "frames").mkdir(parents=True)
    (folder / "testSet.txt").write_text(
        "Category&VideoID&Quality&StartTime&EndTime\n"
        "Church bell&RUhOCu3LNXM&good&0&1\nBark&-BU-8WzRYJA&good&0&10\n"
    )
    film(folder / "frames" / "RUhOCu3LNXM", 3)
    moving(folder / "AVE" / "RUhOCu3LNXM.mp4")
    moving(folder / "AVE" / "-BU-8WzRYJA.mp4")


def audio_segments(suite: Suite, data_set: DataSet) -> None:
    folder = suite.root / data_set.path
    events = {
        1: "audio/street/a001.wav\tstreet\t0.20\t0.90\tcar\n"
           "audio/street/a001.wav\tstreet\t2.00\t2.00\tcar\n"
           "audio/street/a001.wav\tstreet\t2.60\t9.00\tchildren\n",
        2: "audio/street/b003.wav\tstreet\t0.000000\t0.500000\tbrakes squeaking\n",
        3: "",
        4: "\n",
    }  # fmt: skip
    for fold, text in events.items():
        file = folder / "evaluation_setup" / f"street_fold{fold}_evaluate.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    sound(folder / "audio/street/a001.wav", 3.0, 44_100, 2)
    sound(folder / "audio/street/b003.wav", 1.2, 44_100, 2)


LAYOUTS: dict[str, Callable[[Suite, DataSet], None]] = {
    one.__name__: one
    for one in (
        audio_classes, audio_captions, audio_descriptions, audio_speech, audio_videos,
        audio_segments,
    )
}  # fmt: skip
