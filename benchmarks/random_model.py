"""A checkpoint with random weights, to see what a size costs before there is a model of it.

    python benchmarks/random_model.py --config stage4 --set model.d_model=320 \\
      --manifest dev.jsonl --out checkpoints/random/best.pt

`voxformer export --force` makes a bundle of it and benchmarks/rtf.py measures that. It knows
nothing, and its word error rate says so; the time of the encoder and of the decoders depends on
sizes alone. The time of a CTC search depends on what the log-probs look like, so the CTC layer is
scaled and its blank weighted until, on the speech of the manifest, most frames are blank and greedy
decoding writes as many tokens a second as `--tokens-per-second` says (3.5 is what 500 pieces of
read English have).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from one_line import leave
from torch import Tensor

from voxformer.audio import read_audio
from voxformer.config import RunConfig, load_config
from voxformer.data import read_manifest
from voxformer.decoding import ctc_greedy
from voxformer.model import VoxFormer
from voxformer.model.voxformer import count_parameters
from voxformer.runtime.recognise import pad_batch
from voxformer.training.checkpoint import save_checkpoint

UTTERANCES = 16
LOGIT_DEVIATION = 4.0
"""Of a token over frames: the best of 500 then has most of a frame's probability."""


def main() -> int:
    args = _arguments()
    config, _ = load_config(args.config, args.set)
    torch.manual_seed(args.seed)
    model = VoxFormer(config.model).eval()
    utterances = read_manifest(args.manifest)
    rate = config.model.sample_rate
    step = max(1, len(utterances) // UTTERANCES)
    waveforms = [read_audio(u.audio_path, rate) for u in utterances[::step][:UTTERANCES]]
    batch, lengths = map(torch.from_numpy, pad_batch(waveforms))
    found = shape_ctc(model, batch, lengths, args.tokens_per_second)
    write(args.out, model, config, max_tokens_per_second=3 * args.tokens_per_second)
    print(
        f"wrote {args.out}: {count_parameters(model) / 1e6:.1f} M random weights, "
        f"{found:.2f} tokens a second on {args.manifest}"
    )
    return 0


@torch.inference_mode()
def shape_ctc(model: VoxFormer, waveforms: Tensor, lengths: Tensor, wanted: float) -> float:
    """Scale the CTC layer and weigh its blank; returns the tokens a second that come out.

    Args:
        model: its CTC layer is changed.
        waveforms: float32 [batch, samples] of speech.
        lengths: int64 [batch].
        wanted: tokens a second.
    """
    hidden: list[Tensor] = []
    hook = model.ctc_head.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
    _, frames, _ = model.encode(waveforms, lengths)
    hook.remove()
    spoken = torch.cat([row[:n] for row, n in zip(hidden[0], frames.tolist(), strict=True)])
    logits = model.ctc_head(spoken)
    scale = LOGIT_DEVIATION / logits.std(0).mean()
    model.ctc_head.weight *= scale
    model.ctc_head.bias.copy_(scale * (model.ctc_head.bias - logits.mean(0)))
    seconds = float(lengths.sum()) / model.config.sample_rate
    low, high = -40.0, 40.0
    bias = float(model.ctc_head.bias[0])
    for _ in range(20):
        model.ctc_head.bias[0] = bias + (low + high) / 2
        log_probs = model.ctc_log_probs(hidden[0]).numpy()
        tokens = sum(len(h.token_ids) for h in ctc_greedy(log_probs, frames.numpy()))
        if tokens / seconds > wanted:
            low = (low + high) / 2
        else:
            high = (low + high) / 2
    return tokens / seconds


def write(path: str, model: VoxFormer, config: RunConfig, max_tokens_per_second: float) -> None:
    """As `best.pt` of a run of the config would be."""
    pieces = [f"\u2581{_word(number)}" for number in range(config.model.vocab_size)]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(
        Path(path),
        {
            "stage": "hybrid",
            "step": 0,
            "config": config.model_dump(mode="json"),
            "model": model.state_dict(),
            "tokens": ["<blank>", *pieces, "<sos/eos>"],
            "max_tokens_per_second": max_tokens_per_second,
        },
    )


def _word(number: int) -> str:
    """A, b, … z, ba, bb, …: no two alike."""
    digits = np.base_repr(number, 26)
    return "".join(chr(ord("a") + int(digit, 26)) for digit in digits)


def _arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="name or path of a config")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--manifest", required=True, help="speech that the CTC layer is shaped on")
    parser.add_argument("--tokens-per-second", type=float, default=3.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, metavar="CKPT")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    leave(main)
