"""How fast a config trains here, what of the machine that is, and how much memory it takes.

    python benchmarks/training.py --config configs/stage4_fixed.yaml \\
      --set data.train_manifest=train.jsonl --steps 6 --json out.json
    python benchmarks/training.py --memory --config configs/stage4_fixed.yaml \\
      --set data.train_manifest=train.jsonl --json out.json

Each config (there may be several) is trained in a process of its own, without evaluating or saving,
and the steps after a warm-up are reported. Floating-point operations are those of matrix products
and convolutions, forward and backward, counted by torch's FlopCounterMode on the shapes that were
trained, padding included; utilisation is their number over the time of the steps, waiting for data
included, and over the device's peak: of a table for known GPUs, and measured with one large matrix
product elsewhere. `--memory` trains on the longest utterances alone, and says what a step keeps:
weights, gradients, the optimiser's moments and the activations saved for the backward pass take the
same memory on any device, so that their sum tells what a card must have; kernels need room beside.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from one_line import leave
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from voxformer.config import ConfigError, ModelConfig, RunConfig, Stage, load_config
from voxformer.data.manifest import read_manifest
from voxformer.evaluation.circumstances import circumstances
from voxformer.evaluation.results import write_json
from voxformer.model import VoxFormer, count_parameters
from voxformer.model.decoder import AttentionDecoder
from voxformer.model.encoder import Encoder
from voxformer.text import Tokenizer, train_tokenizer
from voxformer.training.batch_size import Trial, forward_pass, made_up_batch
from voxformer.training.ctc_crf import token_bigram
from voxformer.training.loop import train
from voxformer.training.memory import bytes_of_optimizer, saved_bytes
from voxformer.training.optim import make_optimizer
from voxformer.training.precision import Precision, choose_precision
from voxformer.training.setup import build_objective, choose_device, read_training_set

COLUMNS = (
    "config",
    "device",
    "parameters",
    "micro-batch",
    "audio hours an hour",
    "step s (median)",
    "of it waiting for data",
    "padding",
    "TFLOP/s",
    "peak TFLOP/s",
    "utilisation",
    "peak memory",
)
MEMORY_COLUMNS = (
    "config",
    "micro-batch",
    "state",
    "activations fp32",
    "activations bf16",
    "together fp32, of 24 GB",
    "together bf16, of 24 GB",
    "measured here",
)

# Dense TFLOP/s, from NVIDIA's data sheets (H100 and H200 SXM, A100, L4, A10) and white papers (Ada,
# GA102): tensor cores with fp32 accumulation, fp32 without them.
PEAKS = {
    "H200": {"bf16": 989.0, "fp16": 989.0, "tf32": 495.0, "fp32": 67.0},
    "H100": {"bf16": 989.0, "fp16": 989.0, "tf32": 495.0, "fp32": 67.0},
    "A100": {"bf16": 312.0, "fp16": 312.0, "tf32": 156.0, "fp32": 19.5},
    "RTX 4090": {"bf16": 165.2, "fp16": 165.2, "tf32": 82.6, "fp32": 82.6},
    "RTX 3090": {"bf16": 71.0, "fp16": 71.0, "tf32": 35.6, "fp32": 35.6},
    "L4": {"bf16": 121.0, "fp16": 121.0, "tf32": 60.0, "fp32": 30.3},
    "A10": {"bf16": 125.0, "fp16": 125.0, "tf32": 62.5, "fp32": 31.2},
}
SLOWER = ("PCIe", "NVL", "Laptop", "4090 D")
"""Variants of these names with other figures."""
MATRIX = 2048
GIB = 2**30
STATE = ("weights", "averaged", "gradients", "moments")
"""What is kept whatever the batch; the moments are the optimiser's."""

_Pass = tuple[float, str, tuple[int, int]]
"""When, through which module, and the first two sizes of its input."""
CARD = 24e9


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every config in a process of its own; print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", action="append", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--steps", type=int, default=6, help="that are measured")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them")
    parser.add_argument("--memory", action="store_true", help="the longest utterances, and memory")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.steps < 1 or args.warmup < 0:
        parser.error("--steps is at least 1, --warmup at least 0")
    if args.alone:
        write_json(args.alone, _measure(args))
        return 0
    load = os.getloadavg()[0]
    found = [_in_a_process(config, args) for config in args.config]
    columns = MEMORY_COLUMNS if args.memory else COLUMNS
    rows = [(_memory_row if args.memory else _row)(values) for values in found]
    for row in (columns, *rows):
        print("  ".join(map(str, row)))
    if args.json:
        note = f"Load average when it began: {load:.2f}; other work on the machine slows a run."
        values = {"columns": columns, "rows": rows, "note": note, "measured": found}
        write_json(args.json, {**values, **circumstances()})
    return 0


