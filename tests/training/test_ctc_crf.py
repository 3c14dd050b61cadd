"""CTC-CRF against sums over every path, and what it does in a run."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from voxformer.cli import main
from voxformer.decoding import BeamOptions, CtcBeamDecoder, FusionOptions, NgramLanguageModel
from voxformer.training.ctc_crf import (
    bigram_arpa,
    ctc_crf_loss_sum,
    log_partition,
    token_bigram,
)
from voxformer.training.loop import train
from voxformer.training.objectives import SupervisedObjective, ctc_loss_sum
from voxformer.training.setup import RunError

V = 3


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    """Repeats merged, blanks left out."""
    return tuple(k for k, _ in itertools.groupby(path) if k)


def weighted_paths(log_probs: Tensor, bigram: Tensor) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every path through the frames, and its weight times P of what it says."""
    frames = range(len(log_probs))
    for path in itertools.product(range(V + 1), repeat=len(log_probs)):
        said = collapse(path)
        weight = math.exp(sum(float(log_probs[t, path[t]]) for t in frames))
        for before, token in zip((0, *said), (*said, 0), strict=True):
            weight *= float(bigram[before, token])
        yield path, weight


def path_sums(log_probs: Tensor, bigram: Tensor) -> dict[tuple[int, ...], float]:
    """P(y) times the sum over y's paths, for every y that the frames can say, path by path."""
    sums: dict[tuple[int, ...], float] = {}
    for path, weight in weighted_paths(log_probs, bigram):
        said = collapse(path)
        sums[said] = sums.get(said, 0.0) + weight
    return sums


@pytest.fixture
def bigram() -> Tensor:
    return token_bigram([([1, 2, 2], 1.0), ([3, 1], 2.0), ([2], 0.5)], V)


def scores(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).double().log_softmax(-1).float()


def test_bigram_is_a_distribution_that_counts_what_it_saw(bigram: Tensor) -> None:
    assert torch.allclose(bigram.sum(1), torch.ones(V + 1))
    assert float(bigram.min()) > 0.0
    # Of 2's 2.5 followers 1 is another 2 and 1.5 are the end: Witten and Bell's share of two types.
    counts = {0: 3.5, 1: 3.0, 2: 2.5, 3: 2.0}  # the end, and tokens
    unigram_of_2 = (counts[2] + 1.0) / (sum(counts.values()) + V + 1.0)
    assert float(bigram[2, 2]) == pytest.approx((1.0 + 2 * unigram_of_2) / (2.5 + 2))


def test_partition_is_the_sum_over_all_paths(bigram: Tensor) -> None:
    log_probs = scores(3, 5, V + 1)
    lengths = torch.tensor([5, 3, 0])
    found = log_partition(log_probs, lengths, bigram)
    for row, length in enumerate(lengths.tolist()):
        expected = sum(path_sums(log_probs[row, :length], bigram).values())
        assert float(found[row]) == pytest.approx(math.log(expected), abs=1e-5)


def test_partition_has_the_paths_shares_as_its_gradient(bigram: Tensor) -> None:
    """Of every output in every frame: the mass of the paths that are on it, path by path."""
    log_probs = scores(3, 5, V + 1, seed=2).requires_grad_()
    lengths = torch.tensor([5, 3, 0])
    log_partition(log_probs, lengths, bigram).sum().backward()
    expected = torch.zeros(3, 5, V + 1, dtype=torch.float64)
    for row, length in enumerate(lengths.tolist()):
        for path, weight in weighted_paths(log_probs[row, :length].detach(), bigram):
            for t, output in enumerate(path):
                expected[row, t, output] += weight
    expected /= expected.sum(2, keepdim=True).where(expected.sum(2, keepdim=True) > 0, 1.0)
    assert log_probs.grad is not None
    assert torch.allclose(log_probs.grad.double(), expected, atol=1e-6)


@pytest.mark.parametrize("said", [(1,), (1, 2), (2, 2), (3, 1, 3), ()])
def test_loss_is_the_transcripts_share_of_all_paths(bigram: Tensor, said: tuple[int, ...]) -> None:
    log_probs = scores(1, 5, V + 1, seed=len(said))
    lengths, counts = torch.tensor([5]), torch.tensor([len(said)])
    tokens = torch.tensor([[*said, 3, 3]])  # padding is not read
    ctc = ctc_loss_sum(log_probs, lengths, tokens, counts)
    loss = ctc_crf_loss_sum(ctc, log_probs, lengths, tokens, counts, bigram)
    sums = path_sums(log_probs[0], bigram)
    assert float(loss) == pytest.approx(-math.log(sums[said] / sum(sums.values())), abs=1e-4)


