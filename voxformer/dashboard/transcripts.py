"""`samples.json`, what an evaluation heard: references against hypotheses, word by word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MEDIA_TYPES = {
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".mp3": "audio/mpeg",
}
MOST_BYTES = 4 << 20
MOST_WORDS = 400
MOST_SAMPLES = 100

Differences = list[tuple[str, str]]


def differences(reference: str, hypothesis: str) -> Differences:
    """(kind, words) from left to right: `same`, `missing` of the reference, `extra` words.

    A substitution is what is missing, then what came in its place. The alignment has the fewest
    edits, as the error rate counts them.
    """
    left, right = reference.split()[:MOST_WORDS], hypothesis.split()[:MOST_WORDS]
    costs = [[*range(len(right) + 1)]]
    for i, word in enumerate(left, 1):
        row = [i]
        for j, other in enumerate(right, 1):
            changed = costs[-1][j - 1] + (word != other)
            row.append(min(changed, costs[-1][j] + 1, row[-1] + 1))
        costs.append(row)
    i, j = len(left), len(right)
    found: list[tuple[str, list[str]]] = []
    while i or j:
        if i and j and costs[i][j] == costs[i - 1][j - 1] + (left[i - 1] != right[j - 1]):
            i, j = i - 1, j - 1
            if left[i] == right[j]:
                found.append(("same", [left[i]]))
            else:
                found += [("extra", [right[j]]), ("missing", [left[i]])]
        elif i and costs[i][j] == costs[i - 1][j] + 1:
            i -= 1
            found.append(("missing", [left[i]]))
        else:
            j -= 1
            found.append(("extra", [right[j]]))
    joined: list[tuple[str, list[str]]] = []
    for kind, words in reversed(found):
        if joined and joined[-1][0] == kind:
            joined[-1][1].extend(words)
        else:
            joined.append((kind, list(words)))
    return [(kind, " ".join(words)) for kind, words in joined]


def read_samples(path: Path) -> tuple[int | None, list[dict[str, Any]]]:
    """Step and samples (id, reference, hypotheses, audio) of a run; none where there is no file."""
    try:
        if path.stat().st_size > MOST_BYTES:
            return None, []
        content = json.loads(path.read_text(encoding="utf-8"))
        samples = [
            {
                "id": str(sample["id"]),
                "reference": str(sample["reference"]),
                "hypotheses": {str(k): str(v) for k, v in sample["hypotheses"].items()},
                "audio": str(sample.get("audio") or ""),
            }
            for sample in content["samples"][:MOST_SAMPLES]
        ]
        return int(content["step"]), samples
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None, []


def shown_samples(path: Path) -> dict[str, Any]:
    """Samples for the page: differences of every hypothesis, and whether it can be heard."""
    step, samples = read_samples(path)
    return {
        "step": step,
        "samples": [
            {
                "id": sample["id"],
                "reference": sample["reference"],
                "playable": audio_of(sample) is not None,
                "hypotheses": {
                    mode: differences(sample["reference"], text)
                    for mode, text in sample["hypotheses"].items()
                },
            }
            for sample in samples
        ],
    }


def audio_of(sample: dict[str, Any]) -> Path | None:
    """The recording of a sample, if it is one by its name and is there."""
    audio = Path(sample["audio"])
    try:
        known = audio.suffix.lower() in MEDIA_TYPES and audio.is_absolute()
        # A link may have a name that says less than what it leads to.
        return (
            audio
            if known and audio.resolve().suffix.lower() in MEDIA_TYPES and audio.is_file()
            else None
        )
    except (OSError, ValueError):
        return None
