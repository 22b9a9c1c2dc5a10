"""Pictures and videos that were sent as text: an error, not thousands of tokens of base64.

That is for plain strings, which may have been meant as anything. Where a caller says that it is
text, ``{"text": ...}`` as in gRPC, it is.
"""

import re

from vlm2vec_service.errors import InvalidInputError

DATA_URI = re.compile(
    r"\s{0,99}data:(?:(image|video)/[\w.+-]{1,99}[^,\s]{0,200}|[^,\s]{0,200};base64),",
    re.IGNORECASE,
)
"""How a data URI starts that is no sentence about data."""
URL = re.compile(
    r"\s{0,99}https?://[^\s?#]{1,2000}\.(?:(jpe?g|png|webp|gif|bmp|tiff?|avif|hei[cf])|"
    r"(mp4|m4v|webm|mov|mkv|avi))(?:[?#]\S{0,4000})?\s{0,99}",
    re.IGNORECASE,
)
IN_INPUT = 'send {{"{kind}": "..."}} for what it shows, or {{"text": "..."}} for its characters'
"""What an error says of a string that is an input; ``kind`` is ``image_url`` or ``video_url``."""
IN_CHAT = (
    'send [{{"type": "{kind}", "{kind}": {{"url": "..."}}}}] for what it shows, or '
    '[{{"type": "text", "text": "..."}}] for its characters'
)
"""What it says of the content of a message."""
IN_TEXTS = "send it in images or, for its characters, as a text in inputs"
"""What it says of a text where pictures have a list of their own."""


def check_no_media(text: str, field: str, ways: str) -> None:
    """Refuses a text that is a data URI, or the URL of a picture or video, and nothing else.

    Raises `InvalidInputError` that says what to do instead, in one of the ``ways`` above.
    """
    uri = DATA_URI.match(text)
    url = None if uri else URL.fullmatch(text)
    if uri or url:
        video = (uri[1] or "").lower() == "video" if uri else bool(url and url[2])
        what = "a data URI" if uri else f"the URL of a {'video' if video else 'picture'}"
        way = ways.format(kind="video_url" if video else "image_url")
        raise InvalidInputError(field, f"it is {what} and would be embedded as text; {way}")