def test_gradient_is_that_of_finite_differences(bigram: Tensor) -> None:
    logits = scores(2, 4, V + 1, seed=5).requires_grad_()
    arguments = (torch.tensor([4, 3]), torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1]))

    def loss(x: Tensor) -> Tensor:
        x = x.log_softmax(-1)  # PyTorch's gradient of CTC is for what comes out of this
        return ctc_crf_loss_sum(ctc_loss_sum(x, *arguments), x, *arguments, bigram)

    loss(logits).backward()
    gradient = logits.grad
    assert gradient is not None
    step = 1e-2
    for row, t, k in ((0, 0, 1), (0, 3, 0), (1, 2, 3), (1, 1, 2)):
        shift = torch.zeros_like(logits)
        shift[row, t, k] = step
        with torch.no_grad():
            slope = (loss(logits + shift) - loss(logits - shift)) / (2 * step)
        assert float(gradient[row, t, k]) == pytest.approx(float(slope), abs=2e-3)
    assert float(gradient[1, 3].abs().max()) == 0.0  # beyond the second utterance's length


def plain_log_partition(log_probs: Tensor, bigram: Tensor) -> Tensor:
    """Of one utterance [frames, V + 1], in logarithms and float64; autograd differentiates it."""
    moves = bigram.double().log()
    before, off = torch.arange(V + 1), torch.full((V + 1,), -1e6).double()
    blank = torch.where(before == 0, 0.0, off)  # by the last token
    spoken = off
    for frame in log_probs:
        either = torch.logaddexp(blank, spoken)
        starts = [
            torch.logsumexp(torch.where(before == k, blank, either) + moves[:, k], 0)
            for k in range(1, V + 1)
        ]
        blank = either + frame[0]
        spoken = torch.cat([off[:1], torch.logaddexp(torch.stack(starts), spoken[1:]) + frame[1:]])
    return torch.logsumexp(torch.logaddexp(blank, spoken) + moves[:, 0], 0)


