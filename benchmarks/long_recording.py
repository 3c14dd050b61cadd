"""A recording of an hour, of utterances with known words, transcribed whole and one by one.

    python benchmarks/long_recording.py --model bundles/an4 --manifest test.jsonl train.jsonl \
      --json benchmarks/results/long-recording.json

The recording has stretches with pauses of 0.3 to 3 s between utterances, with pauses of 3 to 15 s,
and minutes in which one utterance follows another without any. `Recognizer` transcribes it in a
process of its own, whose peak memory (VmHWM) is what the system saw, and so its first 1, 10 and 30
minutes. `windows` is unbroken speech with the cuts in pauses switched off, so that all of it is
windows that overlap. Pieces are as long as the bundle's model knows; `--max-seconds` adds other
lengths. The same utterances, cut out of the recording, are recognised one by one; what
is wrong there is the model's doing and not the seams'.

Lost are reference words within 1 s of a seam that an alignment leaves out; added are words that it
has no reference for; doubled are those of them that repeat the word beside them. In brackets is
what becomes of the same words one by one. Inside the clock: reading, cutting, front end, encoder,
search, text and joining; not loading the model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import soundfile
from long_recording_check import (
    KINDS,
    Placed,
    RecordingError,
    SpokenWord,
    compose,
    count_at,
    errors_by_kind,
    seams_of,
    spell,
)
from one_line import leave

from voxformer.data import read_manifest
from voxformer.decoding import Hypothesis, ctc_align
from voxformer.evaluation.circumstances import circumstances
from voxformer.evaluation.results import write_json
from voxformer.evaluation.wer import total
from voxformer.runtime import MODES, Mode, Recognizer, Transcript, encode, pad_batch
from voxformer.runtime.segments import Cutting, cutting_into
from voxformer.runtime.transcript import words_of

COLUMNS = (
    "recording",
    "mode",
    "longest piece, s",
    "minutes",
    "pieces",
    "WER (one by one)",
    "unbroken part",
    "cuts, seams",
    "words there",
    "lost",
    "added",
    "doubled",
    "in order",
    "RTFx",
    "peak MiB",
)
BEGINNINGS = (1, 10, 30)
"""Minutes whose peak memory is measured beside the whole's."""

NEVER = 1e6
WINDOWS_SECONDS = 600.0


def main(arguments: Sequence[str] | None = None) -> int:
    args = _arguments(arguments)
    if args.worker:
        print(json.dumps(_measure(args)))
        return 0
    utterances = [u for u in read_manifest(args.manifest) if u.text]
    rows: list[list[str]] = []
    details: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        recognizer = Recognizer.load(args.model, threads=args.threads)
        rate = recognizer.engine.sample_rate
        composed: dict[str, tuple[Path, list[Placed]]] = {}
        for name, seconds, kinds in (
            ("whole", args.minutes * 60, tuple(KINDS)),
            ("windows", min(args.minutes * 60, WINDOWS_SECONDS), ("unbroken",)),
        ):
            path = folder / f"{name}.flac"
            composed[name] = path, compose(path, utterances, seconds, rate, kinds)
        cuttings = [recognizer.cutting, *map(cutting_into, args.max_seconds)]
        beginnings = [minutes for minutes in BEGINNINGS if minutes < args.minutes]
        for minutes in beginnings:
            samples = _read(composed["whole"][0], 0, minutes * 60 * rate)
            soundfile.write(_beginning(folder, minutes), samples, rate)
        print("  ".join(COLUMNS))
        for mode in args.modes or recognizer.modes:
            for minutes in beginnings:
                path = _beginning(folder, minutes)
                rows.append(_memory_row(args, path, mode, minutes, recognizer.cutting))
                print("  ".join(rows[-1]), flush=True)
            for (name, (path, placed)), cutting in product(composed.items(), cuttings):
                if name == "windows":
                    never = {"pause_seconds": NEVER, "short_pause_seconds": NEVER}
                    cutting = replace(cutting, **never)
                found = _child(args, path, mode, cutting)
                checked = _check(recognizer, path, placed, mode, found)
                rows.append(_row(name, mode, cutting, checked))
                run = {"recording": name, "mode": mode, "cutting": asdict(cutting), **checked}
                details.append(run)
                print("  ".join(rows[-1]), flush=True)
            _write(args, rows, details)
    return 0 if all(run["in_order"] for run in details) else 1


