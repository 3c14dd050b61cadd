"""`batch_seconds: auto` finds the largest batch that fits, and a resumed run keeps it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from voxformer.config import RunConfig
from voxformer.data.loader import Batch
from voxformer.data.manifest import read_manifest
from voxformer.training.batch_size import (
    CPU_BATCH_SECONDS,
    Trial,
    batch_seconds,
    forward_pass,
    largest,
    made_up_batch,
    make_step,
    search,
)
from voxformer.training.checkpoint import load_checkpoint
from voxformer.training.loop import train
from voxformer.training.memory import bytes_of_optimizer, saved_bytes
from voxformer.training.optim import make_optimizer
from voxformer.training.precision import Precision
from voxformer.training.setup import RunError, Start, build_objective

Maker = Callable[..., RunConfig]
CPU = torch.device("cpu")


def trial_of(config: RunConfig) -> Trial:
    module, objective = build_objective(config, CPU)
    optimizer = make_optimizer(module, config.training)
    return Trial(config, module, objective, optimizer, Precision("fp32", CPU))


def kept(trial: Trial, batch: Batch) -> int:
    return saved_bytes(trial.module, lambda: forward_pass(trial, batch))


@given(st.integers(0, 200), st.integers(1, 100))
def test_the_largest_that_fits_is_found_without_trying_far_more(room: int, limit: int) -> None:
    tried: list[int] = []

    def fits(count: int) -> bool:
        tried.append(count)
        return count <= room

    assert largest(fits, limit) == min(room, limit)
    assert max(tried) <= max(1, min(2 * room, limit))
    assert len(tried) <= 2 * limit.bit_length() + 1


def test_search_fills_the_room_with_the_longest_utterances(make_config: Maker) -> None:
    config = make_config("pretrain", batch_size=6)
    trial = trial_of(config)
    utterances = read_manifest(str(config.data.train_manifest))
    longest = max(u.duration for u in utterances)
    per_utterance = kept(trial, made_up_batch(config, 8, longest / 0.9, 0)) / 8
    room = bytes_of_optimizer(trial.optimizer) + int(4.5 * per_utterance)
    assert search(trial, utterances, None, kept, room) == pytest.approx(4 * longest)
    assert search(trial, utterances, None, kept, 1000 * room) == pytest.approx(6 * longest)
    with pytest.raises(RunError, match=r"one utterance of [\d.]+ s does not fit into 0\.0 GiB"):
        search(trial, utterances, None, kept, 1000)


def test_trying_leaves_no_trace(make_config: Maker) -> None:
    config = make_config("hybrid")
    trial = trial_of(config)
    before = {name: value.clone() for name, value in trial.module.state_dict().items()}
    make_step(trial, made_up_batch(config, 2, 1.0, 3))
    after = trial.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in trial.module.parameters())


def test_saved_activations_grow_with_the_batch_and_shrink_in_bf16(make_config: Maker) -> None:
    config = make_config("hybrid")
    trial = trial_of(config)
    two, four = (kept(trial, made_up_batch(config, n, 2.0, 6)) for n in (2, 4))
    assert 1.8 * two < four < 2.1 * two
    module = trial.module
    half = Trial(config, module, trial.objective, trial.optimizer, Precision("bf16", CPU))
    assert kept(half, made_up_batch(config, 4, 2.0, 6)) < 0.9 * four


def test_a_run_goes_on_with_the_number_that_it_began_with(
    make_config: Maker, tmp_path: Path
) -> None:
    latest = tmp_path / "run" / "latest.pt"
    assert train(make_config("ctc", batch_seconds="auto", max_steps=2), "run") == 0
    assert load_checkpoint(latest)["config"]["training"]["batch_seconds"] == CPU_BATCH_SECONDS
    resumed = make_config("ctc", batch_seconds="auto", max_steps=3, resume_from=str(latest))
    state = load_checkpoint(latest)
    state["config"]["training"]["batch_seconds"] = 3.5  # as a card of another size had it
    start = Start(state, None, str(latest), "")
    trial = trial_of(resumed)
    utterances = read_manifest(str(resumed.data.train_manifest))
    assert batch_seconds(trial, start, utterances, None) == 3.5
    fixed = make_config("ctc", batch_seconds=7.0)
    assert batch_seconds(trial_of(fixed), start, utterances, None) == 7.0
    assert train(resumed, "run") == 0
    assert load_checkpoint(latest)["step"] == 3
