"""The fields of other embedding servers: what each of them does here, as docs/http-api.md says."""

from dataclasses import dataclass
from typing import Any

from PIL import Image

from tests.e2e.cases import png, text
from tests.e2e.http_calls import data_uri
from vlm2vec.v1 import embedding_pb2 as pb

EMBED, RERANK, COHERE, TEI = "/v1/embeddings", "/v1/rerank", "/v2/embed", "/embed"
PICTURE = Image.new("RGB", (40, 40), (200, 30, 60))
URI = data_uri(PICTURE)
BASE64 = URI.partition(",")[2]
SENTENCE = "Find it."
SHORT, LONG = "one two three four five six seven eight nine ten eleven twelve", "one " * 9000
A, B, IMAGE = text("a cat"), text("two boats"), pb.Input(parts=[pb.Part(image=png(PICTURE))])
AS_PART = {"type": "image_url", "image_url": {"url": URI}}
PARTS = {"content": [AS_PART, {"type": "text", "text": "two boats"}]}
SIMILAR = {"source_sentence": "a cat", "sentences": ["two boats"]}
BOTH = pb.Input(parts=[*IMAGE.parts, *B.parts])
BITS = pb.OutputOptions(dtype=pb.DTYPE_BINARY)
RAW = pb.OutputOptions(normalize=False)
CUT = pb.OutputOptions(dimensions=16)


@dataclass(frozen=True)
class Row:
    """A request in another server's words. Its field ``does`` one of three: it ``means`` what
    ``call`` says over gRPC; it is ``ignored``, and so is the same as ``call``; or it is
    ``refused``, and the error names ``param``."""

    dialect: str
    field: str
    does: str
    path: str
    body: dict[str, Any]
    call: pb.EmbedRequest | pb.RankRequest | None = None
    param: str = ""


def embeds(*inputs: pb.Input, **options: Any) -> pb.EmbedRequest:
    """Embeds ``inputs`` with fields of `CallOptions`."""
    return pb.EmbedRequest(inputs=inputs, options=pb.CallOptions(**options))


def ranks(*candidates: pb.Input, top_k: int = 0, **options: Any) -> pb.RankRequest:
    """Ranks ``candidates`` for a cat with fields of `CallOptions`."""
    given = pb.CallOptions(**options)
    return pb.RankRequest(query=A, candidates=candidates, top_k=top_k, options=given)


def told(instruction: str, message: pb.Input) -> pb.Input:
    """The input under an instruction."""
    return pb.Input(instruction=instruction, parts=message.parts)


def says(role: str, *content: Any) -> dict[str, Any]:
    """A message of a chat, of one text or of parts."""
    alone = len(content) == 1 and isinstance(content[0], str)
    return {"role": role, "content": content[0] if alone else list(content)}


def means(dialect: str, field: str, path: str, call: Any, **body: Any) -> Row:
    """A row of a field that means what ``call`` says."""
    return Row(dialect, field, "means", path, body, call)


def ignored(dialect: str, field: str, *values: Any, path: str = EMBED, **body: Any) -> list[Row]:
    """Rows of ``values`` of a field that are ignored, beside a cat or ``body``."""
    beside = body or {"input": "a cat"}
    call = ranks(B) if {"query", "text_1"} & set(body) else embeds(A)
    return [Row(dialect, field, "ignored", path, {**beside, field: v}, call) for v in values]


def refused(dialect: str, field: str, *values: Any, path: str = EMBED, **body: Any) -> list[Row]:
    """Rows of ``values`` of a field that are refused, beside a cat or ``body``."""
    beside = body or {"input": "a cat"}
    return [Row(dialect, field, "refused", path, {**beside, field: v}, None, field) for v in values]


OPENAI = [
    means("OpenAI", "input", EMBED, embeds(A, B), input=["a cat", "two boats"]),
    means("OpenAI", "input", EMBED, embeds(pb.Input(token_ids=[5, 6])), input=[5, 6]),
    means("OpenAI", "encoding_format", EMBED, embeds(A), input="a cat", encoding_format="base64"),
    *refused("OpenAI", "encoding_format", "int8", "bytes"),
    means("OpenAI", "dimensions", EMBED, embeds(A, output=CUT), input="a cat", dimensions=16),
    *refused("OpenAI", "dimensions", 64),
    means("OpenAI", "user", EMBED, embeds(A, routing_key="me"), input="a cat", user="me"),
]

