"""Evaluation during training: losses, whether the decoder listens, WER of each mode."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from voxformer.config import RunConfig, Stage
from voxformer.data.loader import Batch, decode_all, iterate_batches
from voxformer.data.manifest import Utterance, spread
from voxformer.data.sampler import BucketingSampler
from voxformer.decoding import Hypothesis
from voxformer.evaluation.wer import align_words, band, total
from voxformer.model.voxformer import VoxFormer
from voxformer.runtime.options import DecodingOptions, Mode, Vocabulary
from voxformer.runtime.recognise import decode, encode
from voxformer.runtime.torch_engine import TorchEngine
from voxformer.text import normalise
from voxformer.training import setup
from voxformer.training.ctc_crf import ctc_crf_loss_sum
from voxformer.training.objectives import (
    Objective,
    PretrainObjective,
    ctc_loss_sum,
    decoder_loss_sum,
)
from voxformer.training.symptoms import AttentionMeter, BlankMeter, mode_symptoms

logger = logging.getLogger("voxformer.training")

NOTHING_READABLE = "no evaluation: not one validation utterance could be read"

NUM_SAMPLES = 8

MODES_BY_STAGE: dict[Stage, tuple[Mode, ...]] = {
    Stage.PRETRAIN: (),
    Stage.CTC: ("ctc_greedy", "ctc_beam"),
    Stage.ATTENTION: ("attention", "rescoring"),
    Stage.HYBRID: ("ctc_greedy", "ctc_beam", "attention", "rescoring"),
}


@dataclass(frozen=True)
class ValidationResult:
    """One evaluation.

    Attributes:
        row: for `metrics.jsonl`.
        score: what `best.pt` minimises: the stage's WER, or its loss in pre-training.
        summary: one line for the log.
        samples: a few utterances, the same in every evaluation: id, reference, hypotheses by mode
            (both normalised), and the recording's path.
    """

    row: dict[str, Any]
    score: float
    summary: str
    samples: list[dict[str, Any]] = field(default_factory=list)


class Validator:
    """Evaluates a run on its validation set."""

    def __init__(
        self,
        config: RunConfig,
        module: nn.Module,
        objective: Objective,
        vocabulary: setup.Vocabulary,
        utterances: list[Utterance],
        token_rate: float | None,
        device: torch.device,
    ) -> None:
        self.config, self.module, self.objective = config, module, objective
        self.vocabulary, self.device = vocabulary, device
        self.utterances = utterances
        self.cache = decode_all(utterances, config.model.sample_rate) if utterances else None
        self.token_rate = token_rate
        allowed = MODES_BY_STAGE[config.stage]
        # In a fixed order, without repeats: the last one (of CTC the first) chooses best.pt.
        self.modes: list[Mode] = [m for m in allowed if m in config.decoding.eval_modes]
        if allowed and not self.modes:
            self.modes = [allowed[0]]

    def run(self, averaged: dict[str, Tensor] | None) -> ValidationResult | None:
        """Evaluate the averaged weights if given, else the module's own; None without a set."""
        if not self.utterances:
            return None
        with self._evaluating(averaged), torch.no_grad():
            if isinstance(self.objective, PretrainObjective):
                return self._pretraining(self.objective)
            assert isinstance(self.module, VoxFormer)
            return self._supervised(self.module)

    @contextmanager
    def _evaluating(self, averaged: dict[str, Tensor] | None) -> Iterator[None]:
        """Evaluation mode with the averaged weights in place; restores what was there."""
        was_training = self.module.training
        own = None
        if averaged is not None:
            own = {name: value.clone() for name, value in self.module.state_dict().items()}
            self.module.load_state_dict(averaged)
        self.module.eval()
        try:
            yield
        finally:
            if own is not None:
                self.module.load_state_dict(own)
            self.module.train(was_training)

    def _batches(self) -> Iterator[Batch]:
        training = self.config.training
        durations = [u.duration for u in self.utterances]
        sampler = BucketingSampler(
            durations, training.batch_size, training.batch_seconds_limit, seed=0
        )
        batches = iterate_batches(
            self.utterances,
            self.vocabulary.tokenizer,
            sampler,
            epoch=0,
            sample_rate=self.config.model.sample_rate,
            cache=self.cache,
        )
        for batch in batches:
            for utterance_id, reason in batch.bad:
                logger.warning("validation utterance %s skipped: %s", utterance_id, reason)
            if len(batch):
                yield batch

    def _pretraining(self, objective: PretrainObjective) -> ValidationResult | None:
        torch.manual_seed(0)  # the noise on masked frames: the same in every evaluation
        of_training = objective.counts.clone()
        objective.counts.zero_()
        sums = {"loss": 0.0, "masked_accuracy": 0.0}
        masked = 0.0
        for batch in self._batches():
            masked += objective.weigh(batch)["masked"]
            share = objective.share(batch, {"masked": 1.0}, 0.0)
            for key, value in share.terms.items():
                sums[key] += value
        statistics = objective.epoch_summary()
        objective.counts.copy_(of_training)
        if masked == 0.0:
            logger.warning(NOTHING_READABLE)
            return None
        row = {**{key: value / masked for key, value in sums.items()}, **statistics}
        summary = (
            f"validation loss {row['loss']:.3f}, masked accuracy {row['masked_accuracy']:.1%} "
            f"(majority class {row['majority_share']:.1%})"
        )
        return ValidationResult(row, row["loss"], summary)

    def _supervised(self, model: VoxFormer) -> ValidationResult | None:
        losses = _Losses(self.config.stage, self.vocabulary.bigram)
        engine = TorchEngine(model)
        options = DecodingOptions.from_mapping(
            {
                **self.config.decoding.model_dump(),
                "max_tokens_per_second": self.token_rate,
            }
        )
        if self.vocabulary.token_lm is not None:
            # What CTC-CRF was trained with, without which its scores say little.
            path = str(self.vocabulary.token_lm)
            options = replace(options, language_model=path, lm_unit="token", lm_weight=1.0)
        vocabulary = Vocabulary.from_tokens(self.vocabulary.tokens)
        ids: list[str] = []
        references: list[str] = []
        reference_tokens: list[list[int]] = []
        best: dict[Mode, list[Hypothesis]] = {mode: [] for mode in self.modes}
        for batch in self._batches():
            encoded = encode(engine, batch.waveforms.numpy(), batch.waveform_lengths.numpy())
            losses.add(model, encoded.encoder_out, encoded.lengths, encoded.log_probs, batch)
            ids += batch.ids
            references += [normalise(text) for text in batch.texts]
            reference_tokens += [
                row[:length].tolist()
                for row, length in zip(batch.tokens, batch.token_lengths, strict=True)
            ]
            seconds = (batch.waveform_lengths / self.config.model.sample_rate).tolist()
            for mode in self.modes:
                n_best = decode(engine, encoded, seconds, mode, options, vocabulary)
                best[mode] += [found[0] for found in n_best]
        if not references:
            logger.warning(NOTHING_READABLE)
            return None
        row: dict[str, Any] = losses.means()
        shown = [f"{key} {row[key]:.3f}" for key in ("ctc", "crf", "ce") if key in row]
        wers: dict[str, float] = {}
        hypotheses = {mode: [normalise(h.text) for h in best[mode]] for mode in self.modes}
        for mode in self.modes:
            counts = total([a.counts for a in align_words(references, hypotheses[mode])])
            wers[mode] = counts.wer
            row[f"wer_{mode}"] = counts.wer
            row[f"insertions_{mode}"] = counts.insertions
            row[f"band_{mode}"] = band(counts.wer)
            row |= mode_symptoms(mode, ids, best[mode], reference_tokens)
            shown.append(f"WER {mode} {counts.wer:.2%} ({band(counts.wer)})")
        main = self.modes[-1] if self.config.stage is not Stage.CTC else self.modes[0]
        score = wers[main] if math.isfinite(wers[main]) else math.inf
        summary = "validation " + ", ".join(shown)
        samples = self._samples(ids, references, hypotheses)
        return ValidationResult(row, score, summary, samples)

    def _samples(
        self, ids: list[str], references: list[str], hypotheses: dict[Mode, list[str]]
    ) -> list[dict[str, Any]]:
        """Utterances spread evenly over the validation set, in its order."""
        place = {utterance_id: index for index, utterance_id in enumerate(ids)}
        heard = [u for u in self.utterances if u.id in place]
        return [
            {
                "id": utterance.id,
                "reference": references[place[utterance.id]],
                "hypotheses": {mode: hypotheses[mode][place[utterance.id]] for mode in self.modes},
                "audio": str(utterance.audio_path),
            }
            for utterance in spread(heard, NUM_SAMPLES)
        ]


