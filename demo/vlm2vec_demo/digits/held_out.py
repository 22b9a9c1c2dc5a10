"""Question wordings that no training ever sees, written before the wordings that it does see.

``{colour}``, ``{digit}`` and ``{place}`` stand for "red", "seven" and "on the left".
"""

HELD_OUT = {
    "digit_by_colour": (
        "Can you say which digit is the {colour} one?",
        "Name the digit shown in {colour}.",
        "What is written in {colour}?",
    ),
    "colour_by_digit": (
        "Can you say what colour the {digit} has been given?",
        "Name the colour used for the {digit}.",
        "The {digit} was written in which colour?",
    ),
    "digit_by_place": (
        "Name the digit that stands {place}.",
        "Can you say which number you see {place}?",
        "What is written {place}?",
    ),
    "colour_by_place": (
        "Name the colour of what stands {place}.",
        "Can you say which colour you see {place}?",
        "In what colour is the digit {place} written?",
    ),
    "count": (
        "Count the digits.",
        "How many digits can you see?",
        "What is the number of digits?",
    ),
}
