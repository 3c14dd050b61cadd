"""BEST-RQ pre-training (Chiu et al. 2022, "Self-supervised learning with random-projection
quantizer").

Labels come from a fixed random projection of stacked feature frames and a fixed random codebook;
the encoder sees the features with spans replaced by noise and predicts the labels of the masked
frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxformer.audio.features import LogMel
from voxformer.config import ModelConfig, PretrainConfig
from voxformer.model.masks import length_mask
from voxformer.model.voxformer import VoxFormer

FRAMES_PER_OUTPUT = 4
NOISE_STD = 0.1


class RandomProjectionQuantizer(nn.Module):
    """Stacked frames to codebook indices; nothing here is trained, everything is saved.

    Args:
        input_dim: width of a stacked frame.
        config: codebook sizes.
        seed: of the projection and the codebooks.
    """

    projection: Tensor
    codebooks: Tensor

    def __init__(self, input_dim: int, config: PretrainConfig, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        books, size, width = config.num_codebooks, config.codebook_size, config.codebook_dim
        bound = (6.0 / (input_dim + width)) ** 0.5  # Xavier uniform, as in the paper
        projection = (torch.rand(books, input_dim, width, generator=generator) * 2 - 1) * bound
        codebooks = F.normalize(torch.randn(books, size, width, generator=generator), dim=-1)
        self.register_buffer("projection", projection)
        self.register_buffer("codebooks", codebooks)

    @torch.no_grad()
    def forward(self, stacked: Tensor) -> Tensor:
        """[batch, frames, input_dim] to labels int64 [batch, frames, num_codebooks]."""
        with torch.autocast(stacked.device.type, enabled=False):
            projected = torch.einsum("btd,kdw->btkw", stacked, self.projection)
            projected = F.normalize(projected, dim=-1)
            # For unit vectors the nearest is the one with the largest inner product.
            return torch.einsum("btkw,kcw->btkc", projected, self.codebooks).argmax(-1)


@dataclass(frozen=True)
class PretrainOutput:
    """Sums over the masked frames of a batch.

    Attributes:
        loss: cross-entropy summed over masked frames, meaned over codebooks.
        masked: number of masked frames.
        correct: masked frames predicted right (mean over codebooks).
        label_counts: int64 [num_codebooks, codebook_size], over the masked frames.
    """

    loss: Tensor
    masked: int
    correct: float
    label_counts: Tensor


class BestRq(nn.Module):
    """The encoder with a quantizer and one prediction head per codebook."""

    def __init__(self, model: ModelConfig, config: PretrainConfig, seed: int) -> None:
        super().__init__()
        self.config = config
        network = VoxFormer(model)
        self.front_end: LogMel = network.front_end
        self.encoder = network.encoder
        self.quantizer = RandomProjectionQuantizer(model.n_mels * FRAMES_PER_OUTPUT, config, seed)
        self.heads = nn.Linear(model.d_model, config.num_codebooks * config.codebook_size)

    def mask(self, feature_lengths: Tensor, frames: int, seeds: Tensor) -> Tensor:
        """Masked encoder frames, bool [batch, frames], drawn from each utterance's own seed.

        At least one span is masked in every utterance that has a frame.
        """
        masks = torch.zeros(len(seeds), frames, dtype=torch.bool)
        for row, (length, seed) in enumerate(
            zip(feature_lengths.tolist(), seeds.tolist(), strict=True)
        ):
            outputs = -(-length // FRAMES_PER_OUTPUT)
            if outputs == 0:
                continue
            generator = torch.Generator().manual_seed(int(seed))
            starts = torch.rand(outputs, generator=generator) < self.config.mask_probability
            starts[int(torch.randint(outputs, (1,), generator=generator))] = True
            for start in starts.nonzero().flatten().tolist():
                masks[row, start : min(start + self.config.mask_frames, outputs)] = True
        return masks

    def forward(self, waveforms: Tensor, sample_lengths: Tensor, seeds: Tensor) -> PretrainOutput:
        """Loss over the masked frames of a padded batch; see `VoxFormer.encode` for the shapes."""
        with torch.no_grad():
            features, lengths = self.front_end(waveforms, sample_lengths)
            batch, frames, bins = features.shape
            outputs = -(-frames // FRAMES_PER_OUTPUT)
            padded = F.pad(features, (0, 0, 0, outputs * FRAMES_PER_OUTPUT - frames))
            labels = self.quantizer(padded.reshape(batch, outputs, FRAMES_PER_OUTPUT * bins))
            masked = self.mask(lengths, outputs, seeds).to(features.device)
            hidden = masked.repeat_interleave(FRAMES_PER_OUTPUT, dim=1)[:, :frames]
            noise = torch.randn_like(features) * NOISE_STD
            corrupted = torch.where(hidden.unsqueeze(2), noise, features)
        encoder_out, out_lengths = self.encoder(corrupted, lengths)
        masked = masked & length_mask(out_lengths, outputs)
        logits = self.heads(encoder_out[masked]).float()
        logits = logits.view(-1, self.config.num_codebooks, self.config.codebook_size)
        targets = labels[masked]
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        books = self.config.num_codebooks
        correct = (logits.argmax(-1) == targets).float().sum().item() / books
        counts = torch.stack(
            [targets[:, k].bincount(minlength=self.config.codebook_size) for k in range(books)]
        )
        return PretrainOutput(loss / books, int(masked.sum()), correct, counts)
