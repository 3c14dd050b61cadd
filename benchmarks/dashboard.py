"""How soon the dashboard shows a run with a million rows of metrics.

    python benchmarks/dashboard.py [--rows 1000000] [--json F]

Measured from outside, over HTTP: the page, the status, and the data of all charts. The first answer
has charts of sampled rows; the history is exact once all of the file is read.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description="Time to the first charts of a long run.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        folder.mkdir()
        size = write_metrics(folder / "metrics.jsonl", args.rows)
        result = {"rows": args.rows, "bytes": size, **measure(folder)}
    for key, value in result.items():
        print(f"{key:22} {value}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


def write_metrics(path: Path, rows: int) -> int:
    """Rows as training writes them; the size of the file in bytes."""
    with path.open("w") as file:
        for step in range(1, rows + 1):
            loss = 6.0 / (1.0 + step / 1000.0) + 0.1 * math.sin(step)
            row = {
                "type": "train",
                "step": step,
                "time": round(1.7e9 + step, 3),
                "epoch": round(step / 1000, 6),
                "loss": round(loss, 6),
                "ctc": round(loss * 1.1, 6),
                "ce": round(loss * 0.9, 6),
                "token_accuracy": 0.5,
                "ctc_weight": 0.3,
                "learning_rate": 0.0005,
                "gradient_norm": round(abs(math.sin(step)), 6),
                "audio_per_second": 250.0,
                "skipped_steps": 0,
            }
            file.write(json.dumps(row) + "\n")
    return path.stat().st_size


def measure(folder: Path) -> dict[str, float]:
    """Seconds to the first page with charts and to the whole history, and the server's memory."""
    command = [sys.executable, "-m", "voxformer", "dashboard", str(folder), "--port", "0"]
    launched = time.monotonic()
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        base = server.stdout.readline().strip().removesuffix("/training")
        asked = time.monotonic()
        for path in ("/training", "/api/training-status", "/api/series"):
            first = _get(base + path)
        opened = time.monotonic()
        points = sum(len(s["x"]) for s in json.loads(first)["series"].values())
        while json.loads(_get(base + "/api/training-status"))["runs"][0]["metrics"]["reading"]:
            pass
        read = time.monotonic()
        _get(base + "/api/series")
        drawn = time.monotonic()
        status = Path(f"/proc/{server.pid}/status").read_text()
        peak = next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line)
    finally:
        server.terminate()
        server.wait()
    return {
        "start_s": round(asked - launched, 3),
        "open_s": round(opened - asked, 3),
        "points_at_first": points,
        "whole_history_s": round(read - asked, 3),
        "series_of_history_s": round(drawn - read, 3),
        "peak_memory_mib": round(peak / 1024, 1),
    }


def _get(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return bytes(answer.read())


if __name__ == "__main__":
    main()
