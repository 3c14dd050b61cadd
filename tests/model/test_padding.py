"""Invariant 2: batch-mates never change a result, at every module and for odd lengths."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from voxformer.audio.features import LogMel
from voxformer.model import VoxFormer
from voxformer.model.encoder import Downsample, EncoderBlock
from voxformer.model.subsampling import ConvSubsampling

TWO_FRAMES = 2
"""Where the two frames of an utterance are nearly alike in a mel bin, dividing by their standard
deviation makes a thousand of a rounding error; what looks at the garbage is off in the first
digit."""


@pytest.mark.parametrize("which", ["model", "model_of_three_rates"])
@settings(max_examples=15, deadline=None)
@given(samples=st.lists(st.integers(400, 9000), min_size=2, max_size=4), seed=st.integers(0, 99))
def test_encode_of_a_padded_batch_equals_encode_alone(
    request: pytest.FixtureRequest, which: str, samples: list[int], seed: int
) -> None:
    model: VoxFormer = request.getfixturevalue(which)
    generator = torch.Generator().manual_seed(seed)
    # Garbage, not zeros, stands beyond each end: nothing may look at it.
    waveforms = torch.randn(len(samples), max(samples), generator=generator)
    lengths = torch.tensor(samples)
    with torch.no_grad():
        encoder_out, out_lengths, log_probs = model.encode(waveforms, lengths)
        for row, count in enumerate(samples):
            alone = model.encode(waveforms[row : row + 1, :count], lengths[row : row + 1])
            frames = int(out_lengths[row])
            assert int(alone[1][0]) == frames
            two = int(model.front_end.frame_lengths(lengths[row])) == TWO_FRAMES
            limits = {"atol": 5e-4, "rtol": 1e-3} if two else {"atol": 2e-5, "rtol": 1e-4}
            torch.testing.assert_close(encoder_out[row, :frames], alone[0][0], **limits)
            torch.testing.assert_close(log_probs[row, :frames], alone[2][0], **limits)
            assert torch.all(encoder_out[row, frames:] == 0)


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("length", [1, 2, 5, 8, 11])
def test_downsample_ignores_padding_and_rounds_up(factor: int, length: int) -> None:
    torch.manual_seed(1)
    module = Downsample(factor)
    torch.nn.init.normal_(module.weights)
    x = torch.randn(1, length + 7, 6)
    padded, lengths = module(x, torch.tensor([length]))
    alone, _ = module(x[:, :length], torch.tensor([length]))
    assert int(lengths[0]) == -(-length // factor) == alone.size(1)
    torch.testing.assert_close(padded[:, : alone.size(1)], alone)


def test_downsample_of_a_constant_is_that_constant() -> None:
    module = Downsample(2)
    torch.nn.init.normal_(module.weights)
    out, _ = module(torch.full((1, 5, 3), 7.0), torch.tensor([5]))
    torch.testing.assert_close(out, torch.full((1, 3, 3), 7.0))


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 37])
def test_subsampling_frames_and_padding(frames: int) -> None:
    torch.manual_seed(2)
    module = ConvSubsampling(80, 8, 16, 0.0).eval()
    features = torch.randn(1, frames + 9, 80)
    padded, lengths = module(features, torch.tensor([frames]))
    alone, _ = module(features[:, :frames], torch.tensor([frames]))
    assert int(lengths[0]) == (frames + 3) // 4 == alone.size(1)
    torch.testing.assert_close(padded[:, : alone.size(1)], alone, atol=1e-5, rtol=1e-4)


def test_middle_block_runs_at_half_the_frame_rate_and_comes_back() -> None:
    block = EncoderBlock(2, 1, 32, 2, 2, 5, 0.0).eval()
    seen: list[int] = []
    block.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].size(1)))
    out = block(torch.randn(2, 25, 32), torch.tensor([25, 11]))
    assert seen == [13]
    assert out.shape == (2, 25, 32)


def test_multi_rate_encoder_frame_counts_per_block(model_of_three_rates: VoxFormer) -> None:
    seen: list[int] = []
    for block in model_of_three_rates.encoder.blocks:
        block.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].size(1)))
    with torch.no_grad():
        _, lengths, _ = model_of_three_rates.encode(torch.randn(1, 16000), torch.tensor([16000]))
    assert int(lengths[0]) == 25  # 98 feature frames
    assert seen == [25, 13, 7, 25]


def test_front_end_ignores_padding() -> None:
    front_end = LogMel()
    waveform = torch.randn(1, 12000)
    padded, lengths = front_end(waveform, torch.tensor([8000]))
    alone, _ = front_end(waveform[:, :8000], torch.tensor([8000]))
    torch.testing.assert_close(padded[:, : int(lengths[0])], alone, atol=1e-5, rtol=1e-5)
    assert torch.all(padded[:, int(lengths[0]) :] == 0)


def test_masks_are_finite_and_an_empty_utterance_gives_no_nan(model: VoxFormer) -> None:
    with torch.no_grad():
        out = model.encode(torch.randn(2, 4000), torch.tensor([4000, 100]))
    assert int(out[1][1]) == 0
    assert all(torch.isfinite(t).all() for t in out)
