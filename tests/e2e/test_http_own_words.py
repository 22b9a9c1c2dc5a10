"""Errors over HTTP name the field that the caller wrote, whatever it becomes on its way."""

import base64
from typing import Any

import httpx
import pytest

from tests.e2e.dialects import COHERE, EMBED, RERANK, TEI, says
from tests.parity.audio_specs import wav

GIF = "data:image/gif;base64,R0lGODlhAQABAAAAACw="
FRAMES = "data:video/jpeg;base64,R0lGODlhAQABAAAAACw=,AAAA"
SOUND = {"rate": 16_000, "samples": 400, "format": "int16", "channels": [{"kind": "silence"}]}
WAV = "data:audio/wav;base64," + base64.b64encode(wav(SOUND)).decode()
HEARD = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
MARK = "<|image_pad|>"
PART, WORDS = {"type": "image_url", "image_url": {"url": GIF}}, {"type": "text", "text": "a"}
BOTH = {"query": "a", "texts": ["b"]}
CASES: list[tuple[str, dict[str, Any], str, str]] = [
    (EMBED, {"messages": [says("user", WORDS, PART)]}, "messages[0].content[1].image_url", "no J"),
    (EMBED, {"messages": [says("system", MARK), says("user", "a")]}, "messages[0].content", MARK),
    (EMBED, {"messages": [says("user", GIF)]}, "messages[0].content",
     '[{"type": "image_url", "image_url": {"url": "..."}}]'),
    (EMBED, {"input": "a", "instruction": MARK}, "instruction", MARK),
    (EMBED, {"input": "a", "task": f"find {MARK}"}, "task", MARK),
    (EMBED, {"input": ["a", {"text": "b", "instruction": MARK}]}, "input[1].instruction", MARK),
    (EMBED, {"input": {"content": [WORDS | {"text": MARK}]}}, "input.content[0].text", MARK),
    (EMBED, {"input": ["a", {"prompt": MARK}]}, "input[1]", "images: 0 given"),
    (EMBED, {"input": ["a", {"prompt": "b", "instruction": "c"}]}, "input[1].prompt", "either"),
    (EMBED, {"input": ["a", "one two " * 8000]}, "input[1]", "max_tokens"),
    (EMBED, {"input": ["a", {"text": "a" * 262_145}]}, "input[1].text", "max_text_bytes"),
    (EMBED, {"input": ["a", {"image_url": FRAMES}]}, "input[1].image_url", "no base64"),
    (EMBED, {"input": ["a", {"video_url": FRAMES}]}, "input[1].video_url", "frame 0: no JPEG"),
    (EMBED, {"input": ["a", GIF]}, "input[1]", 'send {"image_url": "..."} for what it holds'),
    (EMBED, {"input": "https://example.com/a.JPG?x=1"}, "input", 'send {"image_url": "..."}'),
    (EMBED, {"input": " https://example.com/a.mp4\n"}, "input", 'send {"video_url": "..."}'),
    (EMBED, {"input": "https://example.com/a.mp3"}, "input", 'send {"audio_url": "..."}'),
    (EMBED, {"input": ["a", {"audio_url": WAV}]}, "input[1].audio_url", "takes no audio"),
    (EMBED, {"messages": [says("user", WORDS, HEARD)]}, "messages[0].content[1].input_audio",
     "undecodable audio"),
    (RERANK, {"query": "a", "documents": ["b", {"image": "AAAA"}]}, "documents[1].image", "no JP"),
    (RERANK, {"query": {"image_url": GIF}, "documents": ["b"]}, "query.image_url", "no JPEG"),
    (RERANK, {"query": "a", "documents": [GIF]}, "documents[0]", "embedded as text"),
    (RERANK, {"query": "a", "documents": {"image": "AAAA"}}, "documents.image", "no JPEG"),
    (RERANK, {"query": "a", "documents": {"content": [WORDS, PART]}},
     "documents.content[1].image_url", "no JPEG"),
    (RERANK, {"query": "a", "documents": {"content": []}}, "documents", "0 given"),
    ("/score", {"text_1": "a", "text_2": {"content": [WORDS, WORDS | {"text": ""}]}},
     "text_2.content[1].text", "empty"),
    (RERANK, {"query": "a", "documents": ["b"], "document_instruction": MARK},
     "document_instruction", MARK),
    ("/v1/score", {"text_1": "a", "text_2": ["b", ""]}, "text_2[1]", "empty"),
    ("/v1/score", {"text_1": [""], "text_2": "b"}, "text_1[0]", "empty"),
    ("/v1/score", {"text_2": "b"}, "text_1", "needed, or one of data_1, queries"),
    (COHERE, {"texts": ["a", ""]}, "texts[1]", "empty"),
    (COHERE, {"texts": ["a", GIF]}, "texts[1]", "send it in images"),
    (COHERE, {"images": [GIF]}, "images[0]", "no JPEG"),
    (COHERE, {"inputs": [{"content": [PART]}]}, "inputs[0].content[0].image_url", "no JPEG"),
    (COHERE, {"texts": ["a"], "images": [GIF]}, "texts", "one of the three"),
    (COHERE, {"texts": ["a"], "output_dimension": 5000}, "output_dimension", "5000 are more"),
    (EMBED, {"input": "a", "truncate_prompt_tokens": 9000}, "truncate_prompt_tokens", "8192"),
    (COHERE, {"texts": ["a"], "max_tokens": 9000}, "max_tokens", "8192"),
    (RERANK, {"query": "a", "documents": ["b"], "max_tokens_per_doc": 9000}, "max_tokens_per_doc",
     "8192"),
    (TEI, {"inputs": ["a", ""]}, "inputs[1]", "empty"),
    (TEI, {"inputs": {"image_url": GIF}}, "inputs.image_url", "no JPEG"),
    ("/rerank", {"query": "a", "texts": ["b", ""]}, "texts[1]", "empty"),
    ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b", ""]}},
     "inputs.sentences[1]", "empty"),
    ("/similarity", {"inputs": {"source_sentence": "a"}}, "inputs.sentences", "missing"),
    ("/rerank", {**BOTH, "top_n": 1}, "top_n", "unknown"),
    ("/rerank", {**BOTH, "return_text": "yes"}, "return_text", "boolean"),
    ("/rerank", {"query": "a", "documents": ["b", ""]}, "documents[1]", "empty"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "param", "said"), CASES, ids=lambda x: str(x)[:50])
def test_errors_are_in_the_callers_own_words(
    http: httpx.Client, path: str, body: dict[str, Any], param: str, said: str
) -> None:
    answer = http.post(path, json={"model": "qwen", **body})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    assert said in error["message"]


@pytest.mark.parametrize(
    "words", ["data: the new oil", "see https://a.com/b.png", "https://a.com/b"]
)
def test_texts_about_pictures_are_texts(http: httpx.Client, words: str) -> None:
    for given in (words, {"text": words}, {"text": GIF}):
        assert http.post(EMBED, json={"model": "qwen", "input": given}).status_code == 200