VLLM = [
    means(
        "vLLM", "messages", EMBED, embeds(told(SENTENCE, text("a cat two boats"))),
        messages=[says("system", SENTENCE), says("user", "a cat"), says("assistant", "two boats")],
    ),
    means(
        "vLLM", "messages", EMBED, embeds(A),
        messages=[says("user", "a cat"), says("assistant", {"type": "text", "text": ""})],
    ),
    Row(
        "vLLM", "messages", "refused", EMBED, {"messages": [says("assistant", AS_PART)]},
        param="messages[0].content",
    ),
    *(
        means(
            "vLLM", "truncate_prompt_tokens", EMBED, embeds(text(words), truncate=most),
            input=words, truncate_prompt_tokens=given,
        )
        for words, given, most in ((SHORT, 8, 8), (LONG, -1, 0))
    ),
    means(
        "vLLM", "truncate_prompt_tokens", RERANK, ranks(text(SHORT), truncate=8),
        query="a cat", documents=[SHORT], truncate_prompt_tokens=8,
    ),
    *refused("vLLM", "truncate_prompt_tokens", 0, -2, True),
    *ignored("vLLM", "truncation_side", "right"),
    *refused("vLLM", "truncation_side", "left"),
    means("vLLM", "use_activation", EMBED, embeds(A, output=RAW), input="a cat",
          use_activation=False),
    *ignored("vLLM", "use_activation", True, False, path=RERANK, query="a cat",
             documents=["two boats"]),
    means("vLLM", "priority", EMBED, embeds(A), input="a cat", priority=5),
    *refused("vLLM", "priority", "urgent", 1.5, True),
    *ignored("vLLM", "add_special_tokens", True),
    *refused("vLLM", "add_special_tokens", False),
    *ignored("vLLM", "padding", "do_not_pad"),
    *refused("vLLM", "padding", "max_length"),
    *ignored("vLLM", "embed_dtype", "float32"),
    *refused("vLLM", "embed_dtype", "float16"),
    *ignored("vLLM", "endianness", "little", "native"),
    *refused("vLLM", "endianness", "big"),
    *refused("vLLM", "chat_template", "{{ messages }}"),
    *ignored("vLLM", "chat_template_kwargs", {}),
    *refused("vLLM", "chat_template_kwargs", {"a": 1}),
    *ignored("vLLM", "mm_processor_kwargs", {}),
    *refused("vLLM", "mm_processor_kwargs", {"min_pixels": 1}),
    *ignored("vLLM", "media_io_kwargs", {}),
    *refused("vLLM", "media_io_kwargs", {"video": {"num_frames": 4}}),
    *ignored("vLLM", "add_generation_prompt", False),
    *refused("vLLM", "add_generation_prompt", True),
    *ignored("vLLM", "continue_final_message", True, False),
    *ignored("vLLM", "request_id", "mine"),
    *ignored("vLLM", "cache_salt", "salt"),
    means("vLLM", "documents", RERANK, ranks(B), query={"text": "a cat"},
          documents={"content": [{"type": "text", "text": "two boats"}]}),
    means("vLLM", "documents", RERANK, ranks(IMAGE, B), query={"content": "a cat"},
          documents=[{"content": [AS_PART]}, "two boats"]),
    means("vLLM", "documents", RERANK, ranks(IMAGE, B), query="a cat", documents=PARTS),
    means("vLLM", "documents", RERANK, ranks(BOTH), query="a cat", documents=[PARTS]),
    means("vLLM", "text_1, text_2", "/score", ranks(IMAGE, B), text_1="a cat", text_2=PARTS),
    *ignored("vLLM", "encoding_format", "float", "base64", path="/score", text_1="a cat",
             text_2="two boats"),
    *(
        means("vLLM", f"{one}, {other}", path, ranks(B, A), **{one: "a cat"},
              **{other: ["two boats", "a cat"]})
        for one, other, path in (
            ("text_1", "text_2", "/v1/score"), ("data_1", "data_2", "/score"),
            ("queries", "documents", "/v1/score"), ("queries", "items", "/score"),
        )
    ),
    Row("vLLM", "text_1, text_2", "refused", "/score", {"text_1": ["a", "b"], "text_2": ["a", "b"]},
        param="text_1"),
]  # fmt: skip

JINA = [
    means("Jina", "input", EMBED, embeds(A, IMAGE), input=[{"text": "a cat"}, {"image": URI}]),
    means("Jina", "input", EMBED, embeds(IMAGE), input=[{"image": BASE64}]),
    means("Jina", "documents", RERANK, ranks(IMAGE, B), query="a cat",
          documents=[{"image": BASE64}, {"text": "two boats"}]),
    *ignored("Jina", "task", "retrieval.query", "text-matching"),
    means("Jina", "task", EMBED, embeds(told(SENTENCE, A)), input="a cat", task=SENTENCE),
    *refused("Jina", "task", "retrieval.qeury"),
    *ignored("Jina", "late_chunking", False),
    *refused("Jina", "late_chunking", True),
    *(
        means("Jina", "embedding_type", EMBED, embeds(A, output=output), input="a cat",
              embedding_type=kind)
        for kind, output in (
            ("float", None), ("base64", None), ("binary", BITS), (["ubinary"], BITS)
        )
    ),
    *refused("Jina", "embedding_type", "int8", ["float", "binary"]),
    means("Jina", "normalized", EMBED, embeds(A, output=RAW), input="a cat", normalized=False),
    means("Jina", "truncate", EMBED, embeds(text(LONG), truncate=0), input=LONG, truncate=True),
    *ignored("Jina", "return_multivector", False),
    *refused("Jina", "return_multivector", True),
    *ignored("Jina", "return_embeddings", False, path=RERANK, query="a cat",
             documents=["two boats"]),
    *refused("Jina", "return_embeddings", True, path=RERANK, query="a", documents=["b"]),
    means("Jina", "top_n", RERANK, ranks(B, A, top_k=1), query="a cat", top_n=1,
          documents=["two boats", "a cat"]),
]  # fmt: skip

