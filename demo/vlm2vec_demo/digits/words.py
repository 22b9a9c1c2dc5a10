"""Writes captions, questions and instructions about scenes, in VLM2Vec's forms.

A wording holds ``{digit}``, ``{colour}`` or ``{place}``. Those of `held_out` are used in no
training.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from vlm2vec_demo.digits.held_out import HELD_OUT
from vlm2vec_demo.digits.world import COLOURS, DIGITS, Scene, Thing

CLASSIFY = "Represent the given image for classification"
TO_CAPTION = "Find an image caption describing the given everyday image."
TO_IMAGE = "Find me an everyday image that matches the given caption:"
IMAGE = "Represent the given image."
QUESTION = "Represent the given image with the following question:"
SELECT = "Select the portion of the image that isolates the"
CROP = "Represent the given cropped image of the object"
INSTRUCTIONS = (CLASSIFY, TO_CAPTION, TO_IMAGE, IMAGE, QUESTION, SELECT, CROP)

PLAIN = {
    "digit_by_colour": "Which digit is {colour}?",
    "colour_by_digit": "What colour is the {digit}?",
    "digit_by_place": "Which digit is {place}?",
    "colour_by_place": "What colour is the digit {place}?",
    "count": "How many digits are there?",
}
"""The wording that evaluation asks with, for each kind of question."""

WORDINGS = {
    "digit_by_colour": (
        PLAIN["digit_by_colour"],
        "What is the {colour} digit?", "What number is {colour}?", "Which number is {colour}?",
        "Which is the {colour} one?", "What does the {colour} number read?",
        "Tell me the {colour} digit.", "Which digit is drawn in {colour}?",
        "Identify the {colour} digit.", "Which digit is in {colour} ink?",
        "Read the {colour} number.", "Say the {colour} number.",
        "Which digit did someone draw in {colour}?", "Do you know which number is in {colour}?",
        "Please name the {colour} number.", "What does {colour} ink show?",
        "Look at the {colour} digit: what is it?", "Give the digit whose colour is {colour}.",
    ),
    "colour_by_digit": (
        PLAIN["colour_by_digit"],
        "Which colour is the {digit}?", "What is the colour of the {digit}?",
        "Tell me the colour of the {digit}.", "In which colour is the {digit} drawn?",
        "What ink is the {digit} in?", "The {digit} is what colour?", "Colour of the {digit}?",
        "Give the colour of the number {digit}.", "The {digit} is drawn in what colour?",
        "What colour does the {digit} have?", "Please name the ink of the {digit}.",
        "Which ink was taken for the {digit}?", "Do you know the colour of the {digit}?",
        "Identify the colour of the digit {digit}.", "What colour did someone draw the {digit} in?",
        "Look at the {digit}: which colour is it?", "Say what colour the {digit} is.",
    ),
    "digit_by_place": (
        PLAIN["digit_by_place"],
        "What is the digit {place}?", "What number is {place}?", "Which number is {place}?",
        "Tell me the digit {place}.", "What digit can be found {place}?",
        "Identify the number {place}.", "Read the digit {place}.", "Say the number {place}.",
        "What does the digit {place} read?", "Please name the number {place}.",
        "Which digit did someone draw {place}?", "Do you know which digit is {place}?",
        "Look {place}: which digit is it?", "Give the number {place}.",
        "Which one is {place}?",
    ),
    "colour_by_place": (
        PLAIN["colour_by_place"],
        "Which colour is the digit {place}?", "What is the colour of the digit {place}?",
        "Tell me the colour of the number {place}.", "The digit {place} is what colour?",
        "What ink is used {place}?", "What colour is the number {place}?",
        "In which colour is the digit {place} drawn?", "Colour of the number {place}?",
        "Do you know the colour of the digit {place}?", "Please name the ink {place}.",
        "Identify the colour {place}.", "Say what colour is {place}.",
        "Look {place}: which colour is it?", "Give the colour of what is {place}.",
        "Which ink did someone take {place}?",
    ),
    "count": (
        PLAIN["count"],
        "How many digits are in the image?", "How many numbers are there?",
        "How many numbers do you find?", "Tell me how many digits there are.",
        "What is the count of numbers?", "How many are there?", "Say how many numbers there are.",
        "How many digits did someone draw?", "Give the count of digits.",
    ),
}  # fmt: skip
"""The wordings that training asks with; the first of each kind is the plain one."""

CORES = {
    "digit_by_colour": (
        "which {noun} is {colour}", "which {noun} has the colour {colour}",
        "{colour} is which {noun}",
        "the {colour} {noun} is which", "of which {noun} is the ink {colour}",
        "name the {noun} painted {colour}", "which {noun} looks {colour}",
        "what {noun} was made with {colour} ink", "find the {colour} {noun} and read it",
        "what value has the {colour} {noun}", "what is the {noun} in {colour}",
    ),
    "colour_by_digit": (
        "what colour has the {digit}", "which colour does the {digit} have",
        "the {digit} has which colour", "what is the ink of the {digit}",
        "with which ink is the {digit} written", "name the colour of the {noun} {digit}",
        "the {noun} {digit} was painted in which colour", "how is the {digit} coloured",
        "{digit}: which colour", "which of the colours is that of the {digit}",
        "find the {digit} and say its colour", "what colour was used for the {digit}",
    ),
    "digit_by_place": (
        "which {noun} stands {place}", "which {noun} can be seen {place}",
        "{place}, which {noun} is there", "{place} there is which {noun}", "what is shown {place}",
        "what {noun} is written {place}", "name what is written {place}",
        "the {noun} {place} is which", "the {noun} that stands {place}: what is it",
        "find what is {place} and read it", "what value has the {noun} {place}",
        "which {noun} do you see {place}", "what do you read {place}",
    ),
    "colour_by_place": (
        "what colour has the {noun} {place}", "which colour is {place}",
        "{place}, which colour is it", "{place} the {noun} has which colour",
        "which ink is {place}", "what is the ink of the {noun} {place}",
        "the {noun} {place} has which colour", "the {noun} that stands {place}: what colour",
        "how is the {noun} {place} coloured", "which colour do you see {place}",
        "name the colour of what stands {place}", "find what is {place} and say its colour",
        "with which ink is the {noun} {place} written",
    ),
    "count": (
        "how many {noun}s can be seen", "how many {noun}s do you see",
        "what number of {noun}s is there", "count the {noun}s", "the picture has how many {noun}s",
        "how many {noun}s were drawn", "how many {noun}s stand", "give the number of {noun}s",
    ),
}  # fmt: skip
"""The cores of composed wordings, which get an opening, a noun and an ending."""
NOUNS = ("digit", "number", "numeral", "figure")
OPENINGS = (
    "", "", "", "Please: ", "Tell me: ", "In this picture, ", "Here: ", "Now: ", "One question: ",
    "I want to know: ", "You see an image. ", "Look closely: ",
)  # fmt: skip
ENDINGS = ("", "", "", " here", " in this picture", " in the scene", ", please", " on this paper")

KINDS = tuple(PLAIN)
WEIGHTS = {
    "digit_by_colour": 4, "colour_by_digit": 2, "digit_by_place": 4, "colour_by_place": 2,
    "count": 1,
}  # fmt: skip
"""How often training asks each kind: those that a model finds hard come more often."""
ANSWERS = DIGITS + COLOURS


@dataclass(frozen=True)
class Question:
    """A question about a scene, and its answer among ``ANSWERS``."""

    kind: str
    text: str
    answer: str


def name(thing: Thing) -> str:
    """Names a thing, as in "a red seven"."""
    colour = COLOURS[thing.colour]
    return f"{'an' if colour == 'orange' else 'a'} {colour} {DIGITS[thing.digit]}"


def caption(scene: Scene, turned: bool = False) -> str:
    """Says what stands where; ``turned`` says it of a pair the other way round."""
    names = [name(thing) for thing in scene.things]
    if len(names) == 1:
        return names[0]
    if len(names) == 3:
        return f"{names[0]}, {names[1]} and {names[2]} in a {scene.layout}"
    before, behind = (
        ("to the left of", "to the right of") if scene.layout == "row" else ("above", "below")
    )
    return f"{names[1]} {behind} {names[0]}" if turned else f"{names[0]} {before} {names[1]}"


def at(place: str) -> str:
    """Says where ``place`` is, as in "on the left" for "left"."""
    return {"top": "at the top", "bottom": "at the bottom", "middle": "in the middle"}.get(
        place, f"on the {place}"
    )


def ask(scene: Scene, index: int, kind: str, wording: str) -> Question:
    """Asks a question of ``kind`` about thing ``index`` of ``scene``, in ``wording``."""
    thing = scene.things[index]
    digit, colour = DIGITS[thing.digit], COLOURS[thing.colour]
    text = wording.format(digit=digit, colour=colour, place=at(scene.places[index]))
    answers = {"digit": digit, "colour": colour, "count": DIGITS[len(scene.things)]}
    return Question(kind, text, answers[kind.partition("_")[0]])


def compose(kind: str, rng: random.Random) -> str:
    """Composes one of many wordings; none has a held-out wording for its core."""
    held_out = {wording.lower().rstrip("?.") for wording in HELD_OUT[kind]}
    while (core := rng.choice(CORES[kind]).replace("{noun}", rng.choice(NOUNS))) in held_out:
        pass
    text = rng.choice(OPENINGS) + core + rng.choice(ENDINGS) + "?"
    return text if text[0] == "{" else text[0].upper() + text[1:]


def ask_any(
    scene: Scene, rng: random.Random, plain: float = 0.3, composed: float = 0.6
) -> Question:
    """Asks a question of any kind, as training does.

    With chance ``plain`` the wording is the plain one; of the others, a share of ``composed`` is
    composed, and the rest are from `WORDINGS`. Some lack the capital or the punctuation, or are in
    American spelling.
    """
    kinds = [k for k in KINDS if len(scene.things) > 1 or not k.endswith("place")]
    kind = rng.choices(kinds, [WEIGHTS[k] for k in kinds])[0]
    wording = PLAIN[kind] if rng.random() < plain else rng.choice(WORDINGS[kind])
    if wording != PLAIN[kind] and composed and rng.random() < composed:
        wording = compose(kind, rng)
    if rng.random() < 0.2:
        wording = wording[0].lower() + wording[1:]
    if rng.random() < 0.2:
        wording = wording.rstrip("?.")
    if rng.random() < 0.2:
        wording = wording.replace("olour", "olor").replace("{color}", "{colour}")
    return ask(scene, rng.randrange(len(scene.things)), kind, wording)


REFERENCES = ("colour", "digit", "place")


def refer(scene: Scene, index: int, by: str) -> str:
    """Refers to thing ``index`` ``by`` its colour, digit or place, as `SELECT` goes on."""
    thing = scene.things[index]
    return {
        "colour": f"{COLOURS[thing.colour]} digit",
        "digit": DIGITS[thing.digit],
        "place": f"digit {at(scene.places[index])}",
    }[by]


def corpus(rng: random.Random, scenes: Sequence[Scene]) -> list[str]:
    """Writes text for the tokenizer to learn from: as training speaks, no held-out wording."""
    words = [*DIGITS, *COLOURS]
    texts = [*INSTRUCTIONS, *(f" {text}" for text in INSTRUCTIONS)] * 50
    texts += [*words, *(f" {word}" for word in words)] * 20
    for scene in scenes:
        texts += [caption(scene, rng.random() < 0.5), ask_any(scene, rng, 0.5, composed=0).text]
        texts.append(f"{SELECT} {refer(scene, 0, rng.choice(REFERENCES[:2]))}")
    return texts
