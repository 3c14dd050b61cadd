"""Time and memory of one long utterance: the part of benchmarks/decoder.py behind `--long`.

Each length is measured in a process of its own, whose peak memory (VmHWM) is what the system saw.
Frames come in chunks of 20 s, made as they are needed outside the clock; `whole` gathers them first
and decodes them in one call, `stream` feeds each to a `CtcStream`, which keeps them for the tokens'
times.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from decoder_language import make_language
from decoder_matrices import FRAME_RATE, FloatArray, make

CHUNK_S = 20.0
BEAM = 10
COLUMNS = (
    "way",
    "vocabulary",
    "minutes",
    "frames",
    "search µs/frame",
    "finish µs/frame",
    "peak MiB",
    "frames MiB",
    "peak over frames, MiB",
)


def measure_long(minutes: list[float], vocabs: list[int], seed: int) -> dict[str, Any]:
    """Rows of the table, each from a process of its own, and what they were measured with."""
    from voxformer.evaluation.circumstances import circumstances

    rows: list[list[Any]] = []
    print("  ".join(COLUMNS))
    for way in ("whole", "stream"):
        for vocab in vocabs:
            for length in minutes:
                needed = 4 * vocab * length * 60 * FRAME_RATE * (3 if way == "whole" else 2)
                if needed > 0.8 * _available_bytes():
                    rows.append(
                        [way, vocab, f"{length:g}", "skipped: too little memory", *5 * [""]]
                    )
                else:
                    command = [sys.executable, __file__, way, str(vocab), str(length), str(seed)]
                    done = subprocess.run(command, check=True, capture_output=True, text=True)
                    rows.append(json.loads(done.stdout))
                print("  ".join(str(cell) for cell in rows[-1]), flush=True)
    note = f"Peaky matrices, beam {BEAM}, n-best {BEAM}, one thread;"
    return {"columns": list(COLUMNS), "rows": rows, "note": note, **circumstances()}


def measure_one(way: str, vocab: int, minutes: float, seed: int) -> list[Any]:
    """One row, measured in this process."""
    from voxformer.decoding import BeamOptions, CtcBeamDecoder

    language = make_language(vocab, seed)
    decoder = CtcBeamDecoder(language.tokens, BeamOptions(beam_size=BEAM, n_best=BEAM), 1)
    chunks = max(1, round(minutes * 60 / CHUNK_S))
    frames = int(chunks * CHUNK_S * FRAME_RATE)
    search = finish = 0.0

    def chunk(number: int) -> FloatArray:
        return make(language, "peaky", CHUNK_S, 1, seed + number)[0][0]

    chunk(0)  # what NumPy and the generator need is there before the baseline
    before = _status("VmHWM")
    if way == "whole":
        log_probs = np.empty((1, frames, vocab), dtype=np.float32)
        size = frames // chunks
        for number in range(chunks):
            log_probs[0, number * size : (number + 1) * size] = chunk(number)
        began = time.process_time()
        decoder.decode(log_probs)
        search = time.process_time() - began
    else:
        stream = decoder.stream()
        for number in range(chunks):
            log_probs = chunk(number)
            began = time.process_time()
            stream.feed(log_probs)
            search += time.process_time() - began
        began = time.process_time()
        stream.finish()
        finish = time.process_time() - began
    grown = (_status("VmHWM") - before) / 2**20
    held = frames * vocab * 4 / 2**20
    return [
        way,
        vocab,
        f"{minutes:g}",
        frames,
        round(search / frames * 1e6, 3),
        round(finish / frames * 1e6, 3) if way == "stream" else "",
        round(_status("VmHWM") / 2**20, 1),
        round(held, 1),
        round(grown - held, 1),
    ]


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def _available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise KeyError("MemAvailable")


if __name__ == "__main__":
    way, vocab, minutes, seed = sys.argv[1:]
    print(json.dumps(measure_one(way, int(vocab), float(minutes), int(seed))))
