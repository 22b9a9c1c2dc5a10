"""The shapes of what a request may embed, which `InputReader` checks and the OpenAPI page shows."""

from vlm2vec_service.frontend.http.shapes import (
    ByType,
    Choice,
    ListOf,
    Narrowed,
    Object,
    OneOrMany,
    Shape,
    Tagged,
    Text,
    TokenIds,
)

AUDIO_FORMATS = ("wav", "mp3", "flac", "ogg", "opus", "m4a", "aac", "aiff", "webm", "mp4")
TEXT = Text()
IGNORED = Text(description="For other servers; this one has no use for it.")
URL = ByType(
    {str: TEXT, dict: Object({"url": TEXT, "detail": IGNORED}, required=("url",))},
    expected="a string or an object",
    description="A data URI; or an https URL, where the server fetches from its origin.",
)
INPUT_AUDIO = Object(
    {
        "data": TEXT.described("Base64, or what audio_url may be."),
        "format": Choice(AUDIO_FORMATS, description="The file itself says which it is."),
    },
    required=("data",),
    description="An audio, as OpenAI's chats have it.",
)
TOKENS = TokenIds(description="Ids of the model's own tokenizer.")


def _part(kind: str, shape: Shape) -> Object:
    return Object({"type": Choice((kind,)), kind: shape}, required=("type", kind))


def _content(*parts: Object) -> ByType:
    expected = "a string or a list of parts"
    return ByType({str: TEXT, list: ListOf(Tagged("type", parts), expected)}, expected=expected)


TEXT_PART = _part("text", TEXT)
CONTENT = _content(
    TEXT_PART,
    _part("image_url", URL),
    _part("video_url", URL),
    _part("audio_url", URL),
    _part("input_audio", INPUT_AUDIO),
)
"""A string, or a list of text, images, videos and audios, as a chat has them."""

ITEM = Object(
    {
        "instruction": TEXT.described("The task."),
        "prompt": TEXT.described("A raw prompt with the model's own placeholders."),
        "text": TEXT,
        "image_url": URL,
        "video_url": URL,
        "audio_url": URL,
        "input_audio": INPUT_AUDIO,
        "image": TEXT.described("The same as image_url, or bare base64."),
        "content": CONTENT,
    }
)
ONE = ByType({str: TEXT, list: TOKENS, dict: ITEM}, "a string, token ids or an object")
"""One thing to embed."""
MANY = ListOf(ONE, "a list", least=1)
"""Things to embed; `InputReader` says how many there may be, which is a setting."""
CONTENTS = ListOf(
    Object({"content": CONTENT}, required=("content",)), "a list of objects with content", least=1
)
DOCUMENTS = ByType({list: MANY, dict: ITEM}, "a list, or an object for a single document")
"""Things to rank; an object alone is one of them or, if it has nothing but a list of parts, has one
in each, as vLLM reads it."""
TEXTS = ListOf(TEXT, "a list of strings", least=1)
URLS = ListOf(TEXT.described("A data URI, or an https URL."), "a list of data URIs", least=1)
INPUT = OneOrMany(
    ONE,
    MANY,
    description="One thing to embed or a list of them: text, token ids, or objects with media.",
)


WORDS = _content(TEXT_PART)


def _message(content: Shape, *roles: str) -> Object:
    return Object(
        {"role": Choice(roles), "content": content, "name": IGNORED},
        required=("role", "content"),
    )


MESSAGES = ListOf(
    Tagged(
        "role",
        (
            _message(Narrowed(CONTENT, WORDS, "an instruction is text"), "system", "developer"),
            _message(CONTENT, "user"),
            _message(Narrowed(CONTENT, WORDS, "an assistant's turn is text"), "assistant"),
        ),
    ),
    "a list of messages",
    least=1,
    description="One thing to embed as a chat: the system's content is the instruction.",
)