COHERES = [
    means("Infinity", "modality", EMBED, embeds(IMAGE), input=URI, modality="image"),
    means("Infinity", "modality", EMBED, embeds(IMAGE, IMAGE), input=[URI, URI], modality="image"),
    means("Infinity", "modality", EMBED, embeds(A), input="a cat", modality="text"),
    means("Infinity", "modality", EMBED, embeds(told(SENTENCE, IMAGE)), input=[URI],
          modality="image", instruction=SENTENCE),
    means("Cohere", "texts", COHERE, embeds(A, B), texts=["a cat", "two boats"]),
    means("Cohere", "images", COHERE, embeds(IMAGE), images=[URI]),
    means("Cohere", "inputs", COHERE, embeds(pb.Input(parts=[*A.parts, *IMAGE.parts])),
          inputs=[{"content": [{"type": "text", "text": "a cat"}, AS_PART]}]),
    *ignored("Cohere", "input_type", "search_query", "image", path=COHERE, texts=["a cat"]),
    means("Cohere", "input_type", COHERE, embeds(told(SENTENCE, A)), texts=["a cat"],
          input_type=SENTENCE),
    *refused("Cohere", "input_type", "search_queries", path=COHERE, texts=["a cat"]),
    *(
        means("Cohere", "embedding_types", COHERE, embeds(A, output=output), texts=["a cat"],
              embedding_types=[kind])
        for kind, output in (("float", None), ("base64", None), ("binary", BITS), ("ubinary", BITS))
    ),
    Row("Cohere", "embedding_types", "refused", COHERE,
        {"texts": ["a"], "embedding_types": ["float", "int8"]}, param="embedding_types[1]"),
    means("Cohere", "output_dimension", COHERE, embeds(A, output=CUT), texts=["a cat"],
          output_dimension=16),
    *refused("Cohere", "output_dimension", 64, path=COHERE, texts=["a cat"]),
    *(
        means("Cohere", "truncate", COHERE, embeds(text(words), **options), texts=[words], **given)
        for words, given, options in (
            (LONG, {}, {"truncate": 0}), (LONG, {"truncate": "END"}, {"truncate": 0}),
            (SHORT, {"truncate": "NONE"}, {}),
        )
    ),
    *refused("Cohere", "truncate", "START", path=COHERE, texts=["a cat"]),
    means("Cohere", "max_tokens", COHERE, embeds(text(SHORT), truncate=8), texts=[SHORT],
          max_tokens=8),
    means("Cohere", "priority", COHERE, embeds(A), texts=["a cat"], priority=3),
    means("Cohere", "max_tokens_per_doc", "/v2/rerank", ranks(text(SHORT), truncate=8),
          query="a cat", documents=[SHORT], max_tokens_per_doc=8),
]  # fmt: skip

TEIS = [
    means("TEI", "inputs", TEI, embeds(A, IMAGE), inputs=["a cat", {"image_url": URI}]),
    means("TEI", "inputs", "/similarity", ranks(B, A),
          inputs={"source_sentence": "a cat", "sentences": ["two boats", "a cat"]}),
    means("TEI", "parameters", "/similarity", ranks(B), inputs=SIMILAR,
          parameters={"truncate": True, "truncation_direction": "Right", "prompt_name": None}),
    *(
        Row("TEI", "parameters", "refused", "/similarity", {"inputs": SIMILAR, "parameters": other},
            param=f"parameters.{next(iter(other))}")
        for other in ({"prompt_name": "query"}, {"truncation_direction": "Left"}, {"normalize": 1})
    ),
    means("TEI", "normalize", TEI, embeds(A, output=RAW), inputs="a cat", normalize=False),
    means("TEI", "truncate", TEI, embeds(text(LONG), truncate=0), inputs=LONG, truncate=True),
    *ignored("TEI", "truncation_direction", "Right", "right", path=TEI, inputs="a cat"),
    *refused("TEI", "truncation_direction", "Left", path=TEI, inputs="a cat"),
    *refused("TEI", "prompt_name", "query", path=TEI, inputs="a cat"),
    means("TEI", "dimensions", TEI, embeds(A, output=CUT), inputs="a cat", dimensions=16),
    means("TEI", "texts", "/rerank", ranks(B, A), query="a cat", texts=["two boats", "a cat"]),
    means("TEI", "return_text", "/rerank", ranks(B), query="a cat", texts=["two boats"],
          return_text=True),
    *ignored("TEI", "raw_scores", True, False, path="/rerank", query="a cat", texts=["two boats"]),
]  # fmt: skip

ROWS = [*OPENAI, *VLLM, *JINA, *COHERES, *TEIS]
