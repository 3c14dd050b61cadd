"""What the loss is made of, and that a step does not depend on how it is cut into micro-batches."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from voxformer.config import AugmentConfig
from voxformer.data.checks import screen
from voxformer.data.loader import Batch, iterate_batches
from voxformer.data.manifest import read_manifest
from voxformer.data.sampler import BucketingSampler
from voxformer.model import bestrq
from voxformer.model.voxformer import VoxFormer
from voxformer.text import train_tokenizer
from voxformer.training.ctc_crf import token_bigram
from voxformer.training.loop import train
from voxformer.training.objectives import (
    Objective,
    PretrainObjective,
    SupervisedObjective,
    consistency_sum,
    ctc_loss_sum,
    decoder_loss_sum,
)
from voxformer.training.optim import (
    WeightAverage,
    ctc_weight_at,
    learning_rate,
    schedule_step,
)


def batches(config, folder: Path, size: int) -> list[Batch]:  # type: ignore[no-untyped-def]
    utterances = read_manifest(config.data.train_manifest)
    tokenizer = train_tokenizer([u.text for u in utterances], 18, folder)
    kept = screen(utterances, tokenizer, config.data).kept[:8]
    sampler = BucketingSampler([u.duration for u in kept], size, None, seed=1)
    return list(iterate_batches(kept, tokenizer, sampler, epoch=0))


@pytest.mark.parametrize("ctc_weight", [1.0, 0.5, 0.0])
def test_accumulated_gradients_equal_one_batch(
    make_config, tmp_path: Path, ctc_weight: float
) -> None:  # type: ignore[no-untyped-def]
    config = make_config("hybrid")
    config.model.dropout = 0.0
    torch.manual_seed(0)
    model = VoxFormer(config.model)
    objective = SupervisedObjective(
        model, torch.device("cpu"), AugmentConfig(), 0.1, cr_ctc_weight=0.2, inter_ctc_weight=0.3
    )
    whole = accumulated(model, objective, batches(config, tmp_path, 8), ctc_weight)
    parts = batches(config, tmp_path, 3)
    assert len({int(batch.token_lengths.sum()) for batch in parts}) == 3  # means would be unequal
    assert_same_step(whole, accumulated(model, objective, parts, ctc_weight))


def test_accumulated_pretraining_equals_one_batch(
    make_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    config = make_config("pretrain")
    config.model.dropout = 0.0
    monkeypatch.setattr(bestrq, "NOISE_STD", 0.0)  # drawn for a batch, not for an utterance
    module = bestrq.BestRq(config.model, config.pretrain, seed=0)
    objective = PretrainObjective(module, config.pretrain, torch.device("cpu"))
    whole = accumulated(module, objective, batches(config, tmp_path, 8), 0.0)
    assert_same_step(whole, accumulated(module, objective, batches(config, tmp_path, 3), 0.0))


Step = tuple[dict[str, float], dict[str, torch.Tensor]]


def accumulated(
    module: torch.nn.Module, objective: Objective, groups: list[Batch], ctc_weight: float
) -> Step:
    """Terms and gradients of a step with these micro-batches."""
    totals: dict[str, float] = {}
    for batch in groups:
        for key, value in objective.weigh(batch).items():
            totals[key] = totals.get(key, 0.0) + value
    module.zero_grad()
    terms: dict[str, float] = {}
    for batch in groups:
        share = objective.share(batch, totals, ctc_weight)
        share.loss.backward()  # type: ignore[no-untyped-call]
        for key, value in share.terms.items():
            terms[key] = terms.get(key, 0.0) + value
    return terms, {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def assert_same_step(whole: Step, parts: Step) -> None:
    assert parts[0] == pytest.approx(whole[0], rel=1e-4)
    assert parts[1].keys() == whole[1].keys()
    for name, value in whole[1].items():
        torch.testing.assert_close(value, parts[1][name], atol=2e-5, rtol=2e-3)


@pytest.mark.parametrize("weight", [0.5, [0.7, 0.3]])
def test_every_logged_loss_is_the_weighted_sum_of_its_terms(
    make_config, tmp_path: Path, weight: object
) -> None:  # type: ignore[no-untyped-def]
    config = make_config("hybrid", log_interval=1, cr_ctc_weight=0.2, inter_ctc_weight=0.3)
    config.model.ctc_weight = weight
    assert train(config, "run") == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    rows = [row for row in rows if row["type"] == "train"]
    assert len(rows) >= 12
    for row in rows:
        w = row["ctc_weight"]
        ctc = 0.7 * row["ctc"] + 0.3 * row["inter_ctc"]
        expected = w * ctc + (1 - w) * row["ce"] + 0.2 * row["cr"]
        assert row["loss"] == pytest.approx(expected, rel=1e-4)
    first, last = (0.7, 0.3) if isinstance(weight, list) else (0.5, 0.5)
    assert rows[0]["ctc_weight"] == pytest.approx(first)
    assert rows[-1]["ctc_weight"] == pytest.approx(last)


def test_ctc_loss_equals_a_sum_over_alignments() -> None:
    torch.manual_seed(0)
    log_probs = torch.randn(1, 4, 3).log_softmax(-1)
    target = (1, 2)
    total = torch.tensor(0.0)
    for path in torch.cartesian_prod(*[torch.arange(3)] * 4).tolist():
        merged = [t for i, t in enumerate(path) if i == 0 or path[i - 1] != t]
        if tuple(t for t in merged if t) == target:
            total += sum(log_probs[0, i, t] for i, t in enumerate(path)).exp()
    loss = ctc_loss_sum(log_probs, torch.tensor([4]), torch.tensor([target]), torch.tensor([2]))
    torch.testing.assert_close(loss, -total.log())


def test_padding_does_not_change_a_loss(make_config) -> None:  # type: ignore[no-untyped-def]
    model = VoxFormer(make_config("hybrid").model).eval()
    torch.manual_seed(0)
    encoder_out = torch.randn(1, 9, 32)
    tokens = torch.tensor([[3, 4]])
    with torch.no_grad():
        alone = decoder_loss_sum(
            model, encoder_out, torch.tensor([9]), tokens, torch.tensor([2]), 0.1
        )
        padded = decoder_loss_sum(
            model,
            torch.cat([encoder_out, torch.randn(1, 5, 32)], 1),
            torch.tensor([9]),
            torch.tensor([[3, 4, 7, 9]]),
            torch.tensor([2]),
            0.1,
        )
    torch.testing.assert_close(alone[0], padded[0])
    assert alone[1] == padded[1]


def test_input_noise_changes_what_the_decoder_reads_and_not_what_it_predicts(
    make_config, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    model = VoxFormer(make_config("hybrid").model).eval()
    tokens = torch.randint(1, model.sos_eos_id, (4, 50))
    lengths = torch.full((4,), 50)
    seen: dict[str, torch.Tensor] = {}
    forward = model.decoder.forward

    def remember(memory, encoder_lengths, inputs):  # type: ignore[no-untyped-def]
        seen["inputs"] = inputs
        return forward(memory, encoder_lengths, inputs)

    def remember_targets(logits, targets, **options):  # type: ignore[no-untyped-def]
        seen["targets"] = targets
        return nll_loss(logits, targets, **options)

    nll_loss = torch.nn.functional.nll_loss
    monkeypatch.setattr(model.decoder, "forward", remember)
    monkeypatch.setattr(torch.nn.functional, "nll_loss", remember_targets)
    encoder_out = torch.randn(4, 9, 32)
    with torch.no_grad():
        decoder_loss_sum(model, encoder_out, torch.full((4,), 9), tokens, lengths, 0.1, 0.3)
    assert (seen["inputs"][:, 0] == model.sos_eos_id).all()
    changed = (seen["inputs"][:, 1:] != tokens).float().mean()
    assert 0.15 < float(changed) < 0.4
    assert 1 <= int(seen["inputs"][:, 1:].min()) <= int(seen["inputs"][:, 1:].max())
    assert int(seen["inputs"][:, 1:].max()) < model.sos_eos_id
    torch.testing.assert_close(seen["targets"].reshape(4, -1)[:, :-1], tokens)


def test_smoothed_target_gives_the_blank_nothing(make_config) -> None:  # type: ignore[no-untyped-def]
    model = VoxFormer(make_config("hybrid").model).eval()
    tokens = torch.tensor([[3, 4, 3], [5, 0, 0]])
    seen: dict[str, torch.Tensor] = {}
    forward = model.decoder.forward

    def remember(*arguments):  # type: ignore[no-untyped-def]
        seen["logits"] = forward(*arguments)
        seen["logits"].retain_grad()
        return seen["logits"]

    model.decoder.forward = remember
    memory, frames = torch.randn(2, 9, 32), torch.tensor([9, 7])
    decoder_loss_sum(model, memory, frames, tokens, torch.tensor([3, 1]), 0.1)[0].backward()
    # The gradient of cross-entropy at the logits is the softmax less the target.
    gradient = seen["logits"].grad
    assert gradient is not None
    target = seen["logits"].softmax(-1) - gradient
    outputs = target.size(-1)
    for row, labels in ((0, [3, 4, 3, model.sos_eos_id]), (1, [5, model.sos_eos_id])):
        for position, label in enumerate(labels):
            expected = torch.full((outputs,), 0.1 / (outputs - 1))
            expected[0] = 0.0
            expected[label] += 0.9
            torch.testing.assert_close(target[row, position], expected, atol=1e-6, rtol=0)
    assert not gradient[1, 2:].any()


def test_consistency_is_zero_for_equal_views_and_counts_valid_frames_only() -> None:
    torch.manual_seed(0)
    view = torch.randn(2, 6, 5).log_softmax(-1)
    lengths = torch.tensor([6, 4, 6, 4])
    assert float(consistency_sum(torch.cat([view, view]), lengths)) == pytest.approx(0.0, abs=1e-6)
    other = torch.randn(2, 6, 5).log_softmax(-1)
    changed = other.clone()
    changed[1, 4:] = torch.randn(2, 5).log_softmax(-1)
    torch.testing.assert_close(
        consistency_sum(torch.cat([view, other]), lengths),
        consistency_sum(torch.cat([view, changed]), lengths),
    )


def test_consistency_is_half_the_symmetric_kl_divergence_with_detached_targets() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    lengths = [3, 2]
    consistency_sum(logits.log_softmax(-1), torch.tensor(lengths * 2)).backward()
    # The gradient of KL(q ‖ softmax(z)) with q held fixed is softmax(z) - q.
    p = logits.detach().softmax(-1)
    expected = torch.zeros_like(p)
    value = 0.0
    for row, length in enumerate(lengths):
        for t in range(length):
            a, b = p[row, t], p[row + 2, t]
            expected[row, t], expected[row + 2, t] = 0.5 * (a - b), 0.5 * (b - a)
            value += 0.5 * float((a * (a / b).log()).sum() + (b * (b / a).log()).sum())
    torch.testing.assert_close(logits.grad, expected)
    found = float(consistency_sum(logits.detach().log_softmax(-1), torch.tensor(lengths * 2)))
    assert found == pytest.approx(value)


def test_the_two_views_have_vocal_tracts_of_their_own(make_config, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    config = make_config("hybrid")
    unmasked = AugmentConfig().model_copy(
        update={
            "spec_augment": AugmentConfig().spec_augment.model_copy(
                update={"frequency_masks": 0, "time_masks": 0}
            )
        }
    )
    batch = batches(config, tmp_path, 8)[0]
    for low, high, differ in ((0.8, 1.25, True), (1.1, 1.1, False)):
        augment = unmasked.model_copy(update={"vocal_tract": [low, high]})
        objective = SupervisedObjective(
            VoxFormer(config.model), torch.device("cpu"), augment, 0.1, cr_ctc_weight=0.2
        )
        features, lengths = objective._features(batch, True, 1.0)
        first, second = features.chunk(2)
        assert torch.equal(*lengths.chunk(2))
        for one, other in zip(first, second, strict=True):
            assert torch.equal(one, other) is not differ
        alone, _ = objective._features(batch, False, 1.0)
        assert torch.equal(alone, first)


def test_a_batch_in_which_nobody_speaks_gives_a_loss_to_learn_from(
    make_config, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    config = make_config("hybrid")
    batch = batches(config, tmp_path, 8)[0]
    silent = replace(
        batch, tokens=batch.tokens[:, :0], token_lengths=torch.zeros_like(batch.token_lengths)
    )
    model = VoxFormer(config.model)
    bigram = token_bigram([([1, 2], 1.0), ([], 1.0)], config.model.vocab_size)
    objective = SupervisedObjective(
        model, torch.device("cpu"), AugmentConfig(), 0.1, 0.2, False, 0.1, 0.3, 0.9, bigram
    )
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    losses = []
    for _ in range(3):
        share = objective.share(silent, objective.weigh(silent), 0.5)
        optimizer.zero_grad()
        share.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        losses.append(share.terms["ctc"])
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[2] < losses[0]


@pytest.mark.parametrize("two_views", [0.0, 0.2])
def test_inter_ctc_is_the_ctc_loss_of_a_network_that_ends_at_an_earlier_block(
    make_config, tmp_path: Path, two_views: float
) -> None:  # type: ignore[no-untyped-def]
    config = make_config("hybrid")
    config.model.dropout = 0.0
    torch.manual_seed(0)
    model = VoxFormer(config.model)
    (batch,) = batches(config, tmp_path, 8)
    features, lengths = model.front_end(batch.waveforms, batch.waveform_lengths)
    ctc = []  # of networks with 1, 2 and 3 blocks
    for count in (1, 2, 3):
        shorter = copy.deepcopy(model)
        shorter.encoder.blocks = shorter.encoder.blocks[:count]
        out, out_lengths = shorter.encoder(features, lengths)
        log_probs = shorter.ctc_log_probs(out)
        loss = ctc_loss_sum(log_probs, out_lengths, batch.tokens, batch.token_lengths)
        ctc.append(float(loss.detach() / batch.token_lengths.sum()))
    objective = SupervisedObjective(
        model, torch.device("cpu"), None, 0.1, cr_ctc_weight=two_views, inter_ctc_weight=0.3
    )
    share = objective.share(batch, objective.weigh(batch), 1.0)
    assert share.terms["ctc"] == pytest.approx(ctc[2], rel=1e-4)
    assert share.terms["inter_ctc"] == pytest.approx((ctc[0] + ctc[1]) / 2, rel=1e-4)
    expected = 0.7 * ctc[2] + 0.3 * (ctc[0] + ctc[1]) / 2
    assert float(share.loss.detach()) == pytest.approx(expected, rel=1e-4)  # equal views: no KL


def test_warm_up_counts_steps_where_the_clock_is_far_ahead(make_config) -> None:  # type: ignore[no-untyped-def]
    config = make_config("ctc", learning_rate=1.0, warmup_steps=10).training
    halfway = learning_rate(55, 100, config)
    assert learning_rate(55, 100, config, made=5) == pytest.approx(0.5 * halfway)
    assert learning_rate(55, 100, config, made=10) == halfway
    assert learning_rate(100, 100, config, made=3) <= 0.01


def test_learning_rate_rises_and_falls(make_config) -> None:  # type: ignore[no-untyped-def]
    config = make_config("ctc", learning_rate=1.0, warmup_steps=10).training
    assert learning_rate(1, 100, config) == pytest.approx(0.1)
    assert learning_rate(10, 100, config) == 1.0
    assert learning_rate(55, 100, config) == pytest.approx(0.505)
    assert learning_rate(100, 100, config) == pytest.approx(0.01)
    config.schedule = "inverse_sqrt"
    assert learning_rate(40, 100, config) == pytest.approx(0.5)


def test_schedules_follow_the_clock_only_where_time_is_short() -> None:
    assert schedule_step(30, 100, 900.0, None) == 30
    assert schedule_step(30, 100, 17.9, max_minutes=1.0) == 30
    assert schedule_step(30, 100, 45.0, max_minutes=1.0) == 75
    assert schedule_step(30, 100, 90.0, max_minutes=1.0) == 100


def test_ctc_weight_is_linear_in_the_step() -> None:
    assert [ctc_weight_at(s, 5, 0.7, 0.3) for s in (1, 3, 5, 9)] == pytest.approx(
        [0.7, 0.5, 0.3, 0.3]
    )


def test_weight_average_follows_its_definition() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(0.0)
    average = WeightAverage(module, decay=0.9)
    expected = 0.0
    for step in range(1, 30):
        module.weight.data.fill_(float(step))
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(average.state_dict()["weight"]) == pytest.approx(expected, rel=1e-5)
