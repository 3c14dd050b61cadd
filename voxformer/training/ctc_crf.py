"""CTC-CRF: CTC's topology trained as a conditional random field.

CTC takes the tokens of a path to be independent, so a model that has little speech spends it on
learning a language. Here the paths' weights are those of CTC times an n-gram over tokens, and what
is trained is the share of the transcript's paths in all (Xiang and Ou 2019, "CRF-based single-stage
acoustic modeling with CTC topology", eq. 6; LF-MMI, Povey et al. 2016, with CTC's one state):

    ln p(y | x) = ln P(y) + ln sum_{paths of y} prod_t p_t - ln sum_{y'} P(y') sum_{paths of y'} ...

The last sum runs over all token sequences. With a bigram P it is exact: a path's state is its last
token and whether blank has followed it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

MOST_TOKENS = 2000
"""Of a vocabulary: the bigram has as many numbers as the square of that, and is a file of lines."""

Weighted = tuple[Sequence[int], float]


def token_bigram(sequences: Iterable[Weighted], vocab_size: int) -> Tensor:
    """Probabilities of each token after each, smoothed as by Witten and Bell (1991).

    Args:
        sequences: token ids (1 to vocab_size) and how often they count.
        vocab_size: pieces.

    Returns:
        float32 [vocab_size + 1, vocab_size + 1]: row u is after token u, 0 after the start; column
        0 is the end. Every row adds up to 1 and none has a zero.
    """
    counts = torch.zeros(vocab_size + 1, vocab_size + 1, dtype=torch.float64)
    for ids, weight in sequences:
        path = torch.tensor([0, *ids, 0])
        at = (path[:-1], path[1:])
        counts.index_put_(at, torch.full((len(path) - 1,), weight).double(), accumulate=True)
    unigram = (counts.sum(0) + 1.0) / (counts.sum() + vocab_size + 1.0)
    followers = (counts > 0).sum(1, keepdim=True).clamp(min=1)
    return ((counts + followers * unigram) / (counts.sum(1, keepdim=True) + followers)).float()


def bigram_arpa(bigram: Tensor, tokens: Sequence[str]) -> str:
    """The bigram as an ARPA file over tokens, for a search with `lm_unit="token"`.

    Args:
        bigram: of `token_bigram`.
        tokens: by id, `<blank>` first and the pieces after it.
    """
    logs = bigram.double().log10().tolist()
    pieces = range(1, len(bigram))
    lines = ["\\data\\", f"ngram 1={len(pieces) + 2}", f"ngram 2={len(logs) ** 2}", ""]
    # Every pair is listed, so what single tokens have, and what backs off to them, is never asked.
    lines += ["\\1-grams:", "-99\t<s>\t0", "-2\t</s>"]
    lines += [f"-2\t{tokens[i]}\t0" for i in pieces]
    lines += ["", "\\2-grams:"]
    names = ["</s>", *(tokens[i] for i in pieces)]
    for row, first in zip(logs, ["<s>", *names[1:]], strict=True):
        lines += [f"{value:.6f}\t{first} {name}" for value, name in zip(row, names, strict=True)]
    return "\n".join([*lines, "", "\\end\\", ""])


def ctc_crf_loss_sum(
    ctc: Tensor,
    log_probs: Tensor,
    lengths: Tensor,
    tokens: Tensor,
    token_lengths: Tensor,
    bigram: Tensor,
) -> Tensor:
    """-ln p(y | x) summed over a batch, in nats.

    Args:
        ctc: CTC's loss of the same, summed; where a transcript has no path it counts 0 there, as
            its utterance does here.
        log_probs: float32 [batch, frames, vocab_size + 1], blank at 0; a constant added to a frame
            changes nothing.
        lengths: int64 [batch].
        tokens: int64 [batch, max_tokens].
        token_lengths: int64 [batch].
        bigram: of `token_bigram`.
    """
    places = torch.arange(tokens.size(1), device=tokens.device)[1:]
    repeated = (tokens[:, 1:] == tokens[:, :-1]) & (places < token_lengths.unsqueeze(1))
    possible = (token_lengths + repeated.sum(1)) <= lengths
    rest = log_partition(log_probs, lengths, bigram) - _log_prior(tokens, token_lengths, bigram)
    return ctc + (rest * possible).sum().to(ctc.dtype)


def log_partition(log_probs: Tensor, lengths: Tensor, bigram: Tensor) -> Tensor:
    """ln of the sum over all token sequences and their paths, float32 [batch].

    In float32 whatever autocast is around it, as products of halves lose masses. Its gradient is
    the share of the paths' mass that is on an output in a frame (the forward-backward algorithm;
    Baum et al. 1970), found along with the sum: a recursion that PyTorch records and differentiates
    has several times as many operations, and on a GPU it is their number that takes time. There is
    no second derivative. Arguments as of `ctc_crf_loss_sum`.
    """
    with torch.autocast(log_probs.device.type, enabled=False):
        total: Tensor = _LogPartition.apply(log_probs.float(), lengths, bigram)
    return total


class _LogPartition(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_probs: Tensor, lengths: Tensor, bigram: Tensor) -> Tensor:
        total, shares = _sum_and_shares(log_probs, lengths, bigram, ctx.needs_input_grad[0])
        if shares is not None:
            ctx.save_for_backward(shares)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (shares,) = ctx.saved_tensors
        return gradient.view(-1, 1, 1) * shares, None, None


def _sum_and_shares(
    log_probs: Tensor, lengths: Tensor, bigram: Tensor, with_shares: bool
) -> tuple[Tensor, Tensor | None]:
    """ln of the sum [batch], and if wanted each output's share [batch, frames, outputs]."""
    places = torch.arange(log_probs.size(1), device=log_probs.device)
    live = places < lengths.unsqueeze(1)
    # Beyond the end blank has weight 1 and tokens 0, which changes no sum.
    log_probs = log_probs.masked_fill(~live.unsqueeze(2), 0.0)
    most = log_probs.amax(2, keepdim=True)
    outputs = (log_probs - most).exp().transpose(0, 1)
    # Frames from the last on, those beyond the end where they are; its own inverse.
    turned = torch.where(live, lengths.unsqueeze(1) - 1 - places, places).t()
    frames, batch, size = outputs.shape
    weights = outputs.new_empty(frames, 2 if with_shares else 1, batch, size + 1)
    weights[:, 0, :, -1] = outputs[:, :, 0]
    weights[:, 0, :, :-1] = outputs * live.t().unsqueeze(2)
    weights[:, 0, :, 0] = 0.0
    if with_shares:
        weights[:, 1] = _turn(weights[:, 0], turned)
    passes = _run(weights, bigram)
    ends = passes.following[-1, 0, :, 0].double().log() + passes.scales[:, 0].double().log().sum(0)
    total = (ends + most.squeeze(2).double().sum(1)).float()
    if not with_shares:
        return total, None
    # What arrives at a frame, times its weight, times what can follow.
    mass = passes.arriving[:, 0] * weights[:, 0, :, :-1] * _turn(passes.arriving[:, 1], turned)
    on_blank = (passes.last[:-1] * _turn(passes.following[:-1, 1], turned)).sum(2)
    mass[:, :, 0] = on_blank * weights[:, 0, :, -1]
    shares = mass / mass.sum(2, keepdim=True)
    return total, shares.transpose(0, 1) * live.unsqueeze(2)


