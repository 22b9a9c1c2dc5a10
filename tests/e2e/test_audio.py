"""Audios, and the rate of frames, over every way in: the vectors of the authors' own code."""

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from click.testing import CliRunner
from PIL import Image
from playwright.sync_api import expect

import vlm2vec
from tests.e2e.browser import running_browser, watched_page
from tests.e2e.cases import Vector, cosine, options, png, unpack
from tests.e2e.embed_command import json_lines, read_npz
from tests.e2e.grpc_calls import stream
from tests.e2e.http_calls import embed, vectors
from tests.e2e.omni import OMNI, TWO, files, golden, grpc_vectors, running_omni, samples
from tests.e2e.server import Server
from tests.e2e.test_examples import run
from tests.evaluation import audio_trees
from tests.parity.audio_specs import wav, waveform
from tests.unit.test_odd_audio import BAD
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_cli import main
from vlm2vec_evaluation.mteb import ServedEncoder, mmeb_instructions
from vlm2vec_evaluation.suite import read_suite

SOUNDS = (
    "audio", "audio-speech", "audio-crop", "audio-silence", "audio-stereo-44k", "audio-hot-48k",
    "audio-8k", "audio-stereo-float",
)  # fmt: skip
"""Cases of one audio and a text, in the form of the base."""
WORDS = OMNI["audio"]["input"]["text"]
FRAMES = [
    png(Image.fromarray(np.random.default_rng(seed).integers(0, 256, (56, 56, 3), np.uint8)))
    for seed in range(4)
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_omni(tmp_path_factory.mktemp("omni")) as started:
        yield started


def test_files_and_samples_have_the_golden_vectors(server: Server) -> None:
    inputs = []
    for id in SOUNDS:
        (spec,), words = OMNI[id]["audios"], pb.Part(text=OMNI[id]["input"]["text"])
        file = pb.Part(audio=pb.Audio(file=wav(spec)))
        inputs += [
            pb.Input(parts=[file, words]),
            pb.Input(parts=[words, pb.Part(audio=pb.Audio(samples=samples(spec)))]),
            pb.Input(prompt=OMNI[id]["text"], parts=[file]),
        ]
    seconds = server.metric("audio_seconds_total", model="omni")
    found = iter(grpc_vectors(server, *inputs))
    for id in SOUNDS:
        for way in ("file", "samples behind the text", "raw prompt"):
            assert cosine(next(found), golden(id)) > 0.9999, (id, way)
    assert cosine(golden("audio"), golden("audio-speech")) < 0.999
    heard = sum(
        min(10.24, spec["samples"] / spec["rate"]) for id in SOUNDS for spec in OMNI[id]["audios"]
    )
    seconds = server.metric("audio_seconds_total", model="omni") - seconds
    assert seconds == pytest.approx(3 * heard, rel=0.01)
    assert server.metric("modalities_total", modality="audio_text") >= len(inputs)


def test_http_has_them_too(server: Server) -> None:
    (sound,) = (base64.b64encode(file).decode() for file in files("audio"))
    uri = f"data:audio/wav;base64,{sound}"
    openais = {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}}
    text = {"type": "text", "text": WORDS}
    with httpx.Client(base_url=f"http://{server.http_address}", timeout=60) as http:
        bodies: list[dict[str, Any]] = [
            {"messages": [{"role": "user", "content": [openais, text]}]},
            {"messages": [{"role": "user", "content": [text, openais]}]},
            {"input": {"audio_url": {"url": uri}, "text": WORDS}},
            {"input": [{"content": [{"type": "audio_url", "audio_url": {"url": uri}}, text]}]},
            {"input": {"prompt": OMNI["audio"]["text"], "input_audio": {"data": sound}}},
        ]
        for body in bodies:
            (vector,) = vectors(embed(http, model="omni", **body))
            assert cosine(vector, golden("audio")) > 0.9999, body.keys()
        tensors = [
            {"name": name, "datatype": "BYTES", "shape": [2], "data": [value, value]}
            for name, value in (("audio", sound), ("text", WORDS))
        ]
        answer = http.post("/v2/models/omni/infer", json={"inputs": tensors}).json()["outputs"][0]
        for vector in np.array(answer["data"], np.float32).reshape(answer["shape"]):
            assert cosine(vector, golden("audio")) > 0.9999
        names = [one["name"] for one in http.get("/v2/models/omni").json()["inputs"]]
        assert names == ["text", "image", "video", "audio", "instruction"]
        parts = [
            {"type": "audio_url", "audio_url": f"data:;base64,{base64.b64encode(file).decode()}"}
            for file in files(TWO["id"])
        ]
        parts.append({"type": "text", "text": TWO["input"]["parts"][-1]["text"]})
        (vector,) = vectors(embed(http, model="omni@lora", input={"content": parts}))
        assert cosine(vector, golden(TWO["id"], "lora")) > 0.9999
        picture = {"input_audio": {"data": base64.b64encode(FRAMES[0]).decode(), "format": "wav"}}
        answer = http.post("/v1/embeddings", json={"model": "omni", "input": [picture]})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "input[0].input_audio"


