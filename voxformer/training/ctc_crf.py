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

    In float32 whatever the precision around it, as products of halves lose masses. Its gradient is
    the share of the paths' mass that is on an output in a frame (the forward-backward algorithm;
    Baum et al. 1970), found along with the sum: recorded operations would be several times as many,
    and on a GPU it is their number that takes time. It has no second derivative. Arguments as of
    `ctc_crf_loss_sum`.
    """
    with torch.autocast(log_probs.device.type, enabled=False):
        total: Tensor = _LogPartition.apply(log_probs.float(), lengths, bigram)
    return total


class _LogPartition(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_probs: Tensor, lengths: Tensor, bigram: Tensor) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        total, shares = _forward_backward(log_probs, lengths, bigram, wanted)
        if wanted:
            ctx.save_for_backward(shares)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (shares,) = ctx.saved_tensors
        return gradient.view(-1, 1, 1) * shares, None, None


def _forward_backward(
    log_probs: Tensor, lengths: Tensor, bigram: Tensor, backward: bool
) -> tuple[Tensor, Tensor]:
    """The sum, float32 [batch], and with `backward` each output's share [batch, frames, outputs].

    Both passes are one recursion, over frames from the first on with the bigram and from the last
    on with its transpose, so they run as one batch. With the mass s of paths by the token they end
    on, and G of what may come next by the bigram after all paths, ended on blank or not:

        s' = w (G + (1 - P(k | k)) s),    G' = w_blank G + s' P

    since a token repeats itself only with a blank between, and otherwise the path stays on it.
    """
    batch, frames, outputs = log_probs.shape
    places = torch.arange(frames, device=log_probs.device)
    live = places < lengths.unsqueeze(1)
    most = log_probs.amax(2, keepdim=True)
    spoken = (log_probs - most).exp()
    # Beyond the end all is on blank, which changes no sum.
    blank = torch.where(live.unsqueeze(2), spoken[:, :, :1], 1.0)
    spoken = spoken * live.unsqueeze(2)
    spoken[:, :, 0] = 0.0
    weights = torch.cat([spoken, blank], 2)
    # Frames from the last on, those beyond the end where they are; its own inverse.
    turned = torch.where(live, lengths.unsqueeze(1) - 1 - places, places).t()
    passes, first = [weights], [bigram[0]]
    if backward:
        passes.append(_turn(weights.transpose(0, 1), turned).transpose(0, 1))
        first.append(bigram[:, 0])
    moves = torch.stack([bigram, bigram.t()][: len(passes)])
    stays = 1.0 - bigram.diagonal()
    w = torch.stack(passes).permute(2, 0, 1, 3).contiguous()
    following = w.new_empty(frames + 1, len(passes), batch, outputs)
    following[0] = torch.stack(first).unsqueeze(1)
    arriving, here = torch.empty_like(following[1:]), torch.empty_like(following[1:])
    # The mass of all paths by their last token, 0 for none yet.
    ended = w.new_zeros(frames + 1, batch, outputs)
    ended[0, :, 0] = 1.0
    scales = w.new_empty(frames, len(passes), batch, 1)
    before = torch.zeros_like(following[0])
    for t in range(frames):
        torch.sum(following[t], 2, keepdim=True, out=scales[t])
        w[t].div_(scales[t])
        torch.addcmul(following[t], stays, before, out=arriving[t])
        before = torch.mul(arriving[t], w[t, :, :, :-1], out=here[t])
        torch.mul(following[t], w[t, :, :, -1:], out=following[t + 1])
        following[t + 1].baddbmm_(before, moves)
        if backward:
            torch.addcmul(before[0], ended[t], w[t, 0, :, -1:], out=ended[t + 1])
    logs = following[-1, 0, :, 0].double().log() + scales[:, 0, :, 0].double().log().sum(0)
    total = (logs + (most.squeeze(2) * live).double().sum(1)).float()
    if not backward:
        return total, log_probs.new_empty(0)
    mass = arriving[:, 0] * _turn(here[:, 1], turned)
    on_blank = (ended[:-1] * _turn(following[:-1, 1], turned)).sum(2)
    mass[:, :, 0] = on_blank * _turn(w[:, 1, :, -1:], turned).squeeze(2)
    shares = mass / mass.sum(2, keepdim=True)
    return total, shares.transpose(0, 1) * live.unsqueeze(2)


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