def test_long_sharp_utterances_are_summed_as_in_logarithms(bigram: Tensor) -> None:
    frames = 400
    logits = 30.0 * torch.randn(2, frames, V + 1, generator=torch.Generator().manual_seed(1))
    found = logits.log_softmax(-1).requires_grad_()
    total = log_partition(found, torch.tensor([frames, frames // 2]), bigram)
    total.sum().backward()
    assert found.grad is not None
    for row, length in enumerate((frames, frames // 2)):
        exact = found.detach()[row, :length].double().requires_grad_()
        expected = plain_log_partition(exact, bigram)
        expected.backward()
        assert exact.grad is not None
        torch.testing.assert_close(total[row].double(), expected, rtol=1e-6, atol=0.0)
        assert torch.allclose(found.grad[row, :length].double(), exact.grad, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(log_partition(found, torch.tensor([frames, frames // 2]), bigram), total)


def test_long_and_impossible_utterances_stay_finite(bigram: Tensor) -> None:
    long = 20.0 * torch.randn(1, 2000, V + 1, generator=torch.Generator().manual_seed(1))
    long = long.log_softmax(-1).requires_grad_()
    found = log_partition(long, torch.tensor([2000]), bigram)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert long.grad is not None
    assert torch.isfinite(long.grad).all()
    log_probs = scores(1, 2, V + 1).requires_grad_()
    tokens, counts, lengths = torch.tensor([[2, 2]]), torch.tensor([2]), torch.tensor([2])
    ctc = ctc_loss_sum(log_probs, lengths, tokens, counts)  # a blank between needs a third frame
    loss = ctc_crf_loss_sum(ctc, log_probs, lengths, tokens, counts, bigram)
    loss.backward()
    assert log_probs.grad is not None
    assert float(loss.detach()) == 0.0
    assert float(log_probs.grad.abs().max()) == 0.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_around_it_changes_nothing(bigram: Tensor, dtype: torch.dtype) -> None:
    """Products of halves would lose paths, and in fp16 overflow where posteriors are sharp."""
    logits = 8.0 * scores(2, 40, V + 1, seed=3)
    lengths = torch.tensor([40, 17])

    def both(enabled: bool) -> tuple[Tensor, Tensor]:
        x = logits.clone().requires_grad_()
        with torch.autocast("cpu", dtype, enabled=enabled):
            found = log_partition(x.log_softmax(-1), lengths, bigram)
        found.sum().backward()  # as in training, outside
        assert x.grad is not None
        return found.detach(), x.grad

    for a, b in zip(both(False), both(True), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_a_bigram_of_too_many_tokens_is_refused(make_config, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("voxformer.training.setup.MOST_TOKENS", 10)
    config = make_config("ctc", crf_weight=0.5)
    with pytest.raises(RunError, match="at most 10 pieces, and there are 18"):
        train(config, "run")


def test_stage_3_searches_with_what_stage_2_was_trained_with(make_config) -> None:  # type: ignore[no-untyped-def]
    first = make_config("ctc", run="first", crf_weight=0.9, num_epochs=1)
    assert train(first, "first") == 0
    best = Path(first.training.checkpoint_dir) / "best.pt"
    options = {"init_from": str(best), "num_epochs": 1, "crf_weight": 0.9}
    second = make_config("attention", run="second", **options)
    assert train(second, "second") == 0
    made = Path(second.training.checkpoint_dir) / "tokens.arpa"
    assert made.read_bytes() == (best.parent / "tokens.arpa").read_bytes()


def test_an_evaluation_without_a_language_model_is_warned_of(
    make_config,  # type: ignore[no-untyped-def]
    corpus: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = make_config("ctc", crf_weight=0.9, num_epochs=1)
    assert train(config, "run") == 0
    folder = Path(config.training.checkpoint_dir)
    command = ["evaluate", "--model", str(folder / "best.pt"), "--mode", "ctc_beam"]
    command += ["--manifest", str(corpus / "dev.jsonl")]
    assert main(command) == 0
    assert "trained with CTC-CRF, whose error rates without" in capsys.readouterr().err
    with_bigram = ["--lm", str(folder / "tokens.arpa"), "--lm-unit", "token", "--lm-weight", "1"]
    assert main([*command, *with_bigram]) == 0
    assert "CTC-CRF" not in capsys.readouterr().err


def test_neither_batch_mates_nor_what_is_beyond_the_end_count(bigram: Tensor) -> None:
    log_probs = scores(3, 6, V + 1)
    log_probs[1, 2:] = torch.nan
    log_probs[2, 4:] = -torch.inf
    log_probs.requires_grad_()
    lengths = torch.tensor([6, 2, 4])
    together = log_partition(log_probs, lengths, bigram)
    together.sum().backward()
    assert log_probs.grad is not None
    for row, length in enumerate(lengths.tolist()):
        alone = log_probs.detach()[row : row + 1, :length].requires_grad_()
        found = log_partition(alone, lengths[row : row + 1], bigram)
        found.backward()
        assert alone.grad is not None
        torch.testing.assert_close(found[0], together[row], rtol=0.0, atol=1e-5)
        assert torch.allclose(alone.grad[0], log_probs.grad[row, :length], atol=1e-6)
        assert float(log_probs.grad[row, length:].abs().sum()) == 0.0


def test_bigram_as_a_language_model_over_tokens(bigram: Tensor, tmp_path: Path) -> None:
    """A search with it finds the sequence with the largest sum, as summed path by path."""
    tokens = ["<blank>", "▁a", "b", "▁c"]
    path = tmp_path / "tokens.arpa"
    path.write_text(bigram_arpa(bigram, tokens), encoding="utf-8")
    model = NgramLanguageModel.load(path, cache=False)
    expected = math.log(float(bigram[0, 3])) + math.log(float(bigram[3, 1]))
    assert model.score(["▁c", "▁a"], eos=False) == pytest.approx(expected, abs=1e-4)
    log_probs = scores(1, 5, V + 1, seed=9)
    decoder = CtcBeamDecoder(
        tokens,
        BeamOptions(beam_size=200, n_best=3),
        language_model=model,
        fusion=FusionOptions(lm_weight=1.0, lm_unit="token"),
    )
    found = decoder.decode(log_probs.numpy())[0]
    sums = path_sums(log_probs[0], bigram)
    ranked = sorted(sums, key=lambda said: -sums[said])
    assert [hypothesis.token_ids for hypothesis in found] == ranked[:3]
    assert found[0].score == pytest.approx(math.log(sums[ranked[0]]), abs=1e-4)


def test_objective_needs_a_bigram(bigram: Tensor) -> None:
    with pytest.raises(ValueError, match=r"crf_weight is 0\.5, which needs a bigram"):
        SupervisedObjective(torch.nn.Module(), torch.device("cpu"), None, 0.0, crf_weight=0.5)  # type: ignore[arg-type]


def test_a_run_learns_with_it_and_evaluates_with_its_bigram(make_config) -> None:  # type: ignore[no-untyped-def]
    config = make_config("ctc")
    config.training.crf_weight = 0.9
    config.decoding.eval_modes = ["ctc_beam"]
    assert train(config, "crf") == 0
    folder = Path(config.training.checkpoint_dir)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["crf"] for row in rows if row["type"] == "train"]
    assert losses[-1] < losses[0]
    assert any("crf" in row and "wer" in str(row) for row in rows if row["type"] != "train")
    assert NgramLanguageModel.load(folder / "tokens.arpa", cache=False).order == 2
