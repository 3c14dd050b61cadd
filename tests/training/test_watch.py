"""The run's own watch: what it finds, in which mode, and what the run does then."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from voxformer.config import RunConfig, WatchConfig
from voxformer.config.load import validate_config
from voxformer.decoding import Hypothesis
from voxformer.model import VoxFormer
from voxformer.training.checkpoint import load_checkpoint, save_checkpoint
from voxformer.training.loop import train
from voxformer.training.setup import RunError
from voxformer.training.symptoms import AttentionMeter, mode_symptoms
from voxformer.training.watch import Watch

TINY = 1e-9
"""A learning rate at which a run stays what it was when it started."""

Change = Callable[[dict[str, torch.Tensor], list[str]], None]


def rows_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["type"] == kind]


def with_watch(config: RunConfig, **watch: object) -> RunConfig:
    return validate_config({**config.model_dump(mode="json"), "watch": watch})


@pytest.fixture
def start_from(make_config, tmp_path: Path) -> Callable[..., RunConfig]:  # type: ignore[no-untyped-def]
    """A config of a run that starts from changed weights and does not learn."""

    def make(change: Change, stage: str = "hybrid", **watch: object) -> RunConfig:
        assert train(make_config("hybrid", "first", max_steps=1, warmup_steps=0), "first") == 0
        state = load_checkpoint(tmp_path / "first" / "latest.pt")
        change(state["model"], state["tokens"])
        save_checkpoint(tmp_path / "changed.pt", {**state, "ema": None, "optimizer": {}})
        config = make_config(
            stage,
            init_from=str(tmp_path / "changed.pt"),
            learning_rate=TINY,
            warmup_steps=1,
            eval_interval=1,
        )
        return with_watch(config, **watch)

    return make


def says_one_word(weights: dict[str, torch.Tensor], tokens: list[str]) -> None:
    """A decoder whose every output is one short word."""
    word = next(i for i, token in enumerate(tokens[1:-1], 1) if token.startswith("\u2581"))
    weights["decoder.output_bias"][word] += 100.0


def says_nothing(weights: dict[str, torch.Tensor], tokens: list[str]) -> None:
    """A CTC head that knows the blank alone."""
    weights["ctc_head.bias"][0] += 100.0


def looks_at_the_start(weights: dict[str, torch.Tensor], tokens: list[str]) -> None:
    """Cross-attention whose query is constant, and whose key falls with the frame's number."""
    rest_on_first_frame(weights, heads=2)


def rest_on_first_frame(weights: dict[str, torch.Tensor], heads: int) -> None:
    width = weights["decoder.position_scale"].numel()
    # A cosine of period 198 frames: it falls from the first frame to the last of short utterances.
    cosine = width // 2 + 6
    weights["decoder.position_scale"][cosine] = 1000.0
    layers = {name.split(".")[2] for name in weights if name.startswith("decoder.layers.")}
    for layer in layers:
        cross = f"decoder.layers.{layer}.cross_attention"
        weights[f"{cross}.query.weight"].zero_()
        weights[f"{cross}.query.bias"].zero_()
        weights[f"{cross}.key.weight"].zero_()
        for head in range(heads):
            first = head * width // heads
            weights[f"{cross}.query.bias"][first] = 100.0
            weights[f"{cross}.key.weight"][first, cosine] = 1.0


