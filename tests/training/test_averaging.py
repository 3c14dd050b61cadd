"""Checkpoints of weights alone: means, halves, other options."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from voxformer.cli import main
from voxformer.data.manifest import read_manifest
from voxformer.training.averaging import (
    average_checkpoints,
    mix_checkpoints,
    slim_checkpoint,
    with_decoding,
)
from voxformer.training.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_model_checkpoint,
    save_checkpoint,
)
from voxformer.training.loop import train
from voxformer.training.storage import numbered_checkpoints


@pytest.fixture
def run(make_config, tmp_path: Path) -> Path:  # type: ignore[no-untyped-def]
    config = make_config("hybrid", save_interval=3, keep_last_n=4, ema_decay=0.5)
    assert train(config, "run") == 0
    return tmp_path / "run"


def test_mean_of_the_last_steps_is_numpys_mean(run: Path, tmp_path: Path) -> None:
    steps = numbered_checkpoints(run, "step")
    assert len(steps) == 4
    states = [load_checkpoint(path) for path in steps]
    out = average_checkpoints(steps, tmp_path / "mean.pt")
    mean = load_checkpoint(out)
    assert mean["step"] == states[-1]["step"]
    assert not {"optimizer", "position", "ema"} & mean.keys()
    for name, value in mean["model"].items():
        expected = torch.stack([s["model"][name].double() for s in states]).numpy().mean(0)
        torch.testing.assert_close(value.double().numpy(), expected, rtol=1e-6, atol=1e-7)
    assert not torch.equal(mean["model"]["ctc_head.weight"], states[-1]["model"]["ctc_head.weight"])
    loaded = load_model_checkpoint(out)
    torch.testing.assert_close(dict(loaded.model.state_dict()), mean["model"])
    durations = sorted(u.duration for u in read_manifest(loaded.config.data.train_manifest))
    assert durations[-2] <= loaded.metadata["data"]["longest_seconds"] <= durations[-1]


def test_mixture_lies_between_two_models(run: Path, tmp_path: Path) -> None:
    first, last = numbered_checkpoints(run, "step")[0], run / "latest.pt"
    out = mix_checkpoints(first, last, 0.25, tmp_path / "mixed.pt")
    start, end = load_checkpoint(first)["ema"], load_checkpoint(last)["ema"]
    mixed = load_checkpoint(out)
    assert mixed["step"] == load_checkpoint(last)["step"]
    for name, value in mixed["model"].items():
        expected = 0.75 * start[name].numpy() + 0.25 * end[name].numpy()
        torch.testing.assert_close(value.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(mixed["model"]["ctc_head.weight"], end["ctc_head.weight"])
    # The stage before may be another.
    other = tmp_path / "other.pt"
    save_checkpoint(other, {**load_checkpoint(first), "stage": "ctc"})
    again = load_checkpoint(mix_checkpoints(other, last, 0.25, tmp_path / "again.pt"))
    torch.testing.assert_close(again["model"], mixed["model"])
    assert again["stage"] == "hybrid"
    state = load_checkpoint(first)
    save_checkpoint(other, {**state, "tokens": [*state["tokens"], "x"]})
    with pytest.raises(CheckpointError, match=r"other\.pt: not of the same run: its tokens differ"):
        mix_checkpoints(other, last, 0.25, tmp_path / "none.pt")


def test_the_decoder_may_have_a_share_of_its_own(run: Path, tmp_path: Path) -> None:
    first, last = numbered_checkpoints(run, "step")[0], run / "latest.pt"
    out = mix_checkpoints(first, last, 0.0, tmp_path / "joined.pt", decoder_share=1.0)
    start, end = load_checkpoint(first)["ema"], load_checkpoint(last)["ema"]
    joined = load_checkpoint(out)["model"]
    of_decoder = {name for name in joined if name.startswith("decoder.")}
    assert 0 < len(of_decoder) < len(joined)
    for name, value in joined.items():
        assert torch.equal(value, (end if name in of_decoder else start)[name]), name


def test_a_slim_half_checkpoint_has_the_averaged_weights_and_trains_on(
    make_config, run: Path, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    whole = load_checkpoint(run / "latest.pt")
    slim = slim_checkpoint(run / "latest.pt", tmp_path / "slim.pt", half=True)
    assert slim.stat().st_size < (run / "best.pt").stat().st_size
    weights = load_model_checkpoint(slim).model.state_dict()
    for name, value in whole["ema"].items():
        assert weights[name].dtype == value.dtype
        torch.testing.assert_close(weights[name], value, rtol=5e-4, atol=1e-7)
    config = make_config("hybrid", run="next", max_steps=1, init_from=str(slim))
    assert train(config, "next") == 0


def test_other_decoding_options_travel_with_the_weights(run: Path, tmp_path: Path) -> None:
    out = with_decoding(run / "best.pt", tmp_path / "tuned.pt", {"ctc_weight": 0.25})
    before, after = load_model_checkpoint(run / "best.pt"), load_model_checkpoint(out)
    assert after.config.decoding.ctc_weight == 0.25
    assert after.config.decoding.beam_size == before.config.decoding.beam_size
    assert after.config.model == before.config.model


def test_checkpoints_of_different_runs_are_not_averaged(run: Path, tmp_path: Path) -> None:
    state = load_checkpoint(run / "latest.pt")
    other = tmp_path / "other.pt"
    tokens = [*state["tokens"][:-2], "x", state["tokens"][-1]]
    save_checkpoint(other, {**state, "tokens": tokens})
    with pytest.raises(CheckpointError, match=r"other\.pt: not of the same run: its tokens"):
        average_checkpoints([run / "latest.pt", other], tmp_path / "mean.pt")
    with pytest.raises(CheckpointError, match="no checkpoints to average"):
        average_checkpoints([], tmp_path / "mean.pt")


def test_what_a_run_goes_on_from_is_not_replaced(run: Path, tmp_path: Path) -> None:
    steps = numbered_checkpoints(run, "step")
    before = steps[-1].read_bytes()
    for out in (steps[-1], run / "latest.pt"):  # two names of one file
        with pytest.raises(CheckpointError, match="replaced by its weights alone"):
            average_checkpoints(steps, out)
        with pytest.raises(CheckpointError, match="replaced by its weights alone"):
            slim_checkpoint(steps[-1], out)
    os.mkfifo(tmp_path / "pipe")
    for out in (tmp_path / "pipe", run):
        with pytest.raises(CheckpointError, match="exists and is not a file"):
            slim_checkpoint(steps[-1], out)
    assert steps[-1].read_bytes() == before


def test_the_command_mixes(run: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    first, last, out = numbered_checkpoints(run, "step")[0], run / "latest.pt", tmp_path / "mix.pt"
    for given, share, decoder_share in (
        ([], 0.5, None),
        (["--share", "0.2"], 0.2, None),
        (["--share", "0", "--decoder-share", "1"], 0.0, 1.0),
    ):
        command = ["checkpoints", "mix", str(first), str(last), str(out), *given]
        assert main(command) == 0
        assert f"{share:.0%} of {last}" in capsys.readouterr().out
        said = tmp_path / "expected.pt"
        expected = load_checkpoint(mix_checkpoints(first, last, share, said, decoder_share))
        torch.testing.assert_close(load_checkpoint(out)["model"], expected["model"])
    assert main(["checkpoints", "mix", str(first), str(last)]) == 2
    assert "mix takes FILE FILE OUT" in capsys.readouterr().err


def test_the_command_averages_and_slims(run: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    mean, slim = tmp_path / "mean.pt", tmp_path / "slim.pt"
    assert main(["checkpoints", "average", str(run), str(mean), "--keep", "2"]) == 0
    assert "mean of step_9.pt, step_12.pt" in capsys.readouterr().out
    assert main(["checkpoints", "slim", str(run / "best.pt"), str(slim), "--half"]) == 0
    assert "MiB" in capsys.readouterr().out
    assert main(["checkpoints", "slim", str(run / "best.pt")]) == 2
    assert "slim takes FILE OUT" in capsys.readouterr().err
