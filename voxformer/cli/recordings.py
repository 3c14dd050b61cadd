"""What `voxformer transcribe` is given: files, folders and standard input, and where results go."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voxformer.runtime.engine import FloatArray
    from voxformer.runtime.pools import Recording

SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in ("wav", "wave", "flac", "ogg", "oga", "opus", "mp3", "aif", "aiff", "aifc")
) | {".au", ".snd", ".caf", ".w64", ".rf64"}
STDIN = "-"
STDIN_NAME = "stdin"


class TranscribeUsageError(ValueError):
    """Results would be lost, or there is nothing to transcribe."""


@dataclass(frozen=True)
class Source:
    """A recording that was asked for.

    Attributes:
        name: as the user knows it.
        path: of its file; `-` for standard input.
        result: where its result goes under --out, without the format's suffix.
    """

    name: str
    path: str
    result: Path


def find_sources(
    arguments: Sequence[str], complain: Callable[[str], None], suffixes: Iterable[str] = SUFFIXES
) -> list[Source]:
    """The recordings that arguments name; a folder stands for the audio files below it.

    Hidden files and folders are left out; links to folders are not followed.

    Args:
        arguments: paths of files and folders, or `-`.
        complain: called with a line for each folder that cannot be read or holds no audio.
        suffixes: of audio files, in lower case.
    """
    found: list[Source] = []
    for argument in arguments:
        if argument == STDIN:
            found.append(Source(STDIN_NAME, STDIN, Path(STDIN_NAME)))
        elif os.path.isdir(argument):
            found += _below(Path(argument), complain, frozenset(suffixes))
        else:
            found.append(Source(argument, argument, Path(Path(argument).stem)))
    return found


def refuse_same_results(sources: Sequence[Source]) -> None:
    """Two recordings of one name would be written to one file.

    Raises:
        TranscribeUsageError: there are two such, or standard input is named twice.
    """
    first: dict[Path, Source] = {}
    for source in sources:
        other = first.setdefault(source.result, source)
        if other.path != source.path:
            raise TranscribeUsageError(
                f"--out: {shown(other.name)} and {shown(source.name)} would write the same file; "
                "use two folders"
            )


def _below(folder: Path, complain: Callable[[str], None], suffixes: frozenset[str]) -> list[Source]:
    found = []
    unread = []

    def unreadable(error: OSError) -> None:
        unread.append(error)
        complain(f"{shown(error.filename)}: {(error.strerror or str(error)).lower()}")

    for root, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(root, name)
            if path.suffix.lower() in suffixes and not name.startswith("."):
                result = path.relative_to(folder).with_suffix("")
                found.append(Source(str(path), str(path), result))
    if not found and not unread:
        known = ", ".join(sorted(suffixes))
        complain(f"{shown(str(folder))}: no audio in this folder ({known})")
    return found


def open_source(source: Source, raw_rate: int | None, sample_rate: int) -> Recording:
    """What the recogniser takes for a source.

    Args:
        source: a recording.
        raw_rate: samples per second of headerless 16-bit samples on standard input; None where it
            has a header.
        sample_rate: of the model.
    """
    if source.path != STDIN:
        return source.path
    if raw_rate is None:
        return lambda: _spooled(sample_rate)
    from voxformer.audio import raw_blocks

    return lambda: raw_blocks(sys.stdin.buffer, STDIN_NAME, raw_rate, sample_rate)


def _spooled(sample_rate: int) -> Iterator[FloatArray]:
    """Standard input by way of a file: what reads audio has to seek in it."""
    from voxformer.audio import AudioError, read_blocks

    with tempfile.NamedTemporaryFile(prefix="voxformer-stdin-") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        try:
            yield from read_blocks(file.name, sample_rate)
        except AudioError as error:
            raise AudioError(str(error).replace(file.name, STDIN_NAME)) from None


def shown(name: str) -> str:
    """A file's name on one line that can be printed, whatever bytes it has."""
    text = os.fsencode(name).decode("utf-8", "replace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
