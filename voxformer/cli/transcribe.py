"""`voxformer transcribe`: recordings to text, with a bundle."""

from __future__ import annotations

import argparse

from voxformer.cli.numbers import whole

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
        default="rescoring",
        help="decoding mode (default: rescoring)",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="write AUDIO's stem.FORMAT here, not to stdout"
    )
    parser.add_argument("--provider", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=whole(0), default=0, help="CPU threads (default: all)")


def run(args: argparse.Namespace) -> int:
    """Transcribe; several texts on stdout are told apart by their file names."""
    import json
    from pathlib import Path

    from voxformer.runtime import FORMATS, Recognizer
    from voxformer.text.atomic import write_atomically

    if args.out is not None:
        _refuse_same_names(args.audio)
    recognizer = Recognizer.load(args.model, provider=args.provider, threads=args.threads)
    transcripts = recognizer.transcribe(args.audio, mode=args.mode)
    if args.out is None and args.format == "json" and len(args.audio) > 1:
        named = zip(args.audio, transcripts, strict=True)
        values = [{"audio": audio, **transcript.to_json()} for audio, transcript in named]
        print(json.dumps(values, ensure_ascii=False, indent=2))
        return 0
    write = FORMATS[args.format]
    for audio, transcript in zip(args.audio, transcripts, strict=True):
        if args.out is not None:
            path = Path(args.out) / f"{Path(audio).stem}.{args.format}"
            write_atomically(path, write(transcript))
        elif len(args.audio) == 1:
            print(write(transcript), end="")
        elif args.format == "txt":
            print(f"{audio}\t{transcript.text}")
        else:
            print(f"{audio}\n{write(transcript)}")
    return 0


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
