"""JSONL manifests: one utterance a line, with NeMo's keys.

    {"audio_filepath": "a/1.flac", "duration": 2.31, "text": "yes", "id": "1", "speaker": "ann"}

`audio_filepath` is relative to the manifest; `text`, `id` and `speaker` may be missing. A line with
`"speech": false` is a recording of no speech, which a model is to answer with nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ..text.atomic import write_atomically

PathLike = str | os.PathLike[str]
Item = TypeVar("Item")


class DataError(ValueError):
    """A data set cannot be used; the message is one line: where, what, what to do."""


@dataclass(frozen=True)
class Utterance:
    """One recording with its transcript."""

    id: str
    """Unique in what `read_manifest` returns; seeds and reports go by it."""
    audio_path: Path
    """Absolute."""
    duration: float
    """Seconds."""
    text: str = ""
    speaker: str | None = None
    weight: float = 1.0
    """How often an epoch of training draws it; of its training set, not of its manifest's line."""
    speech: bool = True
    """False for a recording in which nobody speaks: having no text is then no fault of it."""


def spread(items: Sequence[Item], count: int | None) -> list[Item]:
    """So many items, spread evenly over a sequence and in its order; all where there are fewer."""
    if count is None or count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def read_manifest(
    paths: PathLike | Sequence[PathLike], weights: Sequence[float] | None = None
) -> list[Utterance]:
    """Read one manifest or several into one list, in order.

    An utterance without `id` is named after its file; ids that collide between manifests, or that
    were made from file names, get a suffix `#2`, `#3`, … One that is in two manifests with the same
    recording is refused: it would be drawn more often than either weight says.

    Args:
        paths: of the manifests.
        weights: of the utterances of each manifest; 1 by default.

    Raises:
        DataError: a manifest is missing, empty, has a bad line (named as file:line), or shares an
            utterance with another.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    utterances: list[Utterance] = []
    used: set[str] = set()
    set_of: dict[tuple[str, Path], int] = {}
    for number, (path, weight) in enumerate(zip(paths, weights or [1.0] * len(paths), strict=True)):
        for utterance in _read_one(Path(path)):
            first = set_of.setdefault((utterance.id, utterance.audio_path), number)
            if first != number:
                raise DataError(
                    f"{path}: utterance {utterance.id!r} is in {paths[first]} as well; leave it "
                    "out of one, and use a set's weight to draw its utterances more often"
                )
            unique, count = utterance.id, 1
            while unique in used:
                count += 1
                unique = f"{utterance.id}#{count}"
            used.add(unique)
            if unique != utterance.id or weight != utterance.weight:
                utterance = replace(utterance, id=unique, weight=weight)
            utterances.append(utterance)
    return utterances


def write_manifest(path: PathLike, utterances: Iterable[Utterance]) -> None:
    """Write a manifest whole or not at all; audio below its folder is named relative to it."""
    path = Path(path)
    base = path.parent.resolve()
    lines = []
    for utterance in utterances:
        audio = utterance.audio_path
        if audio.is_absolute() and audio.is_relative_to(base):
            audio = audio.relative_to(base)
        row: dict[str, Any] = {
            "id": utterance.id,
            "audio_filepath": audio.as_posix(),
            "duration": round(utterance.duration, 4),
            "text": utterance.text,
        }
        if utterance.speaker is not None:
            row["speaker"] = utterance.speaker
        if not utterance.speech:
            row["speech"] = False
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_atomically(path, "".join(lines))


def _read_one(path: Path) -> list[Utterance]:
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except FileNotFoundError:
        raise DataError(f"{path}: no such manifest; `voxformer prepare` makes one") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: not a readable UTF-8 manifest: {reason}") from None
    folder = path.parent.resolve()
    utterances: list[Utterance] = []
    line_of_id: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            utterance, named = _parse(line, folder)
        except BadLine as error:
            raise DataError(f"{path}:{number}: {error}") from None
        if named:
            first = line_of_id.setdefault(utterance.id, number)
            if first != number:
                raise DataError(
                    f"{path}:{number}: id {utterance.id!r} is already used in line {first}; "
                    "make ids unique or leave them out"
                )
        utterances.append(utterance)
    if not utterances:
        raise DataError(f"{path}: the manifest is empty; `voxformer prepare` makes one")
    return utterances


class BadLine(ValueError):
    """A line of a manifest cannot be used; the message says why."""


def parse_row(line: str) -> dict[str, Any]:
    """One line of a manifest as an object whose keys hold what they should, if they are there.

    Raises:
        BadLine: it is not.
    """
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadLine(
            f"not JSON: {error.msg} at column {error.colno}; each line is one JSON object"
        ) from None
    except (ValueError, RecursionError):
        raise BadLine("not an utterance: a number too long, or nested too deeply") from None
    if not isinstance(row, dict):
        raise BadLine(f"a line is one JSON object, not {type(row).__name__}")
    audio = row.get("audio_filepath")
    if not isinstance(audio, str) or not audio:
        raise BadLine("audio_filepath is missing or not text; give the recording's path")
    if "\0" in audio or not _is_file_name(audio):
        raise BadLine(f"audio_filepath is {audio!a}, which no file can be called")
    for key in ("text", "id", "speaker"):
        if row.get(key) is not None and not isinstance(row[key], (str, int)):
            raise BadLine(f"{key} is {type(row[key]).__name__}, not text")
        try:
            str(row.get(key)).encode()
        except UnicodeEncodeError:
            raise BadLine(f"{key} holds half a character (a lone surrogate)") from None
    if not isinstance(row.get("speech", True), bool):
        raise BadLine(f"speech is {type(row['speech']).__name__}, neither true nor false")
    if row.get("text") and row.get("speech") is False:
        raise BadLine("speech is false, and there is a text; leave one of them out")
    return row


def named_after(audio: str) -> str:
    """An id for a recording without one: its file's name, with ? for what is no Unicode in it."""
    return Path(audio).stem.encode("utf-8", "replace").decode("utf-8")


def _is_file_name(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def _parse(line: str, folder: Path) -> tuple[Utterance, bool]:
    """One line as an utterance, and whether it came with an id of its own."""
    row = parse_row(line)
    audio = row["audio_filepath"]
    duration = row.get("duration")
    if (
        not isinstance(duration, (int, float))
        or isinstance(duration, bool)
        or not 0 <= duration < 1e9
    ):
        raise BadLine(
            "duration is missing or not a number of seconds; `voxformer prepare manifest` adds it"
        )
    if row.get("offset"):
        raise BadLine("offset is not supported here; `voxformer prepare manifest` cuts segments")
    named = row.get("id") not in (None, "")
    speaker = row.get("speaker")
    utterance = Utterance(
        id=str(row["id"]) if named else named_after(audio),
        # normpath, not resolve: a link tree of audio stays where the manifest says it is.
        audio_path=Path(os.path.normpath(folder / audio)),
        duration=float(duration),
        text="" if row.get("text") is None else str(row["text"]).strip(),
        speaker=None if speaker is None else str(speaker),
        speech=row.get("speech", True),
    )
    return utterance, named
