"""Writes the files of every data set of MMEB-V2, V3 and OmniSET, each in the form that people
download, with two queries and few candidates."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.evaluation import audio_trees
from tests.evaluation.files import Row, film, picture, rows, sound
from vlm2vec_evaluation.suite import DataSet, Suite


def write(suite: Suite) -> None:
    """Writes all data sets of ``suite`` below its root."""
    for name in ("a.png", "b.png"):
        picture(suite.root / suite.images / name)
    for data_set in suite.data_sets:
        LAYOUTS[data_set.layout](suite, data_set)


def mmeb(suite: Suite, data_set: DataSet) -> None:
    texts = data_set.name.endswith("_t2i") or data_set.name in ("VisDial", "WebQA", "EDIS")
    shown = data_set.meta_task == "grounding" or texts
    rows(suite.root / data_set.path, [
        {
            "qry_inst": "<|image_1|> Find what is shown.", "qry_text": f"question {number}",
            "qry_img_path": "" if texts else "a.png",
            "tgt_inst": "<|image_1|> Represent the image.",
            "tgt_text": ["", ""] if shown else ["one", "two"],
            "tgt_img_path": ["a.png", "b.png"] if shown else ["", ""],
        }
        for number in range(2)
    ])  # fmt: skip


def video_classes(suite: Suite, data_set: DataSet) -> None:
    own = {"neg_text": ["running", "diving"]} if "choices" in data_set.options else {}
    made = [{"video_id": f"v{number}", "pos_text": "diving", **own} for number in range(2)]
    rows(suite.root / data_set.path, made)
    for row in made:
        film(suite.root / data_set.options["frames"] / row["video_id"])


def video_questions(suite: Suite, data_set: DataSet) -> None:
    style = data_set.options["style"]
    lettered = ["A. a red ball.", "B. a blue ball."]
    forms: dict[str, Row] = {
        "mvbench": {"video": "v.mp4", "question": "What?", "candidates": ["red", "blue"],
                    "answer": "blue"},
        "nextqa": {"video": 77, "question": "why?", "answer": 1, "qid": 0, "type": "CW",
                   **{f"a{index}": f"answer {index}" for index in range(5)}},
        "video_mme": {"videoID": "v", "question": "What?", "options": lettered, "answer": "B"},
        "egoschema": {"video_idx": "v", "question": "What?", "option": lettered, "answer": "1",
                      "question_idx": "0"},
        "activitynet": {"video_name": "v", "question": "is it red", "answer": "no",
                        "question_id": "v_1"},
    }  # fmt: skip
    made = forms[style]
    path = suite.root / data_set.path
    folder = suite.root / data_set.options["frames"]
    if style == "mvbench":
        for subset in ("action_count", "state_change"):
            rows(path / f"{subset}.json", [made])
            film(folder / subset / "v.mp4")
        return
    rows(path, [made])
    film(folder / {"nextqa": "77", "activitynet": "v_v"}.get(style, "v"))


def video_search(suite: Suite, data_set: DataSet) -> None:
    key, caption = data_set.options["id"], data_set.options["caption"]
    many = data_set.name in ("MSVD", "VATEX")
    made = [
        {key: f"path/v{number}.mp4" if key == "video" else f"v{number}",
         caption: [f"caption {number}", "another"] if many else f"caption {number}"}
        for number in range(2)
    ]  # fmt: skip
    rows(suite.root / data_set.path, made)
    for number in range(2):
        film(suite.root / data_set.options["frames"] / f"v{number}")


def video_clips(suite: Suite, data_set: DataSet) -> None:
    rows(suite.root / data_set.path, [{"query": "a dog", "video_path": "clips/v.mp4"}] * 2)
    for clip in ("query", "positive", *(f"clip{index}" for index in range(11))):
        film(suite.root / data_set.options["frames"] / "v" / clip, 3)


def video_moments(suite: Suite, data_set: DataSet) -> None:
    frames = suite.root / data_set.options["frames"]
    rows(suite.root / data_set.path, [
        {"query": "a dog", "input_frames": shown,
         "positive_frames": [{"output_path": "x/1.mp4"}, {"output_path": "x/2.mp4"}],
         "negative_frames": [{"output_path": "x/3.mp4"}]}
        for shown in ("", "q.jpg", "q.mp4")
    ])  # fmt: skip
    picture(frames / "query_q.jpg")
    for name in ("x_1", "x_2", "x_3", "q"):
        film(frames / name, 3)


def pages(suite: Suite, data_set: DataSet) -> None:
    folder = suite.root / data_set.path
    names = [1, 2] if data_set.name.startswith("ViDoRe") else ["a page.jpg", "b page.jpg"]
    stored = "pictures" in data_set.options
    made: list[Row] = []
    for index, name in enumerate(names):
        file = suite.root / ("a.png", "b.png")[index]
        picture(file)
        made.append(
            {
                "corpus-id": name,
                **({} if stored else {"image": {"bytes": file.read_bytes(), "path": None}}),
            }
        )
        if stored and isinstance(name, int):
            picture(suite.root / data_set.options["pictures"] / f"{name}.png")
        elif stored:
            digest = {"a page.jpg": "23d4af11", "b page.jpg": "a1989e81"}[str(name)]
            picture(suite.root / data_set.options["pictures"] / f"{str(name)[:6]}_{digest}.jpg")
    rows(folder / "corpus", made)
    rows(folder / "queries", [
        {"query-id": f"q{number}", "query": f"query {number}", "language": "english"}
        for number in range(2)
    ])  # fmt: skip
    rows(folder / "qrels", [
        {"query-id": "q0", "corpus-id": names[0], "score": 2},
        {"query-id": "q0", "corpus-id": names[1], "score": 1},
        {"query-id": "q1", "corpus-id": names[1], "score": 1},
    ])  # fmt: skip


def passages(suite: Suite, data_set: DataSet) -> None:
    folder, family = suite.root / data_set.path, data_set.meta_task
    documents = [{"_id": "d1", "title": "A title", "text": "some words"},
                 {"_id": "d2", "title": "", "text": "other words"},
                 {"_id": "d3", "title": "", "text": " "}]  # fmt: skip
    instructions = {"instruction_og": "Find it.", "instruction_changed": "Find that."}
    asked = [{"_id": f"q{number}", "text": f"query {number}", **instructions}
             for number in range(2)]  # fmt: skip
    grades: list[Row] = [
        {"query-id": "q0", "corpus-id": "d1", "score": 1},
        {"query-id": "q0", "corpus-id": "d2", "score": 0},
        {"query-id": "q1", "corpus-id": "d2", "score": 2},
    ]
    if family == "nanobeir":
        grades = [{key: row[key] for key in ("query-id", "corpus-id")} for row in grades]
        for name, found in (("corpus", documents), ("queries", asked), ("qrels", grades)):
            rows(folder / name / "train-00000-of-00001.parquet", found)
        return
    if family == "r2med":
        grades = [{"q_id": row["query-id"], "p_id": row["corpus-id"]} for row in grades]
    rows(folder / "corpus.jsonl", documents)
    rows(folder / ("query.jsonl" if family == "r2med" else "queries.jsonl"), asked)
    og = family in ("followir", "infosearch")
    rows(folder / ("qrels_og/test.jsonl" if og else "qrels.jsonl"), grades)


def bright(suite: Suite, data_set: DataSet) -> None:
    rows(suite.root / data_set.path, [
        {"id": "0", "query": "why?", "gold_ids": ["d1"], "excluded_ids": ["N/A"]},
        {"id": "1", "query": "how?", "gold_ids": ["d2", "d1"], "excluded_ids": ["N/A"]},
    ])  # fmt: skip
    documents = [{"id": "d1", "content": "some words"}, {"id": "d2", "content": "other words"}]
    rows(suite.root / data_set.options["documents"], documents)


def tools(suite: Suite, data_set: DataSet) -> None:
    category = Path(data_set.options["tools"]).name
    label = json.dumps([{"id": "tool_1", "category": category}])
    rows(suite.root / data_set.path / "queries-00000-of-00001.parquet", [
        {"id": "0", "instruction": "Find the tool.", "query": "weather in Malmö", "labels": label}
    ])  # fmt: skip
    rows(suite.root / data_set.options["tools"] / "tools-00000-of-00001.parquet", [
        {"id": f"tool_{number}", "documentation": json.dumps({"name": f"wetter ä {number}"})}
        for number in range(3)
    ])  # fmt: skip


def gui(suite: Suite, data_set: DataSet) -> None:
    folder, variant = suite.root / data_set.path, data_set.options["variant"]
    for name in ("s1.png", "s2.png"):
        picture(suite.root / data_set.options["pictures"] / name)
    rows(folder / "queries" / f"{variant}-00000-of-00001.parquet", [
        {"qry_text": "<|image_1|> Go on from here.", "qry_image_path": "s1.png",
         "pos_text": "<|image_1|>\n<|image_1|> The way.", "pos_image_path": "['s1.png', 's2.png']",
         "pos_id": "p1", "retrieval_type": variant}
    ])  # fmt: skip
    rows(folder / "corpus" / f"{variant}-00000-of-00001.parquet", [
        {"cand_text": "<|image_1|> A state.", "cand_image_path": "s2.png", "cand_id": "c1"}
    ])  # fmt: skip


def memories(suite: Suite, data_set: DataSet) -> None:
    folder = suite.root / data_set.path
    file = suite.root / data_set.options["instructions"]
    file.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**known, data_set.name: "Find the memory:"}))
    rows(folder / "one" / "corpus.jsonl", [{"id": "d1", "text": "a walk"}])
    for part in ("one/first", "one/second"):
        rows(folder / part / "queries.jsonl", [{"id": "q", "text": f"what in {part}?"}])
        rows(folder / part / "qrels.tsv", [{"query-id": "q", "corpus-id": "d1", "score": "1"}])


def products(suite: Suite, data_set: DataSet) -> None:
    folder = suite.root / data_set.path
    rows(folder / "query.jsonl", [{"qid": "q", "query": "a red shoe", "pos_ids": ["p1", "p2"]}])
    rows(folder / "candidates.jsonl", [
        {"candidate_id": f"p{number}", "title": f"Shoe {number}", "price": "3", "features": "",
         "images": [f"p{number}.png"]}
        for number in range(3)
    ])  # fmt: skip
    for number in range(3):
        picture(suite.root / data_set.options["pictures"] / f"p{number}.png")


def omniset(suite: Suite, data_set: DataSet) -> None:
    folder = suite.root / data_set.path
    names = [f"COCO_val2014_{number:012}" for number in range(3)]
    rows(folder / "omniset.jsonl", [
        {"image_id": names[0], "qry_text": "a dog", "hard_negatives": names[1:]}
    ])  # fmt: skip
    rows(folder / "catalog.jsonl", [
        {"image_id": name, "captions": [f"caption of {name}"], "image_filename": f"{name}.png",
         "video_filename": f"{name}.mp4", "audio_filename": f"{name}.wav"}
        for name in names
    ])  # fmt: skip
    for name in names:
        sound(folder / "audios" / f"{name}.wav")
        picture(folder / "val2014" / f"{name}.png")
        film(folder / "frames_omni" / name, 3)


LAYOUTS: dict[str, Callable[[Suite, DataSet], None]] = {
    one.__name__: one
    for one in (
        mmeb, video_classes, video_questions, video_search, video_clips, video_moments, pages,
        passages, bright, tools, gui, memories, products, omniset,
    )
} | audio_trees.LAYOUTS  # fmt: skip