def test_openais_client(server: Server) -> None:
    client = openai.OpenAI(base_url=f"http://{server.http_address}/v1", api_key="any")
    (sound,) = (base64.b64encode(file).decode() for file in files("audio"))
    content = [
        {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}},
        {"type": "text", "text": WORDS},
    ]
    messages = [{"role": "user", "content": content}]
    unsaid: Any = openai.omit
    answer = client.embeddings.create(model="omni", input=unsaid, extra_body={"messages": messages})
    assert cosine(np.array(answer.data[0].embedding, np.float32), golden("audio")) > 0.9999


def test_our_clients(server: Server, tmp_path: Path) -> None:
    (spec,) = OMNI["audio-stereo-44k"]["audios"]
    path = tmp_path / "stereo.wav"
    path.write_bytes(wav(spec))
    sound = waveform(spec)
    audios: list[Any] = [path, wav(spec), vlm2vec.Samples(sound, spec["rate"])]
    audios.append(vlm2vec.Samples((sound * 32768).astype(np.int16), spec["rate"]))
    inputs: list[Any] = [vlm2vec.Input(text=WORDS, audios=[audio]) for audio in audios]
    inputs.append({"text": WORDS, "audio": str(path)})
    with vlm2vec.Client(server.address) as client:
        found = client.embed(inputs, model="omni")
        two = vlm2vec.Input(text=TWO["input"]["parts"][-1]["text"], audios=files(TWO["id"]))
        both = client.embed(two, model="omni", version="lora")

    async def ask() -> Any:
        async with vlm2vec.AsyncClient(server.address) as other:
            return await other.embed(inputs, model="omni")

    for vector in (*found, *asyncio.run(ask())):
        assert cosine(vector, golden("audio-stereo-44k")) > 0.9999
    assert cosine(both, golden(TWO["id"], "lora")) > 0.9999


