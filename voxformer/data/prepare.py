"""Corpora as they are published, turned into manifests that training reads.

Every function returns what it wrote and what it left out, with the reason; a corpus that gives
nothing is an error. Audio stays where it is, but for Kaldi and NeMo segments, which are cut out.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..audio.io import AudioError, read_audio, write_flac
from ..text import normalise
from .manifest import (
    BadLine,
    DataError,
    PathLike,
    Utterance,
    named_after,
    parse_row,
    read_manifest,
    write_manifest,
)

SAMPLE_RATE = 16000
_THREADS = 4


@dataclass
class Prepared:
    """What a preparation wrote."""

    manifests: dict[str, Path] = field(default_factory=dict)
    """Set name to manifest."""
    utterances: int = 0
    seconds: float = 0.0
    bad: list[tuple[str, str]] = field(default_factory=list)
    """(utterance id, reason) of what was left out."""


@dataclass(frozen=True)
class _Source:
    """An utterance as a corpus lists it, before its audio was looked at."""

    id: str
    audio_path: Path
    text: str
    speaker: str | None = None
    start: float = 0.0
    end: float | None = None
    """Seconds; None is the end of the recording."""
    speech: bool = True

    @property
    def is_segment(self) -> bool:
        return self.start > 0.0 or self.end is not None


def prepare_librispeech(src: PathLike, out: PathLike) -> Prepared:
    """LibriSpeech's layout (`<subset>/<speaker>/<chapter>/*.trans.txt`): one manifest a subset.

    `src` is the folder of subsets, or one subset.
    """
    src, out = Path(src), Path(out)
    if not src.is_dir():
        raise DataError(f"{src}: no such folder; give LibriSpeech's")
    transcripts = sorted(src.glob("*/*/*/*.trans.txt"))
    subsets: dict[str, list[Path]] = {}
    for path in transcripts:
        subsets.setdefault(path.parents[2].name, []).append(path)
    if not subsets:
        transcripts = sorted(src.glob("*/*/*.trans.txt"))
        if not transcripts:
            raise DataError(
                f"{src}: no <speaker>/<chapter>/*.trans.txt here; give LibriSpeech's folder"
            )
        subsets[src.resolve().name] = transcripts
    prepared = Prepared()
    for subset, paths in subsets.items():
        sources = (source for path in paths for source in _librispeech_chapter(path))
        _write_set(prepared, out, subset, sources)
    return prepared


def prepare_kaldi(src: PathLike, out: PathLike) -> Prepared:
    """A Kaldi data folder: `wav.scp`, `text`, and `utt2spk` and `segments` where there are any."""
    src, out = Path(src), Path(out)
    recordings = _kaldi_table(src / "wav.scp")
    for recording, value in recordings.items():
        if value.endswith("|") or value.startswith("|"):
            raise DataError(
                f"{src / 'wav.scp'}: {recording} is a command ({value[:60]}); commands are not "
                "run: write the audio to files (wav-copy) and name those"
            )
    texts = _kaldi_table(src / "text", may_be_empty=True)
    speakers = _kaldi_table(src / "utt2spk") if (src / "utt2spk").is_file() else {}
    segments = _kaldi_table(src / "segments") if (src / "segments").is_file() else None
    prepared = Prepared()
    sources: list[_Source] = []
    for utterance, text in texts.items():
        recording, start, end = utterance, 0.0, None
        if segments is not None:
            try:
                recording, begin, until = segments[utterance].split()
                start, end = float(begin), float(until)
            except (KeyError, ValueError):
                prepared.bad.append((utterance, "no usable line in segments"))
                continue
            if end < 0:  # Kaldi's way to say "to the end of the recording"
                end = None
        if recording not in recordings:
            prepared.bad.append((utterance, f"no recording {recording} in wav.scp"))
            continue
        path = Path(os.path.abspath(src / recordings[recording]))
        if not path.is_file():
            # Kaldi resolves paths from where its scripts run, most often two folders up.
            path = Path(os.path.abspath(src.parent.parent / recordings[recording]))
        sources.append(_Source(utterance, path, text, speakers.get(utterance), start, end))
    _write_set(prepared, out, src.resolve().name, sources)
    return prepared


def prepare_manifest(
    src: PathLike, out: PathLike, name: str | None = None, dev_speakers: int = 0
) -> Prepared:
    """Any JSONL manifest (NeMo's keys, `offset` too): durations measured, texts normalised.

    Args:
        src: the manifest.
        out: folder for the new one.
        name: of the new one, without `.jsonl`; default as `src`.
        dev_speakers: speakers to hold out; then `train.jsonl` and `dev.jsonl` are written instead.
    """
    src, out = Path(src), Path(out)
    name = name or src.stem
    if (out / f"{name}.jsonl").resolve() == src.resolve():
        raise DataError(f"{src}: --out {out} would replace it; choose another folder")
    prepared = Prepared()
    sources = list(_manifest_sources(src, prepared.bad))
    if not dev_speakers:
        _write_set(prepared, out, name, sources)
        return prepared
    held_out = _speakers_to_hold_out(src, sources, dev_speakers)
    _write_set(prepared, out, "train", [s for s in sources if s.speaker not in held_out])
    _write_set(prepared, out, "dev", [s for s in sources if s.speaker in held_out])
    return prepared


def prepare_synthetic(
    src: PathLike | None,
    out: PathLike,
    seed: int = 1,
    progress: Callable[[int, int], None] | None = None,
    name: str | None = None,
    sentences: int = 2000,
) -> Prepared:
    """Speech made by text-to-speech engines.

    Args:
        src: a text to read from (`synthetic.synthesise_text`); None for the corpus of spoken
            commands (`synthetic.synthesise`).
        out: folder for recordings and manifests.
        seed: decides what is said, by whom.
        progress: called with recordings done and recordings in all.
        name: of the set that is read from a text.
        sentences: of that set.
    """
    from .synthetic import synthesise, synthesise_text

    if src is None:
        prepared = Prepared(manifests=synthesise(out, seed=seed, progress=progress))
    else:
        name = name or "synthetic-train"
        manifest = synthesise_text(src, out, name, sentences, seed, progress=progress)
        prepared = Prepared(manifests={name: manifest})
    return _counted(prepared)


def prepare_noise(
    out: PathLike, seed: int = 1, name: str | None = None, recordings: int = 300
) -> Prepared:
    """Recordings in which nobody speaks, for training (`noises.make_noises`).

    Args:
        out: folder for recordings and manifest.
        seed: decides what is made.
        name: of the set; default noise-train.
        recordings: how many.
    """
    from .noises import make_noises

    name = name or "noise-train"
    return _counted(Prepared(manifests={name: make_noises(out, name, recordings, seed)}))


def _counted(prepared: Prepared) -> Prepared:
    """With the number and length of what its manifests have."""
    for manifest in prepared.manifests.values():
        utterances = read_manifest(manifest)
        prepared.utterances += len(utterances)
        prepared.seconds += sum(u.duration for u in utterances)
    return prepared


def _reason(error: Exception) -> str:
    """What the system says, without the path that the message has already."""
    return str(getattr(error, "strerror", None) or error)


def _lines(path: Path, missing: str = "no such file") -> list[str]:
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: {missing}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable UTF-8 text: {_reason(error)}") from None
    # Transcripts may hold others of the characters that splitlines() splits at.
    return text.split("\n")


def _librispeech_chapter(path: Path) -> Iterator[_Source]:
    for line in _lines(path):
        name, _, text = line.strip().partition(" ")
        if not name:
            continue
        audio = path.parent / f"{name}.flac"
        for suffix in (".wav", ".opus", ".ogg", ".mp3"):
            if not audio.is_file() and audio.with_suffix(suffix).is_file():
                audio = audio.with_suffix(suffix)
        yield _Source(name, audio, text, speaker=path.parents[1].name)


def _kaldi_table(path: Path, may_be_empty: bool = False) -> dict[str, str]:
    """Key and rest of each line; a repeated key or a missing value is an error."""
    lines = _lines(path, "no such file; a Kaldi data folder has wav.scp and text")
    table: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        key, *rest = line.strip().split(maxsplit=1)
        if key in table:
            raise DataError(f"{path}:{number}: {key} comes twice; sort and mend the folder")
        if not rest and not may_be_empty:
            raise DataError(f"{path}:{number}: {key} has no value")
        table[key] = rest[0] if rest else ""
    return table


def _speakers_to_hold_out(src: Path, sources: list[_Source], count: int) -> set[str]:
    """`count` speakers, chosen by the digest of their names, whatever order they come in."""
    speakers = {source.speaker for source in sources if source.speaker is not None}
    if any(source.speaker is None for source in sources) or len(speakers) <= count:
        raise DataError(
            f"{src}: cannot hold out {count} speakers: every utterance needs a `speaker`, and "
            f"there are {len(speakers)} of them"
        )
    return set(sorted(speakers, key=lambda name: hashlib.sha256(name.encode()).digest())[:count])


def _manifest_sources(path: Path, bad: list[tuple[str, str]]) -> Iterator[_Source]:
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except FileNotFoundError:
        raise DataError(f"{path}: no such manifest") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable UTF-8 manifest: {_reason(error)}") from None
    folder = path.parent.resolve()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse_row(line)
            start, end = _segment(row)
        except BadLine as error:
            bad.append((f"line {number}", f"{path}:{number}: {error}"))
            continue
        audio, speaker = row["audio_filepath"], row.get("speaker")
        yield _Source(
            id=named_after(audio) if row.get("id") in (None, "") else str(row["id"]),
            audio_path=Path(os.path.normpath(folder / audio)),
            text="" if row.get("text") is None else str(row["text"]),
            speaker=None if speaker is None else str(speaker),
            start=start,
            end=end,
            speech=row.get("speech", True),
        )


def _segment(row: Mapping[str, Any]) -> tuple[float, float | None]:
    """Seconds where an utterance begins and ends in its recording, None for the recording's end."""
    if row.get("offset") is None:
        # The whole file is meant, whatever the duration says.
        return 0.0, None
    try:
        start, length = float(row["offset"]), float(row["duration"])
    except (KeyError, OverflowError, TypeError, ValueError):
        start = length = math.nan
    if not max(abs(start), abs(length)) < 1e9:
        raise BadLine("a segment needs offset and duration, both of them numbers of seconds")
    return start, start + length


def _write_set(prepared: Prepared, out: Path, name: str, sources: Iterable[_Source]) -> None:
    """Measure, cut and normalise; write `out/<name>.jsonl` and add to the report."""
    kept: list[Utterance] = []
    used: set[str] = set()
    with ThreadPoolExecutor(_THREADS) as pool:
        for source, result in pool.map(lambda s: (s, _measure(s, out)), sources):
            if isinstance(result, str):
                prepared.bad.append((source.id, result))
                continue
            if result.id in used:
                number = 2
                while f"{result.id}#{number}" in used:
                    number += 1
                result = replace(result, id=f"{result.id}#{number}")
            used.add(result.id)
            kept.append(result)
    if not kept:
        reasons = "; ".join(f"{i}: {reason}" for i, reason in prepared.bad[:3])
        raise DataError(f"{name}: no usable utterance" + (f": {reasons}" if reasons else ""))
    manifest = out / f"{name}.jsonl"
    write_manifest(manifest, kept)
    prepared.manifests[name] = manifest
    prepared.utterances += len(kept)
    prepared.seconds += sum(u.duration for u in kept)


def _measure(source: _Source, out: Path) -> Utterance | str:
    """The utterance with its true duration, or why it cannot be used."""
    if "\0" in str(source.audio_path):
        return f"{str(source.audio_path)!r}: no file can be called so"
    try:
        # Reading it all is what finds truncated and corrupt files.
        path = source.audio_path.resolve()
        if source.is_segment:
            samples = _cut(_read_recording(path), source)
            path = _write_segment(samples, source, out)
        else:
            samples = read_audio(path, SAMPLE_RATE)
    except AudioError as error:
        return str(error)
    seconds = len(samples) / SAMPLE_RATE
    text = normalise(source.text)
    return Utterance(source.id, path, seconds, text, source.speaker, speech=source.speech)


@functools.lru_cache(maxsize=2)
def _read_recording(path: Path) -> np.ndarray:
    """Neighbouring segments are of the same, often long, recording."""
    return read_audio(path, SAMPLE_RATE)


def _cut(samples: np.ndarray, source: _Source) -> np.ndarray:
    seconds = len(samples) / SAMPLE_RATE
    end = seconds if source.end is None else source.end
    # Kaldi's segment times are rounded, so the last one may pass the end by a little.
    if not 0.0 <= source.start < end <= seconds + 0.5:
        raise AudioError(
            f"{source.audio_path}: segment {source.start:.2f}-{end:.2f} s is not within the "
            f"{seconds:.2f} s of the recording"
        )
    cut = samples[round(source.start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
    if len(cut) == 0:
        raise AudioError(f"{source.audio_path}: segment at {source.start:.4f} s holds no sample")
    return cut


def _write_segment(samples: np.ndarray, source: _Source, out: Path) -> Path:
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in source.id)[:100]
    # Ids may repeat, or differ only in what a file name cannot hold.
    key = hashlib.blake2b(repr(source).encode(), digest_size=4).hexdigest()
    path = (out / "segments" / f"{name}-{key}.flac").resolve()
    write_flac(path, samples, SAMPLE_RATE)
    return path
