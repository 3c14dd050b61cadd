"""`voxformer transcribe`: recordings to text, with a bundle."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, TextIO

from voxformer.cli.numbers import whole
from voxformer.cli.recordings import (
    STDIN,
    Source,
    TranscribeUsageError,
    find_sources,
    open_source,
    refuse_same_results,
    shown,
)
from voxformer.cli.search import add_search_arguments, with_search_arguments

if TYPE_CHECKING:
    from voxformer.runtime import Transcript

EXAMPLE = "voxformer transcribe meeting.flac --model bundles/an4 --format srt"

HIGHEST_RATE = 10_000_000
"""Hz; a digit too many makes blocks of samples that no memory holds."""

PROGRESS_SECONDS = 0.5
"""Between two lines of progress."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "audio",
        nargs="+",
        metavar="AUDIO",
        help="files (WAV, FLAC, Ogg/Opus, MP3), folders of them, or - for standard input",
    )
    parser.add_argument("--model", required=True, metavar="BUNDLE")
    parser.add_argument("--format", choices=("txt", "json", "srt", "vtt"), default="txt")
    parser.add_argument(
        "--mode",
        choices=("ctc_greedy", "ctc_beam", "attention", "rescoring"),
        help="decoding mode (default: rescoring; ctc_beam where no attention decoder is trained)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="write AUDIO's stem.FORMAT here, not to stdout; a folder's files keep their folders",
    )
    parser.add_argument(
        "--raw",
        type=whole(1, HIGHEST_RATE),
        metavar="RATE",
        help="standard input is 16-bit little-endian mono samples at RATE Hz, without a header",
    )
    parser.add_argument(
        "--engine",
        choices=("onnxruntime", "tensorrt"),
        default="onnxruntime",
        help="what runs the bundle (default: onnxruntime)",
    )
    parser.add_argument("--provider", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=whole(0), default=0, help="CPU threads (default: all)")
    add_search_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Transcribe; a recording that cannot be read is named, and the others are done."""
    from voxformer.audio import AudioError
    from voxformer.runtime import Recognizer

    _refuse_bad_stdin(args)
    progress = Progress(sys.stderr)
    failures = 0

    def complain(message: str) -> None:
        nonlocal failures
        failures += 1
        progress.clear()
        print(f"voxformer transcribe: {message}", file=sys.stderr)

    sources = find_sources(args.audio, complain)
    if args.out is not None:
        refuse_same_results(sources)
    if not sources:
        return 2
    recognizer = Recognizer.load(
        args.model, engine=args.engine, provider=args.provider, threads=args.threads
    )
    recognizer.options = with_search_arguments(recognizer.options, args)
    progress.total = len(sources)
    rate = recognizer.engine.sample_rate
    results = recognizer.transcribe_each(
        (open_source(source, args.raw, rate) for source in sources),
        mode=args.mode,
        progress=progress.heard,
    )
    writer = _writer(args, len(sources) == 1 and not failures)
    for source, result in zip(sources, results, strict=True):
        if isinstance(result, AudioError):
            complain(shown(str(result)))
        else:
            progress.clear()
            writer.write(source, result)
        progress.done()
    writer.close()
    progress.clear()
    return 2 if failures else 0


def _refuse_bad_stdin(args: argparse.Namespace) -> None:
    asked = args.audio.count(STDIN)
    if args.raw is not None and not asked:
        raise TranscribeUsageError("--raw is of standard input: name - as AUDIO")
    if asked > 1:
        raise TranscribeUsageError("standard input can be read once: name - once")
    if asked and sys.stdin.isatty():
        raise TranscribeUsageError("standard input is a terminal: pipe or redirect audio into it")


class Writer:
    """Puts each transcript where it belongs: to stdout, where several are told apart by name."""

    def __init__(self, suffix: str, alone: bool) -> None:
        self._suffix = suffix
        self._alone = alone

    def write(self, source: Source, transcript: Transcript) -> None:
        """One recording's."""
        from voxformer.runtime import FORMATS

        written = FORMATS[self._suffix](transcript)
        if self._alone:
            print(written, end="", flush=True)
        elif self._suffix == "txt":
            print(f"{shown(source.name)}\t{transcript.text}", flush=True)
        else:
            print(f"{shown(source.name)}\n{written}", flush=True)

    def close(self) -> None:
        """After the last."""


class JsonWriter(Writer):
    """One array, in which each recording has its name."""

    def __init__(self) -> None:
        super().__init__("json", False)
        self._before = "[\n"

    def write(self, source: Source, transcript: Transcript) -> None:
        """One recording's."""
        import json

        values = {"audio": shown(source.name), **transcript.to_json()}
        text = json.dumps(values, ensure_ascii=False, indent=2)
        print(f"{self._before}{text}", end="", flush=True)
        self._before = ",\n"

    def close(self) -> None:
        """After the last."""
        print("[]" if self._before == "[\n" else "\n]")


class FileWriter(Writer):
    """A file for each recording, whole or not at all."""

    def __init__(self, suffix: str, out: str) -> None:
        super().__init__(suffix, False)
        self._out = out

    def write(self, source: Source, transcript: Transcript) -> None:
        """One recording's."""
        from pathlib import Path

        from voxformer.runtime import FORMATS
        from voxformer.text.atomic import write_atomically

        path = Path(self._out) / f"{source.result}.{self._suffix}"
        write_atomically(path, FORMATS[self._suffix](transcript))


def _writer(args: argparse.Namespace, alone: bool) -> Writer:
    if args.out is not None:
        return FileWriter(args.format, args.out)
    if args.format == "json" and not alone:
        return JsonWriter()
    return Writer(args.format, alone)


class Progress:
    """A line on a terminal that says how far it is; nothing where there is no terminal.

    Args:
        stream: where it goes, other than where results do.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown = stream.isatty()
        self._began = time.monotonic()
        self._last = 0.0
        self._audio = 0.0
        self._recordings = 0
        self.total = 0

    def heard(self, seconds: float) -> None:
        """So much more audio has been recognised."""
        self._audio += seconds
        self._show()

    def done(self) -> None:
        """One more recording is finished."""
        self._recordings += 1
        self._show()

    def clear(self) -> None:
        """Make room for another line."""
        if self._shown:
            print("\r\x1b[K", end="", file=self._stream, flush=True)

    def _show(self) -> None:
        now = time.monotonic()
        if not self._shown or now - self._last < PROGRESS_SECONDS:
            return
        self._last = now
        speed = self._audio / max(now - self._began, 1e-3)
        minutes, seconds = divmod(int(self._audio), 60)
        text = f"{self._recordings} of {self.total} recordings, {minutes}:{seconds:02d} of speech"
        print(f"\r\x1b[K{text}, {speed:.0f}x", end="", file=self._stream, flush=True)
