"""HTTP requests that are wrong: their JSON, their bytes, or what is around them."""

from typing import Any

EMBEDDINGS, RERANK = "/v1/embeddings", "/v1/rerank"
WRONG: dict[str, tuple[Any, ...]] = {
    "model": (5, ["qwen"], {}, True, "qwen@1@2", "\ud800", "qwen@\udfff"),
    "instruction": (5, [], {}, "\udc00"),
    "encoding_format": ("FLOAT", 1, ["float"]),
    "normalize": ("yes", 1, []),
    "priority": (1.5, "BULK", ["bulk"]),
    "user": (5, [], "\ud800"),
    "dimensions": (-1, 1.5, "64", [], 2**64),
    "surprise": (None, 1, "a"),
    "__proto__": ({},),
}
"""Values that a field beside a good input must not have."""
ITEMS: tuple[Any, ...] = (
    {"text": 5}, {"text": ["a"]}, {"text": "\ud800"}, {"prompt": 5}, {"prompt": ""}, {"content": 5},
    {"content": [5]}, {"content": [{}]}, {"content": [{"type": 5}]}, {"content": []}, {},
    {"content": [{"type": "text", "text": None}]}, {"text": "a", "surprise": 1},
    {"content": [{"type": "image_url", "image_url": None}]}, {"image_url": 5}, {"image_url": ""},
    {"content": [{"type": "image_url", "image_url": {"url": 5}}]}, {"image_url": "data:"},
    {"image_url": "data:image/png;base64,"}, {"image_url": "data:image/png;base64,!!!!"},
    {"image_url": "data:text/html;base64,PGh0bWw+"}, {"image_url": "gopher://a/b"},
    {"image_url": "https://"}, {"image_url": "https://a..b/c.png"}, {"image_url": "//a/b.png"},
    {"image_url": "http://[::1/a.png"}, {"image_url": "https://a:99999/b"}, {"video_url": ""},
    {"image_url": "https://example.com/cat.png"}, {"video_url": "data:video/mp4;base64,AAAA"},
    {"video_url": "data:video/jpeg;base64,"}, {"video_url": "data:video/jpeg;base64,AAAA,AAAA"},
    {"prompt": "a", "instruction": "b"}, [-1], [2**32], [1.5], [None], [[[1]]], None, 1.5, False,
)  # fmt: skip
"""Inputs that are none."""

BAD_QUERIES: tuple[Any, ...] = (5, None, True, {"text": 1}, "\ud800")
BAD_DOCUMENTS: tuple[Any, ...] = (5, None, {}, [None], [[]], [{"text": 1}])

BODIES: dict[str, tuple[str, Any]] = {
    **{f"{field} {value!r:.30}": (EMBEDDINGS, {"model": "qwen", "input": "a", field: value})
       for field, values in WRONG.items() for value in values},
    **{f"input {item!r:.60}": (EMBEDDINGS, {"model": "qwen", "input": [item]}) for item in ITEMS},
    **{f"query {value!r:.30}": (RERANK, {"model": "qwen", "query": value, "documents": ["a"]})
       for value in BAD_QUERIES},
    **{f"documents {value!r:.30}": (RERANK, {"model": "qwen", "query": "a", "documents": value})
       for value in BAD_DOCUMENTS},
    **{f"top_n {value!r}": (
        RERANK, {"model": "qwen", "query": "a", "documents": ["a"], "top_n": value})
       for value in (-1, 1.5, "1", 2**40)},
    "messages of a string": (EMBEDDINGS, {"model": "qwen", "messages": "a"}),
    "messages of an unknown role": (
        EMBEDDINGS, {"model": "qwen", "messages": [{"role": "tool", "content": "a"}]}),
    "messages without content": (EMBEDDINGS, {"model": "qwen", "messages": [{"role": "user"}]}),
}  # fmt: skip
"""A path and a JSON body, by what is wrong with it."""

CONTENTS: dict[str, bytes] = {
    "nothing": b"",
    "half an object": b'{"model": "qwen", "input": "a',
    "a comma too many": b'{"model": "qwen", "input": "a",}',
    "two objects": b'{"input": "a"}{"input": "b"}',
    "no UTF-8": b'{"model": "qwen", "input": "\xc3\x28"}',
    "a byte of zero": b"\0",
    "NaN": b'{"model": "qwen", "input": [NaN]}',
    "Infinity": b'{"model": "qwen", "input": "a", "dimensions": Infinity}',
    "a number of 10,000 digits": b'{"model": "qwen", "input": [' + b"9" * 10_000 + b"]}",
    "nested lists": b'{"input": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "nested objects": b'{"input": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001,
    "single quotes": b"{'input': 'a'}",
    "XML": b"<input>a</input>",
    "a list of 100,000 lists": b'{"model": "qwen", "input": [' + b"[]," * 99_999 + b"[]]}",
    "100,000 keys": b"{" + b",".join(b'"%d":0' % n for n in range(100_000)) + b"}",
}
"""Bytes in place of a JSON body."""

_JSON = {"content-type": "application/json"}
_BODY = '{"model": "qwen", "input": "a"}'
HEADS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no content type": ({"content": _BODY}, ("HTTP 400",)),
    "a form": ({"data": {"model": "qwen", "input": "a"}}, ("HTTP 400",)),
    "GET": ({"method": "GET"}, ("HTTP 405",)),
    "PUT": ({"method": "PUT", "content": _BODY, "headers": _JSON}, ("HTTP 405",)),
    "DELETE": ({"method": "DELETE"}, ("HTTP 405",)),
    "an unknown method": ({"method": "BREW", "content": _BODY}, ("HTTP 400", "HTTP 405")),
    "an unknown path": ({"url": "/v1/completions", "content": _BODY}, ("HTTP 404",)),
    "a path upwards": ({"url": "/v1/../../etc/passwd", "method": "GET"}, ("HTTP 404",)),
    "a path of no UTF-8": ({"url": "/v1/%ff%fe", "method": "GET"}, ("HTTP 404",)),
    "an unknown model": ({"url": "/v1/models/gwen", "method": "GET"}, ("HTTP 404",)),
    "a long path": ({"url": "/" + "a" * 8_000, "method": "GET"}, ("HTTP 404", "HTTP 414")),
    "a request id of 300 bytes": (
        {"content": _BODY, "headers": {**_JSON, "x-request-id": "x" * 300}}, ("HTTP 200",),
    ),
    "a compressed body": (
        {"content": _BODY, "headers": {**_JSON, "content-encoding": "gzip"}},
        ("HTTP 200", "HTTP 400", "HTTP 415"),
    ),
    "a body that is too large": (
        # The connection is closed, maybe before all is sent.
        {"content": b" " * 67_108_865, "headers": _JSON}, ("HTTP 413", "HTTP closed"),
    ),
}  # fmt: skip
"""Arguments of httpx's ``request``, and what may come back."""