def test_our_clients_keep_the_order_of_parts(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "first.wav"
    first, second = files(TWO["id"])
    path.write_bytes(first)
    asked: list[Any] = [
        vlm2vec.Input(parts=["First ", {"audio": path}, " then ", {"audio": second}]),
        {"parts": [{"text": "First "}, {"audio": str(path)}, " then ", {"audio": second}]},
        vlm2vec.Input(text="First  then ", audios=[first, second]),
    ]
    words, sounds = map(list, zip(*(
        (pb.Part(text=text), pb.Part(audio=pb.Audio(file=sound)))
        for text, sound in (("First ", first), (" then ", second))
    ), strict=True))  # fmt: skip
    (expected,) = grpc_vectors(
        server, pb.Input(parts=[words[0], sounds[0], words[1], sounds[1]]), version="lora"
    )
    with vlm2vec.Client(server.address) as client:
        found = client.embed(asked, model="omni", version="lora")
        streamed = dict(client.stream(asked, model="omni", version="lora"))

    async def ask() -> Any:
        async with vlm2vec.AsyncClient(server.address) as other:
            return await other.embed(asked, model="omni", version="lora")

    for way in (found, streamed, asyncio.run(ask())):
        assert [cosine(way[n], expected) > 0.99999 for n in range(3)] == [True, True, False]


def test_embed_without_a_server(server: Server, tmp_path: Path) -> None:
    between, folder = OMNI["chat-audio-between"], server.log.parent
    for id in (TWO["id"], between["id"]):
        for index, file in enumerate(files(id)):
            (tmp_path / f"{id}-{index}.wav").write_bytes(file)
    parts: list[dict[str, str]] = [{"audio": f"{TWO['id']}-{index}.wav"} for index in range(2)]
    parts.append(TWO["input"]["parts"][-1])
    sound = base64.b64encode(files("audio")[0]).decode()
    lines = [
        {"id": "audio", "text": WORDS, "audio": f"data:audio/wav;base64,{sound}"},
        {"id": TWO["id"], "adapter": "lora", "parts": parts},
        {
            "id": between["id"],
            "adapter": "lora",
            "prompt": between["text"],
            "audios": [f"{between['id']}-{index}.wav" for index in range(3)],
        },
    ]
    (tmp_path / "lines.jsonl").write_text(json_lines(lines))
    result = CliRunner().invoke(main.vlm2vec, [
        "embed", "--base", str(folder / "qwen2_5_omni_thinker"), "--embedding",
        str(folder / "v3.json"), "--adapter", f"lora={folder / 'lora'}", "--dtype", "float32",
        "--input", str(tmp_path / "lines.jsonl"), "--output", str(tmp_path / "out.npz"),
    ])  # fmt: skip
    assert result.exit_code == 0, result.output
    found = read_npz(tmp_path / "out.npz")
    assert cosine(found["audio"], golden("audio")) > 0.9999
    for id in (TWO["id"], between["id"]):
        assert cosine(found[id], golden(id, "lora")) > 0.9999


def test_a_bad_audio_harms_no_neighbour(server: Server) -> None:
    (good,) = files("audio")
    audios = {
        "good": pb.Audio(file=good),
        "cut": pb.Audio(file=good[:-500]),
        "picture": pb.Audio(file=FRAMES[0]),
        "nan": pb.Audio(samples=pb.Samples(data=b"\0\0\xc0\x7f" * 900, rate=16_000)),
        "large": pb.Audio(file=bytes(1_000_001)),
        **{name: pb.Audio(file=data) for name, (data, _) in BAD.items()},
        "again": pb.Audio(file=good),
    }
    requests = [
        pb.EmbedStreamRequest(
            id=id,
            options=options("omni"),
            input=pb.Input(parts=[pb.Part(audio=audio), pb.Part(text=WORDS)]),
        )
        for id, audio in audios.items()
    ]
    answers = stream(server, requests)
    for id in ("good", "again"):
        assert cosine(unpack(answers[id].embedding.vector), golden("audio")) > 0.9999
    errors = {id: answers[id].error for id in audios if answers[id].HasField("error")}
    assert {id: error.field for id, error in errors.items()} == {
        "cut": "input.parts[0].audio.file",
        "picture": "input.parts[0].audio.file",
        "nan": "input.parts[0].audio.samples",
        "large": "input.parts[0].audio.file",
        **dict.fromkeys(BAD, "input.parts[0].audio.file"),
    }
    assert "max_audio_bytes" in errors["large"].message


def test_the_rate_of_frames_counts_over_every_way(server: Server) -> None:
    def over_grpc(fps: float) -> Vector:
        video = pb.Video(frames=pb.Frames(images=FRAMES, fps=fps))
        (vector,) = grpc_vectors(server, pb.Input(parts=[pb.Part(video=video)]), version="lora")
        return vector

    slow, unsaid = over_grpc(0.5), over_grpc(0)
    assert cosine(slow, unsaid) < 0.99999
    frames = ",".join(base64.b64encode(frame).decode() for frame in FRAMES)
    with httpx.Client(base_url=f"http://{server.http_address}", timeout=60) as http:
        for head, expected in (("video/jpeg;fps=0.5", slow), ("video/jpeg", unsaid)):
            item = {"video_url": {"url": f"data:{head};base64,{frames}"}}
            (vector,) = vectors(embed(http, model="omni@lora", input=item))
            assert cosine(vector, expected) > 0.999999
    with vlm2vec.Client(server.address) as client:
        for video, expected in (
            (vlm2vec.Frames(FRAMES, fps=0.5), slow),
            (vlm2vec.Frames(FRAMES), unsaid),
            (FRAMES, unsaid),
        ):
            vector = client.embed(vlm2vec.Input(video=video), model="omni", version="lora")
            assert cosine(vector, expected) > 0.999999


def test_the_page_ranks_sounds(server: Server) -> None:
    names = ("audio", "audio-silence", "audio-speech")
    sounds: list[Any] = [
        {"name": f"{name}.wav", "mimeType": "audio/wav", "buffer": files(name)[0]} for name in names
    ]
    origin = f"http://{server.http_address}"
    with running_browser() as browser, watched_page(browser, origin) as page:
        query, candidates = (
            page.get_by_role("group", name=name) for name in ("Query", "Candidates")
        )
        chooser = query.get_by_label("Drop pictures or sounds, or choose them")
        expect(chooser).to_have_attribute("accept", "image/*,audio/*")
        chooser.set_input_files(sounds[2])
        candidates.get_by_label("Drop pictures or sounds").set_input_files(sounds)
        page.get_by_role("button", name="Rank").click()
        ranking = page.get_by_role("article").get_by_role("listitem")
        expect(ranking).to_have_count(3)
        expect(ranking.first).to_contain_text("audio-speech.wav")
        expect(ranking.first).to_contain_text("1.0000")
        assert ranking.first.locator("audio").evaluate("player => player.duration") > 0


def test_the_example_hears_what_sounds_alike(server: Server) -> None:
    lines = run(server, "audio.py").splitlines()
    assert len(lines) == 5
    for line in lines:
        score, _, heard = line.partition("  ")
        sound, _, found = heard.partition(" sounds like ")
        assert sound == found
        assert 0.9 < float(score) < 0.9999


def test_mtebs_audio_and_mmebs_get_the_vectors_of_the_authors(
    server: Server, tmp_path: Path
) -> None:
    """MTEB's encoder sends what it decoded, with channels before samples; a suite's audio is read
    from its files."""
    cells = [
        {"array": waveform(spec).T, "sampling_rate": spec["rate"]}
        for id in ("audio", "audio-stereo-44k") for spec in OMNI[id]["audios"]
    ]  # fmt: skip
    task = SimpleNamespace(name="ESC50_Zeroshot", type="AudioZeroshotClassification")
    with vlm2vec.Client(server.address) as client:
        encoder = ServedEncoder(client, "omni", instructions=mmeb_instructions())
        found = encoder.encode(
            [{"audio": cells}],  # type: ignore[arg-type]
            task_metadata=task,  # type: ignore[arg-type]
            hf_split="test", hf_subset="default",
        )  # fmt: skip
    for vector, id in zip(found, ("audio", "audio-stereo-44k"), strict=True):
        assert cosine(vector, golden(id)) > 0.9999
    suite = read_suite("mmeb_v3", tmp_path)
    for item in suite.data_sets:
        if item.name == "ESC-50":
            audio_trees.LAYOUTS[item.layout](suite, item)
    result = CliRunner().invoke(
        main.vlm2vec,
        ["evaluate", "--target", server.address, "--model", "omni", "--suite", "mmeb_v3", "--only",
         "ESC-50", "--data", str(tmp_path), "--cache", str(tmp_path / "vectors")],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "omni version base" in result.output
    assert "audio_cls" in result.output
