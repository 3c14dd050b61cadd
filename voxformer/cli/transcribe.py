"""`voxformer transcribe`: recordings to text, with a bundle."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from voxformer.cli.numbers import whole
from voxformer.cli.search import add_search_arguments, with_search_arguments

if TYPE_CHECKING:
    from voxformer.runtime import Transcript

RECORDINGS_AT_ONCE = 64
"""Held in memory together; enough to fill batches of like durations."""

EXAMPLE = "voxformer transcribe meeting.flac --model bundles/an4 --format srt"


class TranscribeUsageError(ValueError):
    """Results would be lost."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("audio", nargs="+", metavar="AUDIO", help="WAV, FLAC, Ogg/Opus, MP3")
    parser.add_argument("--model", required=True, metavar="BUNDLE")
    parser.add_argument("--format", choices=("txt", "json", "srt", "vtt"), default="txt")
    parser.add_argument(
        "--mode",
        choices=("ctc_greedy", "ctc_beam", "attention", "rescoring"),
        help="decoding mode (default: rescoring; ctc_beam where no attention decoder is trained)",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="write AUDIO's stem.FORMAT here, not to stdout"
    )
    parser.add_argument("--provider", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=whole(0), default=0, help="CPU threads (default: all)")
    add_search_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Transcribe; a recording that cannot be read is named, and the others are done."""
    import sys

    from voxformer.audio import AudioError, read_audio
    from voxformer.runtime import Recognizer

    if args.out is not None:
        _refuse_same_names(args.audio)
    recognizer = Recognizer.load(args.model, provider=args.provider, threads=args.threads)
    recognizer.options = with_search_arguments(recognizer.options, args)
    done: list[tuple[str, Transcript]] = []
    unreadable = 0
    for first in range(0, len(args.audio), RECORDINGS_AT_ONCE):
        names, waveforms = [], []
        for name in args.audio[first : first + RECORDINGS_AT_ONCE]:
            try:
                waveforms.append(read_audio(name, recognizer.engine.sample_rate))
                names.append(name)
            except AudioError as error:
                print(f"voxformer transcribe: {error}", file=sys.stderr)
                unreadable += 1
        transcripts = recognizer.transcribe(waveforms, mode=args.mode)
        for name, transcript in zip(names, transcripts, strict=True):
            done.append((name, transcript))
            if args.out is not None or args.format != "json":
                _write(args, name, transcript)
    if args.out is None and args.format == "json":
        _print_json(args, done)
    return 2 if unreadable else 0


def _write(args: argparse.Namespace, name: str, transcript: Transcript) -> None:
    """To a file of its own, or to stdout; several there are told apart by their names."""
    from pathlib import Path

    from voxformer.runtime import FORMATS
    from voxformer.text.atomic import write_atomically

    written = FORMATS[args.format](transcript)
    if args.out is not None:
        write_atomically(Path(args.out) / f"{Path(name).stem}.{args.format}", written)
    elif len(args.audio) == 1:
        print(written, end="")
    elif args.format == "txt":
        print(f"{name}\t{transcript.text}", flush=True)
    else:
        print(f"{name}\n{written}", flush=True)


def _print_json(args: argparse.Namespace, done: list[tuple[str, Transcript]]) -> None:
    import json

    from voxformer.runtime import FORMATS

    if len(args.audio) == 1:
        for _, transcript in done:
            print(FORMATS["json"](transcript), end="")
        return
    values = [{"audio": name, **transcript.to_json()} for name, transcript in done]
    print(json.dumps(values, ensure_ascii=False, indent=2))


def _refuse_same_names(recordings: list[str]) -> None:
    """Two recordings of one name would be written to one file."""
    from pathlib import Path

    first: dict[str, str] = {}
    for recording in recordings:
        other = first.setdefault(Path(recording).stem, recording)
        if other != recording:
            raise TranscribeUsageError(
                f"--out: {other} and {recording} would write the same file; use two folders"
            )
