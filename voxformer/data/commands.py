"""Spoken commands for the synthetic corpus: a small grammar with a few thousand sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

_TENS = ["twenty", "thirty", "forty", "fifty"]
_ONES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]

# A name in braces is filled from here; a template or an option may nest other names.
_SLOTS: dict[str, list[str]] = {
    "room": ["kitchen", "bedroom", "bathroom", "garage", "office", "hallway", "living room"],
    "device": ["lights", "lamp", "fan", "heater", "radio", "television", "coffee machine"],
    "colour": ["red", "green", "blue", "yellow", "white", "purple", "orange"],
    "one": _ONES,
    "teen": ["ten", "eleven", "twelve", "thirteen", "fifteen", "eighteen"],
    "number": ["{one}", "{teen}", *_TENS, *(f"{tens} {{one}}" for tens in _TENS)],
    "hour": [*_ONES, "ten", "eleven", "twelve"],
    "past": ["fifteen", "thirty", "forty five"],
    "unit": ["seconds", "minutes", "hours"],
    "day": [
        "today",
        "tomorrow",
        "on monday",
        "on tuesday",
        "on friday",
        "on sunday",
        "this evening",
    ],
    "part": ["morning", "afternoon", "evening"],
    "genre": ["jazz", "rock", "classical", "dance", "quiet"],
    "person": [
        "anna",
        "david",
        "maria",
        "peter",
        "susan",
        "my brother",
        "my mother",
        "the doctor",
    ],
    "item": ["milk", "bread", "eggs", "coffee", "apples", "butter", "cheese", "water", "rice"],
    "opening": ["door", "window", "curtains"],
    "task": ["call {person}", "buy {item}", "water the plants", "feed the cat", "close the window"],
}

_TEMPLATES = [
    "turn on the {room} {device}",
    "turn off the {room} {device}",
    "switch the {device} off in the {room}",
    "dim the {room} lights to {number} percent",
    "make the {room} lights {colour}",
    "set a timer for {number} {unit}",
    "start a timer for {one} hours and {number} minutes",
    "how long is left on the timer",
    "cancel the timer",
    "set an alarm for {hour} {past} in the {part}",
    "wake me up at {hour} {past} {day}",
    "play some {genre} music in the {room}",
    "play the {genre} radio",
    "stop the music in the {room}",
    "skip the next {one} songs",
    "turn the volume up to {number}",
    "turn the volume down in the {room}",
    "set the temperature to {number} degrees",
    "set the {room} heater to {number} degrees",
    "how warm is it in the {room}",
    "call {person}",
    "call {person} at {hour} {past}",
    "send a message to {person}",
    "what is the weather {day}",
    "will it rain {day}",
    "what time is it",
    "open the {room} {opening}",
    "close the {opening} in the {room}",
    "lock the {room} door",
    "add {item} and {item} to the shopping list",
    "add {number} {item} to the list",
    "remind me to {task} {day}",
    "remind me to {task} at {hour} {past}",
    "what is {number} plus {number}",
    "what is {number} minus {one}",
]


def sample_sentences(
    generator: np.random.Generator, num_train: int, num_held_out: int
) -> tuple[list[str], list[str]]:
    """Different sentences: for training, and held-out ones made only of words of the former."""
    train: list[str] = []
    held_out: list[str] = []
    seen: set[str] = set()
    known: set[str] = set()
    tries = 0
    while len(train) < num_train or len(held_out) < num_held_out:
        tries += 1
        if tries > 50 * (num_train + num_held_out):
            raise ValueError(
                f"the grammar does not give {num_held_out} held-out sentences "
                f"beside {num_train} for training; ask for fewer, or train on more"
            )
        sentence = _expand(_pick(_TEMPLATES, generator), generator)
        if sentence in seen:
            continue
        words = set(sentence.split())
        if len(train) < num_train:
            train.append(sentence)
            known |= words
        elif words <= known:
            held_out.append(sentence)
        else:
            continue
        seen.add(sentence)
    return train, held_out


def vocabulary() -> set[str]:
    """Every word that the grammar can say."""
    texts: Iterable[str] = [*_TEMPLATES, *(option for slot in _SLOTS.values() for option in slot)]
    return {word for text in texts for word in re.sub(r"\{\w+\}", " ", text).split()}


def _expand(template: str, generator: np.random.Generator) -> str:
    while match := re.search(r"\{(\w+)\}", template):
        option = _pick(_SLOTS[match[1]], generator)
        template = template[: match.start()] + option + template[match.end() :]
    return template


def _pick(options: list[str], generator: np.random.Generator) -> str:
    return options[int(generator.integers(len(options)))]
