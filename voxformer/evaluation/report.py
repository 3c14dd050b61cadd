"""Reports for people: a table of modes, and every error with its alignment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from voxformer.evaluation.evaluate import Evaluation, ModeResult
from voxformer.evaluation.wer import Alignment

MOST_CONFUSED = 20


def summary(evaluation: Evaluation) -> str:
    """A table with one line per mode."""
    header = (
        f"{'mode':<11} {'WER %':>7} {'95 % interval':>15} {'band':<9} {'CER %':>7} "
        f"{'S':>5} {'D':>5} {'I':>5} {'words':>6} {'oracle %':>8} {'capped':>6} "
        f"{'reordered':>9} {'RTF':>7}"
    )
    lines = [header, "-" * len(header)]
    for mode, result in evaluation.modes.items():
        low, high = result.interval
        words = result.words
        reordered = str(result.reordered) if mode == "rescoring" else "-"
        lines.append(
            f"{mode:<11} {100 * result.wer:>7.2f} {f'{100 * low:.2f}-{100 * high:.2f}':>15} "
            f"{result.band:<9} {100 * result.cer:>7.2f} {words.substitutions:>5} "
            f"{words.deletions:>5} {words.insertions:>5} {words.reference_words:>6} "
            f"{100 * result.oracle.wer:>8.2f} {result.capped:>6} {reordered:>9} {result.rtf:>7.4f}"
        )
    for mode, result in evaluation.modes.items():
        if result.repeated is not None:
            repeat = result.repeated
            lines.append(
                f"most repeated in {mode}: {repeat.ngram!r}, {repeat.times} times in a row in "
                f"{repeat.utterance_id}"
            )
    lines.append(
        f"{len(first_mode(evaluation).utterances)} utterances, {evaluation.audio_seconds:.1f} s; "
        f"{evaluation.engine}, {evaluation.threads} threads"
    )
    lines += [f"skipped {name}: {reason}" for name, reason in evaluation.skipped]
    return "\n".join(lines)


def error_report(result: ModeResult) -> str:
    """Every utterance with an error, worst first, and the most frequent confusions."""
    wrong = [row for row in result.utterances if row.words.counts.errors]
    wrong.sort(key=lambda row: (-row.words.counts.errors, row.id))
    lines = [f"{result.mode}: {len(wrong)} of {len(result.utterances)} utterances have errors", ""]
    for row in wrong:
        counts = row.words.counts
        lines.append(
            f"{row.id}: {counts.substitutions} substituted, {counts.deletions} deleted, "
            f"{counts.insertions} inserted, of {counts.reference_words} words"
            + (", cut by the length cap" if row.capped else "")
        )
        lines += [*aligned(row.words), ""]
    confusions = most_confused(result)
    if confusions:
        lines.append("most frequent:")
        lines += [f"{times:>5}  {what}" for what, times in confusions]
    return "\n".join(lines)


def most_confused(result: ModeResult, most: int = MOST_CONFUSED) -> list[tuple[str, int]]:
    """The most frequent single errors, `reference -> hypothesis`, and how often each was made."""
    return Counter(_confusions(row.words for row in result.utterances)).most_common(most)


def aligned(alignment: Alignment) -> tuple[str, str]:
    """Reference above hypothesis: words in columns, errors in capitals, gaps as stars."""
    above: list[str] = []
    below: list[str] = []
    for chunk in alignment.chunks:
        pairs = max(len(chunk.reference), len(chunk.hypothesis))
        for index in range(pairs):
            reference = chunk.reference[index] if index < len(chunk.reference) else ""
            hypothesis = chunk.hypothesis[index] if index < len(chunk.hypothesis) else ""
            if chunk.kind != "equal":
                reference, hypothesis = reference.upper(), hypothesis.upper()
            width = max(len(reference), len(hypothesis))
            above.append((reference or "*" * width).ljust(width))
            below.append((hypothesis or "*" * width).ljust(width))
    return (f"  REF: {' '.join(above)}".rstrip(), f"  HYP: {' '.join(below)}".rstrip())


def first_mode(evaluation: Evaluation) -> ModeResult:
    """Any of the modes: they all cover the same utterances."""
    return next(iter(evaluation.modes.values()))


def _confusions(alignments: Iterable[Alignment]) -> Iterable[str]:
    for alignment in alignments:
        for chunk in alignment.chunks:
            if chunk.kind == "substitute":
                pairs = zip(chunk.reference, chunk.hypothesis, strict=True)
                yield from (f"{reference} -> {hypothesis}" for reference, hypothesis in pairs)
            elif chunk.kind == "delete":
                yield from (f"{word} -> (nothing)" for word in chunk.reference)
            elif chunk.kind == "insert":
                yield from (f"(nothing) -> {word}" for word in chunk.hypothesis)
