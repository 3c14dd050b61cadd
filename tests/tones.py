"""A tiny corpus of spoken-like tones, on which a small model trains in seconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

WORDS = ("low", "mid", "high", "rise", "fall")


def write_corpus(folder: Path) -> Path:
    """Recordings, train.jsonl (24 utterances) and dev.jsonl (6) in a folder."""
    generator = np.random.default_rng(0)
    for name, count in (("train", 24), ("dev", 6)):
        rows = []
        for index in range(count):
            words = [str(w) for w in generator.choice(WORDS, int(generator.integers(1, 4)))]
            parts = [_word(w, int(generator.integers(3500, 5000))) for w in words]
            audio = np.concatenate(parts) + generator.normal(0, 0.01, sum(map(len, parts)))
            path = folder / f"{name}{index}.wav"
            soundfile.write(path, audio, 16000, subtype="PCM_16")
            rows.append(
                {
                    "id": f"{name}{index}",
                    "audio_filepath": path.name,
                    "duration": round(len(audio) / 16000, 4),
                    "text": " ".join(words),
                }
            )
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)
    return folder


def write_speech(folder: Path, sets: Sequence[str], held_out: Sequence[str]) -> Path:
    """The corpus once for each name, as a recipe finds its sets: manifests in a folder, and the
    text of a language model."""
    for name in (*sets, *held_out):
        (folder / name).mkdir()
        write_corpus(folder / name)
        rows = (folder / name / ("dev" if name in held_out else "train")).with_suffix(".jsonl")
        lines = []
        for line in rows.read_text().splitlines():
            row = json.loads(line)
            lines.append(json.dumps({**row, "audio_filepath": f"{name}/{row['audio_filepath']}"}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "text").mkdir()
    text = "\n".join(f"{a} {b}" for a in WORDS for b in WORDS)
    (folder / "text" / "librispeech-100.txt").write_text(text)
    return folder


def _word(word: str, samples: int) -> np.ndarray:
    time = np.arange(samples) / 16000
    start, end = {
        "low": (200, 200),
        "mid": (500, 500),
        "high": (1200, 1200),
        "rise": (200, 1200),
        "fall": (1200, 200),
    }[word]
    sweep = start * time + (end - start) * time**2 / (2 * time[-1])
    return 0.2 * np.sin(2 * np.pi * sweep)
