"""What each stage optimises.

An objective first says what a micro-batch counts for (`weigh`), then gives that micro-batch's
share of the step's loss, divided by the totals of the whole step. Summed over the step's
micro-batches, gradients are those of one large batch whatever the lengths, and so are the reported
means.

The supervised loss is `ctc_weight·((1 - i)·c + i·inter_ctc) + (1 - ctc_weight)·ce +
cr_ctc_weight·cr` with i = `inter_ctc_weight`, c = (1 - k)·ctc + k·crf and k = `crf_weight`, each
term in nats per target token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxformer.config import AugmentConfig, PretrainConfig
from voxformer.data.augment import perturb_vocal_tract, spec_augment
from voxformer.data.loader import Batch
from voxformer.model.bestrq import BestRq
from voxformer.model.masks import length_mask
from voxformer.model.voxformer import DECODER_PREFIX, VoxFormer
from voxformer.training.ctc_crf import ctc_crf_loss_sum

IGNORED = -100
SECOND_VIEW = 0x5DEECE66D


@dataclass
class Share:
    """One micro-batch's part of a step.

    Attributes:
        loss: to be added up and differentiated.
        terms: reported means, to be added up over the step's micro-batches.
    """

    loss: Tensor
    terms: dict[str, float]


class Objective(Protocol):
    """What the training loop needs of a stage."""

    def weigh(self, batch: Batch) -> dict[str, float]:
        """What the batch adds to each denominator."""
        ...

    def share(
        self, batch: Batch, totals: dict[str, float], ctc_weight: float, progress: float = 1.0
    ) -> Share:
        """The batch's part of the step's loss, given the step's denominators, CTC's weight and the
        share of the run's schedule that is behind."""
        ...

    def epoch_summary(self, add: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """Statistics gathered since the last call; `add` sums a CPU tensor over processes."""
        ...


class PretrainObjective:
    """Stage 1: BEST-RQ's cross-entropy over masked frames."""

    def __init__(self, module: BestRq, config: PretrainConfig, device: torch.device) -> None:
        self.module = module
        self.device = device
        self.counts = torch.zeros(config.num_codebooks, config.codebook_size, dtype=torch.int64)

    def weigh(self, batch: Batch) -> dict[str, float]:
        """See `Objective.weigh`."""
        # Masks are drawn from seeds, so their number is known before the forward pass.
        lengths = self.module.front_end.frame_lengths(batch.waveform_lengths)
        frames = -(-int(lengths.max()) // 4) if len(batch) else 0
        return {"masked": float(self.module.mask(lengths, frames, batch.seeds).sum())}

    def share(
        self, batch: Batch, totals: dict[str, float], ctc_weight: float, progress: float = 1.0
    ) -> Share:
        """See `Objective.share`."""
        output = self.module(
            batch.waveforms.to(self.device), batch.waveform_lengths.to(self.device), batch.seeds
        )
        self.counts += output.label_counts.cpu()
        loss = output.loss / max(1.0, totals["masked"])
        accuracy = output.correct / max(1.0, totals["masked"])
        return Share(loss, {"loss": float(loss.detach()), "masked_accuracy": accuracy})

    def epoch_summary(self, add: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """Share of the codebook in use, its perplexity, and the majority class's share."""
        if add is not None:
            self.counts = add(self.counts)
        totals = self.counts.sum(1, keepdim=True).clamp(min=1)
        share = self.counts / totals
        entropy = -(share * share.clamp(min=1e-12).log()).sum(1)
        summary = {
            "codebook_usage": float((self.counts > 0).float().mean()),
            "codebook_perplexity": float(entropy.exp().mean()),
            "majority_share": float(share.max(1).values.mean()),
        }
        self.counts.zero_()
        return summary


class SupervisedObjective:
    """Stages 2 to 4: CTC, attention cross-entropy, or both.

    Args:
        model: the network.
        device: where it is.
        augment: what is done to features; None for nothing.
        label_smoothing: of the cross-entropy.
        decoder_input_noise: share of the decoder's input tokens that are replaced.
        inter_ctc_weight: share of CTC's loss that is of the encoder's blocks before the last.
        cr_ctc_weight: weight of the consistency between two views (CR-CTC); 0 for one view.
        freeze_encoder: stage 3; the encoder runs in evaluation mode and without gradients.
        crf_weight: share of CTC-CRF's loss in CTC's.
        bigram: of the transcripts' tokens, see `ctc_crf.token_bigram`; None without CTC-CRF.
    """

    def __init__(
        self,
        model: VoxFormer,
        device: torch.device,
        augment: AugmentConfig | None,
        label_smoothing: float,
        cr_ctc_weight: float = 0.0,
        freeze_encoder: bool = False,
        decoder_input_noise: float = 0.0,
        inter_ctc_weight: float = 0.0,
        crf_weight: float = 0.0,
        bigram: Tensor | None = None,
    ) -> None:
        if crf_weight > 0.0 and bigram is None:
            raise ValueError(f"crf_weight is {crf_weight}, which needs a bigram of the tokens")
        self.model = model
        self.device = device
        self.augment = augment
        self.label_smoothing = label_smoothing
        self.decoder_input_noise = decoder_input_noise
        self.cr_ctc_weight = cr_ctc_weight
        self.inter_ctc_weight = inter_ctc_weight
        self.freeze_encoder = freeze_encoder
        self.crf_weight = crf_weight
        self.bigram = None if bigram is None else bigram.to(device)

    def weigh(self, batch: Batch) -> dict[str, float]:
        """See `Objective.weigh`."""
        return {
            "tokens": float(batch.token_lengths.sum()),
            "tokens_and_ends": float(batch.token_lengths.sum() + len(batch)),
        }

    def share(
        self, batch: Batch, totals: dict[str, float], ctc_weight: float, progress: float = 1.0
    ) -> Share:
        """See `Objective.share`."""
        two_views = self.cr_ctc_weight > 0.0 and ctc_weight > 0.0 and not self.freeze_encoder
        tokens = batch.tokens.to(self.device)
        token_lengths = batch.token_lengths.to(self.device)
        features, lengths = self._features(batch, two_views, progress)
        if two_views:
            tokens, token_lengths = tokens.repeat(2, 1), token_lengths.repeat(2)
        views = 2.0 if two_views else 1.0
        between: list[Tensor] | None = None
        if self.freeze_encoder:
            self.model.encoder.eval()
            with torch.no_grad():
                encoder_out, out_lengths = self.model.encoder(features, lengths)
        else:
            between = [] if self.inter_ctc_weight > 0.0 and ctc_weight > 0.0 else None
            encoder_out, out_lengths = self.model.encoder(features, lengths, between)

        terms: dict[str, float] = {}
        loss = encoder_out.new_zeros((), dtype=torch.float32)
        if ctc_weight > 0.0:
            log_probs = self.model.ctc_log_probs(encoder_out)
            summed = ctc_loss_sum(log_probs, out_lengths, tokens, token_lengths)
            ctc = summed / (views * max(1.0, totals["tokens"]))
            terms["ctc"] = float(ctc.detach())
            if self.crf_weight > 0.0:
                assert self.bigram is not None
                crf = ctc_crf_loss_sum(
                    summed, log_probs, out_lengths, tokens, token_lengths, self.bigram
                ) / (views * max(1.0, totals["tokens"]))
                terms["crf"] = float(crf.detach())
                ctc = torch.lerp(ctc, crf, self.crf_weight)
            if between:
                inter = self._inter_ctc(between, out_lengths, tokens, token_lengths)
                inter = inter / (views * max(1.0, totals["tokens"]))
                terms["inter_ctc"] = float(inter.detach())
                ctc = torch.lerp(ctc, inter, self.inter_ctc_weight)
            loss = loss + ctc_weight * ctc
            if two_views:
                consistency = consistency_sum(log_probs, out_lengths) / max(1.0, totals["tokens"])
                loss = loss + self.cr_ctc_weight * consistency
                terms["cr"] = float(consistency.detach())
        if ctc_weight < 1.0:
            ce, correct = decoder_loss_sum(
                self.model,
                self.model.decoder.memory(encoder_out, out_lengths),
                out_lengths,
                tokens,
                token_lengths,
                self.label_smoothing,
                self.decoder_input_noise,
            )
            denominator = views * max(1.0, totals["tokens_and_ends"])
            ce = ce / denominator
            loss = loss + (1.0 - ctc_weight) * ce
            terms["ce"] = float(ce.detach())
            terms["token_accuracy"] = correct / denominator
        terms["loss"] = float(loss.detach())
        return Share(loss, terms)

    def epoch_summary(self, add: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """Nothing is gathered in the supervised stages."""
        return {}

    def _inter_ctc(
        self, between: list[Tensor], lengths: Tensor, tokens: Tensor, token_lengths: Tensor
    ) -> Tensor:
        """CTC's loss of blocks before the last, summed over the batch, their mean.

        Through the same output layer as the last one's (Lee and Watanabe 2021), so that it adds no
        weight and no name to a checkpoint.
        """
        losses = [
            ctc_loss_sum(self.model.ctc_log_probs(x), lengths, tokens, token_lengths)
            for x in between
        ]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def _features(self, batch: Batch, two_views: bool, progress: float) -> tuple[Tensor, Tensor]:
        waveforms = batch.waveforms.to(self.device)
        features, lengths = self.model.front_end(waveforms, batch.waveform_lengths.to(self.device))
        if self.augment is None:
            views = [features, features] if two_views else [features]
        else:
            seeds = [batch.seeds, batch.seeds ^ SECOND_VIEW] if two_views else [batch.seeds]
            views = [self._view(features, lengths, s, progress) for s in seeds]
        return torch.cat(views), lengths.repeat(len(views))

    def _view(self, features: Tensor, lengths: Tensor, seeds: Tensor, progress: float) -> Tensor:
        """Features in a voice and with masks that the seeds draw."""
        assert self.augment is not None
        low, high = sorted(self.augment.vocal_tract)
        if (low, high) != (1.0, 1.0):
            rate = self.model.front_end.sample_rate
            features = perturb_vocal_tract(features, seeds, (low, high), rate)
        return spec_augment(features, lengths, seeds, self.augment.spec_augment, progress)


def ctc_loss_sum(
    log_probs: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor
) -> Tensor:
    """CTC's negative log-likelihood (Graves et al. 2006) summed over a batch, in nats.

    Args:
        log_probs: float32 [batch, frames, vocab_size + 1], blank at 0.
        lengths: int64 [batch].
        tokens: int64 [batch, max_tokens].
        token_lengths: int64 [batch].
    """
    device = log_probs.device
    if device.type == "cuda" and torch.are_deterministic_algorithms_enabled():
        device = torch.device("cpu")  # CUDA's kernel adds gradients in any order
    loss = F.ctc_loss(
        log_probs.transpose(0, 1).to(device),
        tokens.to(device),
        lengths.to(device),
        token_lengths.to(device),
        blank=0,
        reduction="sum",
        zero_infinity=True,
    )
    return loss.to(log_probs.device)


def consistency_sum(log_probs: Tensor, lengths: Tensor) -> Tensor:
    """CR-CTC's loss (Yao et al. 2024, eq. 4): half the symmetric KL between two views, summed.

    The distribution that is learned from is detached. `log_probs` [2·batch, frames, outputs] holds
    the first views, then the second ones.
    """
    first, second = log_probs.chunk(2)
    mask = length_mask(lengths[: first.size(0)], first.size(1)).unsqueeze(2)
    towards_second = F.kl_div(first, second.detach(), reduction="none", log_target=True)
    towards_first = F.kl_div(second, first.detach(), reduction="none", log_target=True)
    return 0.5 * ((towards_second + towards_first) * mask).sum()


def decoder_loss_sum(
    model: VoxFormer,
    memory: Tensor,
    lengths: Tensor,
    tokens: Tensor,
    token_lengths: Tensor,
    label_smoothing: float,
    input_noise: float = 0.0,
) -> tuple[Tensor, float]:
    """Teacher-forced cross-entropy over tokens and `</s>`, summed, and how many were right.

    Args:
        model: the network.
        memory: float [batch, frames, d_model], of `AttentionDecoder.memory` or `VoxFormer.encode`.
        lengths: int64 [batch], valid frames.
        tokens: int64 [batch, max_tokens].
        token_lengths: int64 [batch].
        label_smoothing: share of the target that is spread evenly over all outputs but `<blank>`,
            which is never one (Szegedy et al. 2016, section 7).
        input_noise: share of the tokens that the decoder reads, but of none that it is to predict,
            that is replaced by pieces drawn evenly.
    """
    boundary = torch.full_like(token_lengths, model.sos_eos_id).unsqueeze(1)
    read = tokens
    if input_noise > 0.0:
        others = torch.randint_like(tokens, 1, model.sos_eos_id)
        replaced = torch.rand(tokens.shape, device=tokens.device) < input_noise
        read = torch.where(replaced, others, tokens)
    inputs = torch.cat([boundary, read], dim=1)
    steps = torch.arange(inputs.size(1), device=tokens.device).unsqueeze(0)
    ends = token_lengths.unsqueeze(1)
    targets = torch.cat([tokens, boundary], dim=1)
    targets = torch.where(steps == ends, boundary, targets)
    targets = targets.masked_fill(steps > ends, IGNORED)
    logits = model.decoder(memory, lengths, inputs).float()
    # Flat, because CUDA's kernel over [batch, classes, time] is not deterministic.
    log_probs, flat = logits.flatten(0, 1).log_softmax(-1), targets.flatten()
    loss = F.nll_loss(log_probs, flat, ignore_index=IGNORED, reduction="sum")
    if label_smoothing > 0.0:
        spread = -(log_probs[:, 1:].mean(1) * (flat != IGNORED)).sum()
        loss = (1.0 - label_smoothing) * loss + label_smoothing * spread
    correct = float((logits.argmax(-1) == targets).sum())
    return loss, correct


def freeze_encoder(model: nn.Module) -> None:
    """Stage 3: only the decoder learns."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith(DECODER_PREFIX)