class _Losses:
    """Validation losses, in nats per target token."""

    def __init__(self, stage: Stage, bigram: Tensor | None = None) -> None:
        self.bigram = bigram
        self.with_ctc = stage is not Stage.ATTENTION
        self.with_decoder = stage in (Stage.ATTENTION, Stage.HYBRID)
        self.sums: dict[str, tuple[float, float]] = {}
        self.blank, self.attention = BlankMeter(), AttentionMeter()

    def add(
        self, model: VoxFormer, memory: Tensor, lengths: Any, log_probs: Any, batch: Batch
    ) -> None:
        """Add one batch of `VoxFormer.encode`."""
        device = memory.device
        frame_lengths = torch.as_tensor(lengths).to(device)
        tokens, token_lengths = batch.tokens.to(device), batch.token_lengths.to(device)
        num_tokens = float(token_lengths.sum())
        if self.with_ctc:
            scores = torch.as_tensor(log_probs).to(device)
            ctc = ctc_loss_sum(scores, frame_lengths, tokens, token_lengths)
            self._count("ctc", float(ctc), num_tokens)
            if self.bigram is not None:
                bigram = self.bigram.to(device)
                crf = ctc_crf_loss_sum(ctc, scores, frame_lengths, tokens, token_lengths, bigram)
                self._count("crf", float(crf), num_tokens)
            self.blank.add(log_probs, lengths)
        if self.with_decoder:
            arguments = (tokens, token_lengths, 0.0)
            ce, correct = decoder_loss_sum(model, memory, frame_lengths, *arguments)
            self.attention.add(model, memory, frame_lengths, tokens, token_lengths)
            num_targets = num_tokens + len(batch)
            self._count("ce", float(ce), num_targets)
            self._count("token_accuracy", correct, num_targets)
            if len(batch) > 1:
                # A decoder that listens does much worse on somebody else's speech.
                other_out, other_lengths = memory.roll(1, 0), frame_lengths.roll(1, 0)
                shuffled, _ = decoder_loss_sum(model, other_out, other_lengths, *arguments)
                self._count("ce_shuffled", float(shuffled), num_targets)

    def means(self) -> dict[str, Any]:
        """Each loss over the tokens that it was summed over, and what the watch looks at."""
        means = {key: value / max(1.0, over) for key, (value, over) in self.sums.items()}
        return {**means, **self.blank.row(), **self.attention.row()}

    def _count(self, key: str, value: float, over: float) -> None:
        sum_so_far, count = self.sums.get(key, (0.0, 0.0))
        self.sums[key] = (sum_so_far + value, count + over)