def test_looping_decoder_stops_the_run_in_its_own_mode(start_from, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    config = start_from(says_one_word, loop_action="stop", stop_after_evaluations=3)
    assert train(config, "run") == 4
    folder = tmp_path / "run"
    found = [row for row in rows_of(folder, "watch") if row["name"] == "loop"]
    assert [(row["step"], row["mode"], row["action"]) for row in found] == [
        (2, "attention", "warn"),
        (3, "attention", "warn"),
        (4, "attention", "stop"),
    ]
    assert "100% of the attention hypotheses loop" in found[-1]["message"]
    assert "times in a row in dev" in found[-1]["message"]
    assert all("ctc_weight" in row for row in found)
    log = (folder / "training.log").read_text()
    assert f"ERROR {found[-1]['message']}" in log
    assert "go on with --resume once it is mended" in log
    valid = rows_of(folder, "valid")[-1]
    assert (valid["capped_attention"], valid["looping_attention"]) == (1.0, 1.0)
    assert valid["capped_ctc_greedy"] == 0.0
    assert load_checkpoint(folder / "latest.pt")["step"] == 4


def test_stopped_run_that_is_resumed_gets_as_many_evaluations_again(
    start_from, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    config = start_from(says_one_word, loop_action="stop", stop_after_evaluations=2)
    assert train(config, "run") == 4
    config.training.resume_from = str(tmp_path / "run" / "latest.pt")
    assert train(config, "run") == 4
    stops = [row["step"] for row in rows_of(tmp_path / "run", "watch") if row["action"] == "stop"]
    assert stops == [3, 5]


def test_blank_model_is_found_in_the_ctc_modes(start_from, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    config = start_from(says_nothing, "ctc", blank_action="stop", stop_after_evaluations=2)
    config.decoding.eval_modes = ["ctc_greedy", "ctc_beam"]
    assert train(config, "run") == 4
    valid = rows_of(tmp_path / "run", "valid")[-1]
    assert (valid["empty_ctc_greedy"], valid["empty_ctc_beam"]) == (1.0, 1.0)
    assert valid["blank_probability"] == pytest.approx(1.0)
    stop = [row for row in rows_of(tmp_path / "run", "watch") if row["action"] == "stop"]
    assert {(row["name"], row["mode"]) for row in stop} == {
        ("blank", "ctc_greedy"),
        ("blank", "ctc_beam"),
    }
    assert "mean probability of <blank> 1.000" in stop[0]["message"]


def test_attention_that_rests_on_one_place_is_found(start_from, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    config = start_from(looks_at_the_start, attention_action="stop", stop_after_evaluations=1)
    assert train(config, "run") == 4
    [stop] = [row for row in rows_of(tmp_path / "run", "watch") if row["action"] == "stop"]
    assert (stop["name"], stop["mode"], stop["severity"]) == ("attention", None, "critical")
    # A decoder that attends evenly, as with random weights, is not the same.
    before = rows_of(tmp_path / "first", "valid")[-1]["attention_peak"]
    after = rows_of(tmp_path / "run", "valid")[-1]["attention_peak"]
    assert before < 0.5 < 0.99 < after


def test_one_head_that_moves_is_enough_and_padding_changes_nothing(model: VoxFormer) -> None:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    memory, tokens = torch.randn(2, 40, 32), torch.randint(1, 10, (2, 9))
    frames, lengths = torch.tensor([40, 25]), torch.tensor([9, 9])

    def peak(rows: slice = slice(None), padding: int = 0) -> float:
        meter = AttentionMeter()
        longest = int(frames[rows].max())
        speech = torch.cat([memory[rows, :longest], torch.randn(2, padding, 32)[rows]], dim=1)
        meter.add(model, speech, frames[rows], tokens[rows], lengths[rows])
        return meter.row()["attention_peak"]

    try:
        # Speech whose frame 7 answers every query that is constant, in one head or in both.
        memory[:, 7, 0] = 30.0
        for heads, lowest, highest in ((1, 0.0, 0.5), (2, 0.99, 1.0)):
            weights = {name: value.clone() for name, value in state.items()}
            for layer in range(2):
                cross = f"decoder.layers.{layer}.cross_attention"
                for head in range(heads):
                    rows = slice(16 * head, 16 * head + 16)
                    weights[f"{cross}.query.weight"][rows] = 0.0
                    weights[f"{cross}.query.bias"][rows] = 10.0
                    weights[f"{cross}.key.weight"][rows] = 0.0
                    weights[f"{cross}.key.weight"][rows, 0] = 1.0
                for head in range(heads, 2):
                    rows = slice(16 * head, 16 * head + 16)
                    weights[f"{cross}.key.weight"][rows, 0] = 0.0
            model.load_state_dict(weights)
            assert lowest <= peak() <= highest + 1e-6
            assert peak(slice(1, 2), padding=20) == pytest.approx(peak(slice(1, 2)), abs=1e-5)
    finally:
        model.load_state_dict(state)


def test_short_utterances_tell_nothing_of_attention(model: VoxFormer) -> None:
    meter = AttentionMeter()
    tokens = torch.randint(1, 10, (2, 9))
    meter.add(model, torch.randn(2, 11, 32), torch.tensor([11, 11]), tokens, torch.tensor([9, 9]))
    meter.add(model, torch.randn(2, 40, 32), torch.tensor([40, 40]), tokens, torch.tensor([6, 2]))
    assert meter.row() == {}


def test_weights_of_attention_are_those_that_it_uses(model: VoxFormer) -> None:
    layer = model.decoder.layers[0].cross_attention
    torch.manual_seed(1)
    x, memory, bias = torch.randn(2, 5, 32), torch.randn(2, 11, 32), torch.zeros(2, 1, 1, 11)
    bias[1, ..., 6:] = -1e4
    weights = layer.weights(x, memory, bias)
    assert not weights[1, ..., 6:].any()
    value = layer.value(memory).view(2, 11, 2, 16).transpose(1, 2)
    mixed = (weights @ value).transpose(1, 2).reshape(2, 5, 32)
    torch.testing.assert_close(layer.project(mixed), layer(x, memory, bias))


def test_stale_loss_is_found_and_a_falling_one_is_not(make_config, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    watch = {"stale_action": "stop", "stale_steps": 6, "stale_improvement": 0.01}
    stale = with_watch(make_config("hybrid", "stale", learning_rate=TINY, num_epochs=9), **watch)
    assert train(stale, "stale") == 4
    [found] = rows_of(tmp_path / "stale", "watch")
    assert (found["name"], found["action"]) == ("stale", "stop")
    assert found["step"] in range(12, 54, 6)
    assert "no loss fell by 1.00% over 6 steps (ctc " in found["message"]
    assert load_checkpoint(tmp_path / "stale" / "latest.pt")["step"] == found["step"]
    falling = make_config("hybrid", "falling", learning_rate=3e-3, num_epochs=5)
    assert train(with_watch(falling, **watch), "falling") == 0
    # Losses that fall do not keep CTC from knowing the blank alone, as it does after 30 steps.
    found = rows_of(tmp_path / "falling", "watch")
    assert {row["name"] for row in found} == {"blank"}
    assert rows_of(tmp_path / "falling", "valid")[-1]["blank_probability"] > 0.5


def test_counts_survive_a_resume(make_config, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from .test_resume import run_until_step

    options = {"eval_interval": 2, "num_epochs": 2, "learning_rate": TINY}
    watch = {"stale_steps": 9, "high_action": "warn"}
    assert train(with_watch(make_config("hybrid", "whole", **options), **watch), "whole") == 0
    parts = with_watch(make_config("hybrid", "parts", **options), **watch)
    assert run_until_step(parts, 7) == 143
    parts.training.resume_from = str(tmp_path / "parts" / "latest.pt")
    assert train(parts, "parts") == 0
    positions = [
        load_checkpoint(tmp_path / name / "latest.pt")["position"] for name in ("whole", "parts")
    ]
    assert positions[0]["watch"] == positions[1]["watch"]
    assert positions[0]["watch"]["in_a_row"]
    assert 0 < positions[0]["watch"]["window"]["steps"] < 9
    messages = [
        [(row["step"], row["message"]) for row in rows_of(tmp_path / name, "watch")]
        for name in ("whole", "parts")
    ]
    assert messages[0] == messages[1] != []


def test_checkpoint_with_the_old_count_alone_goes_on(start_from, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    config = start_from(says_one_word, critical_action="stop", stop_after_evaluations=5)
    config.training.max_steps = 3
    assert train(config, "run") == 0
    path = tmp_path / "run" / "step_3.pt"
    state = load_checkpoint(path)
    assert state["position"]["critical_in_a_row"] == 2
    del state["position"]["watch"]
    state["position"]["critical_in_a_row"] = 3
    save_checkpoint(tmp_path / "old.pt", state)
    config.training.resume_from = str(tmp_path / "old.pt")
    config.training.checkpoint_dir = str(tmp_path / "again")
    config.training.max_steps = None
    assert train(config, "run") == 4
    found = [row for row in rows_of(tmp_path / "again", "watch") if row["name"] == "critical"]
    assert [(row["step"], row["action"]) for row in found] == [(4, "warn"), (5, "stop")]


def test_early_stopping_ends_a_run_as_if_it_were_complete(make_config, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    config = make_config("ctc", learning_rate=TINY, eval_interval=1, num_epochs=50)
    config = with_watch(config, early_stopping=3)
    assert train(config, "run") == 0
    folder = tmp_path / "run"
    [found] = [row for row in rows_of(folder, "watch") if row["name"] == "early_stopping"]
    assert (found["step"], found["severity"], found["action"]) == (4, "info", "end")
    assert load_checkpoint(folder / "latest.pt")["step"] == 4
    config.training.resume_from = str(folder / "latest.pt")
    assert train(config, "run") == 0
    assert "already finished at step 4" in (folder / "training.log").read_text()


@pytest.mark.parametrize(
    ("watch", "named"),
    [
        ({"early_stopping": 3}, r"watch\.early_stopping: 3: .*data\.valid_manifest"),
        ({"loop_action": "stop"}, r"watch\.loop_action: stop: .*data\.valid_manifest"),
    ],
)
def test_what_needs_evaluations_is_refused_without_a_validation_set(
    make_config, watch: dict[str, object], named: str
) -> None:  # type: ignore[no-untyped-def]
    config = with_watch(make_config("ctc"), **watch)
    config.data.valid_manifest = None
    with pytest.raises(RunError, match=named) as caught:
        train(config, "run")
    assert "\n" not in str(caught.value)


def test_nonfinite_steps_are_findings(start_from, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    def ruin(weights: dict[str, torch.Tensor], tokens: list[str]) -> None:
        weights["ctc_head.bias"][1] = math.nan

    config = start_from(ruin, "ctc")
    config.training.max_nonfinite_steps = 3
    config.training.eval_interval = 100
    assert train(config, "run") == 4
    found = rows_of(tmp_path / "run", "watch")
    assert [(row["name"], row["step"], row["action"]) for row in found] == [
        ("nonfinite", 1, "warn"),
        ("nonfinite", 2, "warn"),
        ("nonfinite", 3, "warn"),
        ("nonfinite", 3, "stop"),
    ]


def test_bands_have_an_action_each_and_modes_a_count_each() -> None:
    config = WatchConfig(high_action="warn", critical_action="stop", stop_after_evaluations=2)
    watch = Watch(config, {})
    told = []
    for ctc, attention in ((0.6, 1.2), (1.1, 0.4), (0.2, 1.01), (0.5, 1.5)):
        found = watch.after_evaluation({"wer_ctc_greedy": ctc, "wer_attention": attention})
        told.append([(f.name, f.mode, f.action) for f in found])
    assert told == [
        [("high", "ctc_greedy", "warn"), ("critical", "attention", "warn")],
        [("critical", "ctc_greedy", "warn")],
        [("critical", "attention", "warn")],
        [("high", "ctc_greedy", "warn"), ("critical", "attention", "stop")],
    ]
    assert watch.critical_in_a_row == 2


def test_a_worse_band_counts_for_those_above_it() -> None:
    config = WatchConfig(moderate_action="stop", critical_action="warn", stop_after_evaluations=3)
    watch = Watch(config, {})
    actions = [
        [(f.name, f.action) for f in watch.after_evaluation({"wer_attention": wer})]
        for wer in (0.3, 1.3, 0.7, 0.1, 0.3)
    ]
    assert actions[1] == [("critical", "warn")]
    assert actions[2] == [("moderate", "stop")]
    assert actions[3] == []
    assert actions[4] == [("moderate", "warn")]


def test_nothing_is_counted_before_warm_up_is_over() -> None:
    watch = Watch(WatchConfig(critical_action="stop", stop_after_evaluations=1), {}, 4)
    assert watch.after_evaluation({"wer_attention": 3.0}, warm=False) == []
    assert watch.critical_in_a_row == 0


def test_repetition_is_held_against_the_reference() -> None:
    def hypothesis(ids: list[int], truncated: bool = False) -> Hypothesis:
        return Hypothesis(tuple(ids), " ".join(map(str, ids)), 0.0, truncated=truncated)

    cases = [
        (hypothesis([1, 2, 3, 4, 5]), [1, 2, 3, 4, 5]),
        (hypothesis([7] * 8), [7] * 8),  # a number such as 77777777, said and written
        (hypothesis([1, 2, 1, 2, 1, 2, 1, 2, 9]), [1, 2, 9]),
        (hypothesis([1, 2, 3], truncated=True), [1, 2, 3]),
        (hypothesis([]), [1, 2, 3]),
        (hypothesis([1]), list(range(1, 13))),
        (hypothesis([1, 1]), list(range(1, 13))),
    ]
    names = [f"u{i}" for i in range(len(cases))]
    found = mode_symptoms("attention", names, [h for h, _ in cases], [r for _, r in cases])
    assert found["looping_attention"] == pytest.approx(2 / 7)
    assert found["capped_attention"] == pytest.approx(1 / 7)
    assert found["empty_attention"] == pytest.approx(2 / 7)
    assert found["most_repeated_attention"] == {"utterance": "u2", "ngram": "1 2", "times": 4}


def test_validation_loss_is_that_of_the_decoder_that_is_used(
    make_config, corpus: Path, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    """Against the scores that rescoring uses."""
    from voxformer.audio import read_audio
    from voxformer.data import read_manifest
    from voxformer.text import Tokenizer

    assert train(make_config("hybrid", num_epochs=1), "run") == 0
    state = load_checkpoint(tmp_path / "run" / "latest.pt")
    model = VoxFormer(make_config("hybrid").model).eval()
    model.load_state_dict(state["model"])
    tokenizer = Tokenizer.load(tmp_path / "run" / "tokenizer")
    total, count = 0.0, 0
    for utterance in read_manifest(corpus / "dev.jsonl"):
        samples = torch.from_numpy(read_audio(utterance.audio_path))[None]
        with torch.no_grad():
            encoded = model.encode(samples, torch.tensor([samples.size(1)]))
            tokens = torch.tensor([[tokenizer.encode(utterance.text)]])
            lengths = torch.tensor([[tokens.size(2)]])
            scores = model.score(encoded[0], encoded[1], tokens, lengths)
        total -= float(scores.sum())
        count += tokens.size(2) + 1
    assert rows_of(tmp_path / "run", "valid")[-1]["ce"] == pytest.approx(total / count, rel=1e-4)