def _write(args: argparse.Namespace, rows: list[list[str]], details: list[dict[str, Any]]) -> None:
    """What has been measured so far."""
    if args.json:
        note = f"Bundle {Path(args.model).name}, {args.threads or 'all'} threads;"
        values = {"columns": list(COLUMNS), "rows": rows, "note": note, **circumstances()}
        write_json(args.json, {**values, "runs": details})


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, metavar="BUNDLE")
    parser.add_argument("--manifest", nargs="+", default=[], help="utterances with their texts")
    parser.add_argument("--minutes", type=float, default=60.0, help="of the recording")
    parser.add_argument("--modes", nargs="+", choices=MODES, help="default: all of the bundle")
    parser.add_argument(
        "--max-seconds", nargs="+", type=float, default=[], help="other lengths of pieces, too"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all cores)")
    parser.add_argument("--json", metavar="FILE", help="write results and circumstances here")
    parser.add_argument("--worker", metavar="AUDIO", help=argparse.SUPPRESS)
    parser.add_argument("--cutting", type=json.loads, default={}, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if not args.worker and not args.manifest:
        parser.error("name at least one --manifest")
    return args


def _child(args: argparse.Namespace, path: Path, mode: Mode, cutting: Cutting) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", str(path), "--model", str(args.model)]
    command += ["--modes", mode, "--threads", str(args.threads)]
    command += ["--cutting", json.dumps(asdict(cutting))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RecordingError(f"{path.name}: {done.stderr.strip() or 'the process was killed'}")
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    """Transcribe in this process; what its transcript says of words and pieces, time and memory."""
    recognizer = Recognizer.load(args.model, threads=args.threads)
    recognizer.cutting = Cutting(**args.cutting)
    began = time.perf_counter()
    [transcript] = recognizer.transcribe([args.worker], args.modes[0])
    seconds = time.perf_counter() - began
    cuts, seams = seams_of(transcript)
    return {
        "seconds": seconds,
        "audio_seconds": transcript.duration,
        "peak_mib": _peak_mib(),
        "pieces": len(transcript.segments),
        "cuts": cuts,
        "seams": seams,
        "in_order": _in_order(transcript),
        "words": [(word.text, (word.start + word.end) / 2) for word in transcript.words],
    }


def _in_order(transcript: Transcript) -> bool:
    times = [time for word in transcript.words for time in (word.start, word.end)]
    bounds = [time for part in transcript.segments for time in (part.start, part.end)]
    inside = not times or (times[0] >= 0 and times[-1] <= transcript.duration)
    return inside and all(
        earlier <= later for row in (times, bounds) for earlier, later in pairwise(row)
    )


def _check(
    recognizer: Recognizer, path: Path, placed: Sequence[Placed], mode: Mode, found: dict[str, Any]
) -> dict[str, Any]:
    """The figures of a transcript beside those of its utterances one by one."""
    rate = recognizer.engine.sample_rate
    heard = [SpokenWord(text, at) for text, at in found.pop("words")]
    said, alone = [], []
    for utterance in placed:
        samples = _read(path, utterance.start, utterance.end)
        said += _reference_words(recognizer, samples, utterance, rate)
        [transcript] = recognizer.transcribe([samples], mode)
        start = utterance.start / rate
        alone += [SpokenWord(w.text, start + (w.start + w.end) / 2) for w in transcript.words]
    times = sorted(found["cuts"] + found["seams"])
    whole, parts = (errors_by_kind(placed, words, rate) for words in (heard, alone))
    return {
        **found,
        "speech_seconds": sum(p.end - p.start for p in placed) / rate,
        "utterances": len(placed),
        "errors": {kind: counts.to_json() for kind, counts in whole.items()},
        "errors_one_by_one": {kind: counts.to_json() for kind, counts in parts.items()},
        "wer": total(list(whole.values())).wer,
        "wer_one_by_one": total(list(parts.values())).wer,
        "wer_unbroken": whole["unbroken"].wer if "unbroken" in whole else None,
        "wer_unbroken_one_by_one": parts["unbroken"].wer if "unbroken" in parts else None,
        "at_seams": asdict(count_at(times, said, heard)),
        "at_seams_one_by_one": asdict(count_at(times, said, alone)),
    }


def _reference_words(
    recognizer: Recognizer, samples: Any, utterance: Placed, rate: int
) -> list[SpokenWord]:
    """Where the words of an utterance are said, by alignment; spread evenly where it fails."""
    vocabulary = recognizer.vocabulary
    words = utterance.text.split()
    encoded = encode(recognizer.engine, *pad_batch([samples]))
    hypothesis = Hypothesis(spell(utterance.text, vocabulary.tokens), utterance.text, 0.0)
    log_probs = encoded.log_probs[0, : encoded.lengths[0]]
    aligned = ctc_align(log_probs, hypothesis, vocabulary.blank_id)
    start = utterance.start / rate
    timed = words_of(aligned, vocabulary, recognizer.engine.frame_shift_s, start)
    if aligned.token_starts and [word.text for word in timed] == words:
        return [SpokenWord(word.text, (word.start + word.end) / 2) for word in timed]
    share = (utterance.end - utterance.start) / rate / len(words)
    return [SpokenWord(word, start + (i + 0.5) * share) for i, word in enumerate(words)]


def _row(name: str, mode: str, cutting: Cutting, run: dict[str, Any]) -> list[str]:
    near, alone = run["at_seams"], run["at_seams_one_by_one"]

    def rates(whole: float | None, parts: float | None) -> str:
        return "" if whole is None or parts is None else f"{whole:.2%} ({parts:.2%})"

    return [
        name,
        mode,
        f"{cutting.max_seconds:.1f}",
        f"{run['audio_seconds'] / 60:.1f}",
        str(run["pieces"]),
        rates(run["wer"], run["wer_one_by_one"]),
        rates(run["wer_unbroken"], run["wer_unbroken_one_by_one"]),
        f"{len(run['cuts'])}, {len(run['seams'])}",
        str(near["words"]),
        *(f"{near[key]} ({alone[key]})" for key in ("lost", "added", "doubled")),
        "yes" if run["in_order"] else "NO",
        f"{run['audio_seconds'] / run['seconds']:.0f}",
        f"{run['peak_mib']:.0f}",
    ]


def _memory_row(
    args: argparse.Namespace, path: Path, mode: Mode, minutes: int, cutting: Cutting
) -> list[str]:
    found = _child(args, path, mode, cutting)
    filled = {
        "recording": "the whole's beginning",
        "mode": mode,
        "longest piece, s": f"{cutting.max_seconds:.1f}",
        "minutes": f"{minutes:.1f}",
        "pieces": str(found["pieces"]),
        "RTFx": f"{found['audio_seconds'] / found['seconds']:.0f}",
        "peak MiB": f"{found['peak_mib']:.0f}",
    }
    return [filled.get(column, "") for column in COLUMNS]


def _beginning(folder: Path, minutes: int) -> Path:
    return folder / f"first-{minutes}.flac"


def _read(path: Path, start: int, end: int) -> Any:
    samples, _ = soundfile.read(str(path), start=start, stop=end, dtype="float32")
    return samples


def _peak_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RecordingError("/proc/self/status has no VmHWM: peak memory is measured on Linux alone")


if __name__ == "__main__":
    leave(main)