def _in_a_process(config: str, args: argparse.Namespace) -> dict[str, Any]:
    """Peak memory is that of a process, so each config has one."""
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "measured.json"
        command = [sys.executable, __file__, "--config", config, "--alone", str(output)]
        command += ["--steps", str(args.steps), "--warmup", str(args.warmup)]
        command += ["--memory"] if args.memory else []
        for override in args.set:
            command += ["--set", override]
        if subprocess.run(command).returncode:
            raise SystemExit(2)
        values: dict[str, Any] = json.loads(output.read_text("utf-8"))
        return values


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        config = _config(args, Path(name))
        steps, shapes = _trained(config)
        return _figures(args, config, steps, shapes)


def _trained(config: RunConfig) -> tuple[list[dict[str, Any]], list[_Pass]]:
    """Rows of the steps, and the passes through encoder and decoder."""
    shapes: list[_Pass] = []

    def remember(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module.training and isinstance(module, (Encoder, AttentionDecoder)):
            sizes = inputs[2 if isinstance(module, AttentionDecoder) else 0].shape
            shapes.append((time.time(), type(module).__name__, (sizes[0], sizes[1])))

    handle = nn.modules.module.register_module_forward_pre_hook(remember)
    try:
        code = train(config, "run")
    finally:
        handle.remove()
    if code:
        raise SystemExit(code)
    metrics = Path(config.training.checkpoint_dir or "") / "metrics.jsonl"
    lines = metrics.read_text("utf-8").splitlines()
    steps = [row for row in map(json.loads, lines) if row["type"] == "train"]
    return steps, shapes


def _figures(
    args: argparse.Namespace,
    config: RunConfig,
    steps: list[dict[str, Any]],
    shapes: list[_Pass],
) -> dict[str, Any]:
    device = choose_device(config.training.device)
    measured = steps[args.warmup :]
    began = steps[args.warmup - 1]["time"] if args.warmup else 0.0
    ended = steps[-1]["time"]
    of_steps = [(kind, size) for when, kind, size in shapes if began < when <= ended]
    seconds = sum(row["step_seconds"] for row in measured)
    audio = sum(row["audio_per_second"] * row["step_seconds"] for row in measured)
    padded = sum(b * frames for kind, (b, frames) in of_steps if kind == "Encoder") / 100
    views = 2.0 if config.training.cr_ctc_weight and config.stage is not Stage.ATTENTION else 1.0
    precision = choose_precision(config.training.precision, device)
    flops = count_flops(config, of_steps)
    values: dict[str, Any] = {
        "config": args.config[0],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "precision": precision,
        "parameters": count_parameters(VoxFormer(config.model)),
        "batch_size": config.training.batch_size,
        "accumulation": config.training.gradient_accumulation_steps,
        "steps": len(measured),
        "audio_seconds": audio,
        "padded_seconds": padded / views,
        "step_seconds": [row["step_seconds"] for row in measured],
        "data_wait": sum(row["data_wait"] * row["step_seconds"] for row in measured) / seconds,
        "flops": flops,
        "peak_flops": peak_flops(device, precision),
        "peak_flops_source": "table" if known_peak(device, precision) else "measured",
        "peak_memory_bytes": int(measured[-1]["peak_memory_gib"] * GIB),
    }
    return values | (_memory(config) if args.memory else {})


def _config(args: argparse.Namespace, folder: Path) -> RunConfig:
    """The config as it is measured: so many steps, and nothing but steps."""
    steps = args.warmup + args.steps
    overrides = [
        *args.set,
        f"training.checkpoint_dir={folder / 'run'}",
        f"training.max_steps={steps}",
        "training.num_epochs=1000",
        "training.log_interval=1",
        "training.save_interval=1000000",
        "training.eval_interval=1000000",
        "training.keep_epochs_n=0",
        "training.resume_from=",
        "training.init_from=",
        "training.max_minutes=",
        "data.valid_manifest=",
        "mirror.url=",
    ]
    config, _ = load_config(args.config[0], overrides)
    paths = [named.path for named in config.data.training_sets]
    if not paths:
        raise ConfigError("name a training set: --set data.train_manifest=FILE")
    if config.data.tokenizer is None and config.stage is not Stage.PRETRAIN:
        tokenizer = folder / "tokenizer"
        texts = [u.text for u in read_training_set(config)]
        train_tokenizer(texts, config.model.vocab_size, tokenizer, config.data.tokenizer_type)
        config.data.tokenizer = str(tokenizer)
    if args.memory:
        count = config.training.batch_size * config.training.gradient_accumulation_steps
        usable = [u for u in read_manifest(paths) if u.duration <= config.data.max_duration]
        longest = sorted(usable, key=lambda u: -u.duration)[:count]
        rows = [
            {
                "id": u.id,
                "audio_filepath": str(u.audio_path.resolve()),
                "duration": u.duration,
                "text": u.text,
            }
            for u in longest
        ]
        path = folder / "longest.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        config.data.train_manifest = str(path)
    return config


def count_flops(config: RunConfig, shapes: Iterable[tuple[str, tuple[int, int]]]) -> int:
    """Operations of a training step's passes through encoder (with the CTC head) and decoder.

    Args:
        config: of the run; a frozen encoder has no backward pass.
        shapes: (`Encoder`, [batch, feature frames]) or (`AttentionDecoder`, [batch, tokens]), in
            the order of the passes: a decoder's memory is that of the encoder before it.
    """
    model = VoxFormer(config.model).to("meta")
    frozen = config.stage is Stage.ATTENTION
    with_ctc = config.stage in (Stage.CTC, Stage.HYBRID)
    counted: dict[Any, int] = {}
    total = 0
    features = (1, 1)
    for kind, size in shapes:
        if kind == "Encoder":
            features = size
        key = (kind, size, features)
        if key not in counted:
            formulas = {torch.ops.aten.convolution_backward: _convolution_backward}
            with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
                if kind == "Encoder":
                    _encode(model, config.model, size, frozen, with_ctc)
                else:
                    _decode(model, config.model, size, features, frozen)
            counted[key] = counter.get_total_flops()
        total += counted[key]
    return total


def _convolution_backward(
    gradient: Sequence[int], inputs: Sequence[int], weight: Sequence[int], *others: Any, **_: Any
) -> int:
    """Of each gradient that is computed, as many as forward; torch's own count ignores groups."""
    forward = 2 * math.prod(gradient) * math.prod(weight[1:])
    return forward * sum(others[-1][:2])


def _encode(
    model: VoxFormer, config: ModelConfig, size: tuple[int, int], frozen: bool, with_ctc: bool
) -> None:
    batch, frames = size
    lengths = torch.full((batch,), frames, device="meta")
    features = torch.empty(batch, frames, config.n_mels, device="meta")
    with torch.set_grad_enabled(not frozen):
        out, _ = model.encoder(features, lengths)
        if with_ctc:
            out = model.ctc_log_probs(out)
    if not frozen:
        out.sum().backward()  # type: ignore[no-untyped-call]


def _decode(
    model: VoxFormer,
    config: ModelConfig,
    size: tuple[int, int],
    features: tuple[int, int],
    frozen: bool,
) -> None:
    frames = -(-features[1] // 4)
    lengths = torch.full((size[0],), frames, device="meta")
    out = torch.empty(size[0], frames, config.d_model, device="meta", requires_grad=not frozen)
    memory = model.decoder.memory(out, lengths)
    tokens = torch.ones(size, dtype=torch.int64, device="meta")
    model.decoder(memory, lengths, tokens).sum().backward()


def known_peak(device: torch.device, precision: str) -> float | None:
    """FLOP/s of the table, None for a device that it lacks."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    if any(slower in name for slower in SLOWER):
        return None
    for card, peaks in PEAKS.items():
        if re.search(rf"\b{card}\b", name):
            return peaks[precision] * 1e12
    return None


def peak_flops(device: torch.device, precision: str) -> float:
    """FLOP/s of the table, or of the best of some large matrix products."""
    known = known_peak(device, precision)
    if known is not None:
        return known
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    left, right = (torch.randn(MATRIX, MATRIX, device=device, dtype=kind) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * MATRIX**3 / best


def _memory(config: RunConfig) -> dict[str, Any]:
    """Bytes that a step on the longest utterances keeps, in fp32 and in bf16."""
    named = config.data.tokenizer
    tokenizer = Tokenizer.load(named) if named is not None else None
    utterances = read_training_set(config)
    longest = max(u.duration for u in utterances) / config.augment.slowest
    tokens = max(len(tokenizer.encode(u.text)) for u in utterances) if tokenizer else 0
    precisions = ("fp32", "bf16")
    of_step = bytes_of_step(config, precisions, config.training.batch_size, longest, tokens)
    return {
        "longest_seconds": longest,
        "state_bytes": sum(of_step[part] for part in STATE),
        "saved_bytes": {name: of_step[name] for name in precisions},
    }


def bytes_of_step(
    config: RunConfig, precisions: Iterable[str], count: int, seconds: float, tokens: int
) -> dict[str, int]:
    """What a step on `count` utterances of so many seconds and tokens keeps, on any device.

    Returns:
        By precision the activations that are saved for the backward pass; and each part of `STATE`.
        What an operation needs while it runs is not among them.
    """
    device = torch.device("cpu")
    # Which bigram a CTC-CRF is trained with changes nothing here.
    crf = config.training.crf_weight > 0.0
    bigram = token_bigram([], config.model.vocab_size) if crf else None
    module, objective = build_objective(config, device, bigram)
    optimizer = make_optimizer(module, config.training)
    found = {}
    for precision in precisions:
        as_on_a_gpu = Precision(precision, device, fused_attention=True)
        trial = Trial(config, module, objective, optimizer, as_on_a_gpu)
        # Of equal utterances each keeps as much, so two of them tell what all keep.
        one, two = (
            saved_bytes(
                module, partial(forward_pass, trial, made_up_batch(config, n, seconds, tokens))
            )
            for n in (1, 2)
        )
        found[precision] = one + (count - 1) * (two - one)
    parameters = list(module.parameters())
    weights = sum(p.numel() * p.element_size() for p in parameters)
    sizes = (
        weights,
        weights if config.training.ema_decay else 0,
        sum(p.numel() * p.element_size() for p in parameters if p.requires_grad),
        bytes_of_optimizer(optimizer),
    )
    return found | dict(zip(STATE, sizes, strict=True))


def _row(values: dict[str, Any]) -> list[str]:
    seconds = sum(values["step_seconds"])
    speed = values["flops"] / seconds
    threads = f", {values['threads']} threads" if values["device"] == "cpu" else ""
    return [
        f"`{values['config']}`",
        f"{values['device']}, {values['precision']}{threads}",
        f"{values['parameters'] / 1e6:.1f} M",
        f"{values['batch_size']} x {values['accumulation']}",
        f"{values['audio_seconds'] / seconds:.1f}",
        f"{statistics.median(values['step_seconds']):.2f}",
        f"{values['data_wait']:.1%}",
        f"{1 - values['audio_seconds'] / values['padded_seconds']:.1%}",
        f"{speed / 1e12:.3f}",
        f"{values['peak_flops'] / 1e12:.3f} ({values['peak_flops_source']})",
        f"{speed / values['peak_flops']:.1%}",
        f"{values['peak_memory_bytes'] / GIB:.2f} GiB",
    ]


def _memory_row(values: dict[str, Any]) -> list[str]:
    saved = values["saved_bytes"]
    together = {name: values["state_bytes"] + size for name, size in saved.items()}
    return [
        f"`{values['config']}`",
        f"{values['batch_size']} x {values['longest_seconds']:.1f} s",
        f"{values['state_bytes'] / GIB:.2f} GiB",
        f"{saved['fp32'] / GIB:.2f} GiB",
        f"{saved['bf16'] / GIB:.2f} GiB",
        *(f"{together[name] / GIB:.2f} GiB, {together[name] / CARD:.0%}" for name in saved),
        f"{values['peak_memory_bytes'] / GIB:.2f} GiB ({values['device']}, {values['precision']})",
    ]


if __name__ == "__main__":
    leave(main)
