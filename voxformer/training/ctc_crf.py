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

import torch
from torch import Tensor
from torch.nn import functional as F

# What the last frame may be worth at least, so that its logarithm is finite.
_LEAST = 1e-30

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

    In float32 whatever the precision around it, as products of halves lose masses. Linear in the
    frames: each is one product with the bigram (the forward algorithm; Baum et al.
    1970), whose masses are scaled to add up to 1. Arguments as of `ctc_crf_loss_sum`.
    """
    with torch.autocast(log_probs.device.type, enabled=False):
        return _log_partition(log_probs.float(), lengths, bigram)


def _log_partition(log_probs: Tensor, lengths: Tensor, bigram: Tensor) -> Tensor:
    most = log_probs.detach().amax(2, keepdim=True)
    weights = (log_probs - most).exp()
    # A token repeats itself only with a blank between: otherwise the path stays where it is.
    moves = bigram.clone()
    moves.fill_diagonal_(0.0)
    moves[0] = bigram[0]
    repeats = bigram.diagonal()[1:]
    # By the last token, 0 for none yet: mass of the paths that end with blank, and that do not.
    blank = F.one_hot(torch.zeros_like(lengths), bigram.size(0)).to(weights.dtype)
    spoken = torch.zeros_like(blank)[:, 1:]
    scales: list[Tensor] = []
    for t in range(log_probs.size(1)):
        live = (t < lengths).unsqueeze(1)
        either = blank + F.pad(spoken, (1, 0))
        goes_on = (either @ moves)[:, 1:] + blank[:, 1:] * repeats + spoken
        new_spoken, new_blank = weights[:, t, 1:] * goes_on, weights[:, t, :1] * either
        # Any factor is right, so none needs a gradient.
        scale = (new_spoken.sum(1, keepdim=True) + new_blank.sum(1, keepdim=True)).detach()
        scale = torch.where(live, scale.clamp(min=_LEAST), 1.0)
        spoken = torch.where(live, new_spoken / scale, spoken)
        blank = torch.where(live, new_blank / scale, blank)
        scales.append(torch.where(live, scale.log() + most[:, t], 0.0))
    ends = (blank + F.pad(spoken, (1, 0))) @ bigram[:, 0]
    if not scales:
        return ends.log()
    return ends.clamp(min=_LEAST).log() + torch.cat(scales, 1).sum(1)


def _log_prior(tokens: Tensor, token_lengths: Tensor, bigram: Tensor) -> Tensor:
    """ln P of each transcript, float32 [batch]."""
    steps = torch.arange(tokens.size(1) + 1, device=tokens.device)
    read = F.pad(tokens, (1, 0))
    said = F.pad(tokens, (0, 1)).masked_fill(steps == token_lengths.unsqueeze(1), 0)
    logs = bigram[read, said].log()
    return (logs * (steps <= token_lengths.unsqueeze(1))).sum(1)
