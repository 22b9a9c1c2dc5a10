"""Media that were sent as text: an error, not thousands of tokens of base64.

That is for plain strings, which may have been meant as anything. Where a caller says that it is
text, ``{"text": ...}`` as in gRPC, it is.
"""

import re

from vlm2vec_service.errors import InvalidInputError

DATA_URI = re.compile(
    r"\s{0,99}data:(?:(image|video|audio)/[\w.+-]{1,99}[^,\s]{0,200}|[^,\s]{0,200};base64),",
    re.IGNORECASE,
)
"""How a data URI starts that is no sentence about data."""
URL = re.compile(
    r"\s{0,99}https?://[^\s?#]{1,2000}\.(?:(?P<image>jpe?g|png|webp|gif|bmp|tiff?|avif|hei[cf])|"
    r"(?P<video>mp4|m4v|webm|mov|mkv|avi)|(?P<audio>wav|flac|mp3|ogg|oga|opus|m4a|aac))"
    r"(?:[?#]\S{0,4000})?\s{0,99}",
    re.IGNORECASE,
)
NAMES = {"image": "a picture", "video": "a video", "audio": "an audio"}
IN_INPUT = 'send {{"{kind}": "..."}} for what it holds, or {{"text": "..."}} for its characters'
"""What an error says of a string that is an input; ``kind`` is ``image_url``, ``video_url`` or
``audio_url``."""
IN_CHAT = (
    'send [{{"type": "{kind}", "{kind}": {{"url": "..."}}}}] for what it holds, or '
    '[{{"type": "text", "text": "..."}}] for its characters'
)
"""What it says of the content of a message."""
IN_TEXTS = "send it in images, or in inputs as {kind} or, for its characters, as text"
"""What it says of a text where pictures have a list of their own."""


def check_no_media(text: str, field: str, ways: str) -> None:
    """Refuses a text that is a data URI, or the URL of a picture, video or audio, and nothing else.

    Raises `InvalidInputError` that says what to do instead, in one of the ``ways`` above.
    """
    uri = DATA_URI.match(text)
    url = None if uri else URL.fullmatch(text)
    if uri:
        what, kind = "a data URI", (uri[1] or "image").lower()
    elif url:
        kind = str(url.lastgroup)
        what = f"the URL of {NAMES[kind]}"
    else:
        return
    way = ways.format(kind=f"{kind}_url")
    raise InvalidInputError(field, f"it is {what} and would be embedded as text; {way}")
