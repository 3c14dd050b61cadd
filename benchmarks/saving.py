"""How long a save keeps training waiting, and how long it takes to be on disk.

    python benchmarks/saving.py --config configs/stage4_fixed.yaml \\
      --json benchmarks/results/saving.json

Model and optimiser of the config, with every state the optimiser has, are saved a few times over by
the run's own saver; nothing is trained.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

from voxformer.config import load_config
from voxformer.evaluation.circumstances import circumstances
from voxformer.evaluation.results import write_json
from voxformer.model import VoxFormer
from voxformer.training.checkpoint import CheckpointFolder
from voxformer.training.optim import make_optimizer
from voxformer.training.saver import CheckpointSaver

COLUMNS = ("save", "size, MiB", "training waits, s", "on disk after, s")


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True)
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: a temporary")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    config, path = load_config(args.config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = VoxFormer(config.model).to(device)
    optimizer = make_optimizer(model, config.training)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    rows = []
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = CheckpointFolder(Path(name), 2, 1)
        with CheckpointSaver(folder, 60.0) as saver:
            for save in range(1, args.saves + 1):
                state = {
                    "step": save,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                }
                began = time.monotonic()
                saver.save_step(save, state)
                waited = time.monotonic() - began
                if not saver.finish(lambda: True):
                    raise RuntimeError("not saved; see above")
                written = time.monotonic() - began
                size = (Path(name) / "latest.pt").stat().st_size / 2**20
                rows.append((save, f"{size:.0f}", f"{waited:.2f}", f"{written:.2f}"))
    for row in (COLUMNS, *rows):
        print("".join(f"{cell!s:20}" for cell in row))
    if args.json:
        parameters = sum(parameter.numel() for parameter in model.parameters())
        note = f"`{path.name}`, {parameters / 1e6:.1f} M parameters, {device}."
        write_json(args.json, {"columns": COLUMNS, "rows": rows, "note": note, **circumstances()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