@dataclass(frozen=True)
class _Passes:
    """The recursion of `_run` before each frame; "passes" is 2 with the backward pass, else 1."""

    following: Tensor
    """G [frames + 1, passes, batch, outputs]; token 0 is the end forward, the start backward."""
    arriving: Tensor
    """G + (1 - P(k|k)) s [frames, passes, batch, outputs]."""
    last: Tensor
    """Forward mass by the last token, 0 for none yet [frames + 1, batch, outputs]."""
    scales: Tensor
    """What each frame's weights were divided by [frames, passes, batch]."""


def _run(weights: Tensor, bigram: Tensor) -> _Passes:
    """The forward pass, and beside it the backward pass, as one recursion over frames.

    With the weight w of token k and of blank in a frame, s is the mass of paths that are on k, and
    G what the bigram P gives token k next, summed over all paths:

        s' = w_k (G + (1 - P(k|k)) s),    G' = w_blank G + sum over u of s'_u P(k|u)

    since a path stays on k, or gets to k by the bigram, and from k to another k only by way of
    blank. Backward, from the last frame on, s and G are masses of the frames after it, which obey
    the same with P transposed. So that nothing leaves float32's range, a frame's weights are
    divided by the sum of G.

    Args:
        weights: [frames, passes, batch, outputs + 1], of tokens (0 at 0), and last of blank; they
            come back divided.
        bigram: of `token_bigram`.
    """
    frames, passes, batch, size = weights[..., 1:].shape
    moves = torch.stack([bigram, bigram.t()][:passes])
    stays = 1.0 - bigram.diagonal()
    following = weights.new_empty(frames + 1, passes, batch, size)
    following[0] = torch.stack([bigram[0], bigram[:, 0]][:passes]).unsqueeze(1)
    arriving = torch.empty_like(following[1:])
    last = weights.new_zeros(frames + 1, batch, size)
    last[0, :, 0] = 1.0
    scales = weights.new_empty(frames, passes, batch, 1)
    on_token = torch.zeros_like(following[0])
    # Views are made once for all frames, as each costs about as much as a small product.
    of_frames = (
        x.unbind() for x in (weights, weights[..., :-1], weights[..., -1:], scales, arriving)
    )
    g, masses, forward = following.unbind(), last.unbind(), weights[:, 0, :, -1:].unbind()
    for t, (both, token, blank, scale, arrived) in enumerate(zip(*of_frames, strict=True)):
        torch.sum(g[t], 2, keepdim=True, out=scale)
        both.div_(scale)
        torch.addcmul(g[t], stays, on_token, out=arrived)
        torch.mul(arrived, token, out=on_token)
        torch.mul(g[t], blank, out=g[t + 1])
        g[t + 1].baddbmm_(on_token, moves)
        if passes == 2:
            torch.addcmul(on_token[0], masses[t], forward[t], out=masses[t + 1])
    return _Passes(following, arriving, last, scales.squeeze(3))


def _turn(x: Tensor, turned: Tensor) -> Tensor:
    """[frames, batch, size] in the order of `turned` [frames, batch]."""
    return x.gather(0, turned.unsqueeze(2).expand(x.shape))


def _log_prior(tokens: Tensor, token_lengths: Tensor, bigram: Tensor) -> Tensor:
    """ln P of each transcript, float32 [batch]."""
    steps = torch.arange(tokens.size(1) + 1, device=tokens.device)
    read = F.pad(tokens, (1, 0))
    said = F.pad(tokens, (0, 1)).masked_fill(steps == token_lengths.unsqueeze(1), 0)
    logs = bigram[read, said].log()
    return (logs * (steps <= token_lengths.unsqueeze(1))).sum(1)
