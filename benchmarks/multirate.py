"""What running the middle blocks at half the frame rate saves: encoder time, forward and backward.

    python benchmarks/multirate.py --json benchmarks/results/multi-rate.json

Variants take turns within each round, so that a busy machine slows all of them alike; figures are
medians over the rounds, and the ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

VARIANTS = {"every block at 25/s": [1, 1, 1], "middle block at 12.5/s": [1, 2, 1]}


def measure(d_model: int, heads: int, layers: int, seconds: float, rounds: int) -> list[list[Any]]:
    """Rows of the table: variant, forward ms, training ms, time over the first variant's."""
    import torch

    from voxformer.config import ModelConfig
    from voxformer.model import VoxFormer

    models = {}
    for name, rates in VARIANTS.items():
        torch.manual_seed(0)
        config = ModelConfig(
            d_model=d_model,
            encoder_num_heads=heads,
            encoder_layers_per_block=layers,
            encoder_downsampling=rates,
        )
        models[name] = VoxFormer(config)
    waveforms = 0.1 * torch.randn(8, int(16000 * seconds))
    lengths = torch.full((8,), waveforms.size(1))
    features, frames = next(iter(models.values())).front_end(waveforms, lengths)
    times: dict[str, dict[str, list[float]]] = {
        name: {"forward": [], "training": []} for name in models
    }
    for round_number in range(rounds + 1):
        for name, model in models.items():
            began = time.perf_counter()
            with torch.no_grad():
                model.encoder(features, frames)
            middle = time.perf_counter()
            model.encoder(features, frames)[0].sum().backward()
            end = time.perf_counter()
            model.zero_grad(set_to_none=True)
            if round_number:  # the first round warms up
                times[name]["forward"].append(middle - began)
                times[name]["training"].append(end - middle)
    base = next(iter(times.values()))
    rows = []
    for name, found in times.items():
        row: list[Any] = [f"d_model {d_model}, {seconds:.0f} s x 8", name]
        for kind in ("forward", "training"):
            ratios = [t / b for t, b in zip(found[kind], base[kind], strict=True)]
            row += [round(statistics.median(found[kind]) * 1e3, 1)]
            row += [round(statistics.median(ratios), 3)]
        rows.append(row)
    return rows


def main() -> None:
    """Measure a small and a large model; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    import torch

    from voxformer.evaluation.circumstances import circumstances

    rows = measure(144, 4, 2, 5.0, args.rounds) + measure(512, 8, 4, 15.0, max(3, args.rounds // 3))
    columns = ["model", "encoder", "forward ms", "ratio", "forward + backward ms", "ratio"]
    note = f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}, fp32; medians"
    for row in [columns, *rows]:
        print("  ".join(str(value) for value in row))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        values = {"columns": columns, "rows": rows, "note": note, **circumstances()}
        args.json.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
