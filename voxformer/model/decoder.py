"""Transformer attention decoder: teacher forcing and rescoring in one pass, or step by step.

The step form keeps a cache for self-attention only. Cross-attention absorbs the key and value
projections into the query and the output (q·(W e) = (Wᵀ q)·e), so that a step reads the encoder
output itself: nothing is projected or cached per hypothesis.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxformer.model.conformer import FeedForward
from voxformer.model.masks import MASKED, attention_bias, length_mask, zero_padding
from voxformer.model.rotary import apply_rotary, rotary_tables, sinusoidal_positions


class CausalSelfAttention(nn.Module):
    """Rotary self-attention that sees the past only."""

    def __init__(self, d_model: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(d_model)
        self.query_key_value = nn.Linear(d_model, 3 * d_model)
        self.project = nn.Linear(d_model, d_model)
        self.dropout = nn.Dropout(dropout)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, time, _ = x.shape
        packed = self.query_key_value(self.norm(x)).view(batch, time, 3, self.num_heads, -1)
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def forward(self, x: Tensor, bias: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """x [rows, time, d_model]; bias hides the future; tables [time, head_dim]."""
        query, key, value = self._heads(x)
        query = apply_rotary(query, cosine, sine)
        key = apply_rotary(key, cosine, sine)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.dropout(self.project(mixed.transpose(1, 2).flatten(2)))

    def step(
        self, x: Tensor, past_key: Tensor, past_value: Tensor, cosine: Tensor, sine: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x [rows, 1, d_model]; past keys and values [rows, heads, past, head_dim]."""
        query, key, value = self._heads(x)
        query = apply_rotary(query, cosine, sine)
        key = torch.cat([past_key, apply_rotary(key, cosine, sine)], dim=2)
        value = torch.cat([past_value, value], dim=2)
        scores = torch.matmul(query, key.transpose(2, 3)) * query.size(3) ** -0.5
        mixed = torch.matmul(scores.float().softmax(-1).to(x.dtype), value)
        return self.project(mixed.transpose(1, 2).flatten(2)), key, value


class CrossAttention(nn.Module):
    """Attention of decoder positions over encoder frames."""

    def __init__(self, d_model: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(d_model)
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model, bias=False)  # a bias cannot change the softmax
        self.value = nn.Linear(d_model, d_model)
        self.project = nn.Linear(d_model, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, encoder_out: Tensor, bias: Tensor) -> Tensor:
        """x [batch, positions, d_model]; encoder_out [batch, frames, d_model]."""
        batch, positions, width = x.shape
        frames = encoder_out.size(1)
        query = self.query(self.norm(x)).view(batch, positions, self.num_heads, -1).transpose(1, 2)
        key = self.key(encoder_out).view(batch, frames, self.num_heads, -1).transpose(1, 2)
        value = self.value(encoder_out).view(batch, frames, self.num_heads, -1).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.dropout(self.project(mixed.transpose(1, 2).reshape(batch, positions, width)))

    def weights(self, x: Tensor, encoder_out: Tensor, bias: Tensor) -> Tensor:
        """What `forward` attends to: float32 [batch, heads, positions, frames]."""
        batch, positions, _ = x.shape
        query = self.query(self.norm(x)).view(batch, positions, self.num_heads, -1).transpose(1, 2)
        key = self.key(encoder_out).view(batch, encoder_out.size(1), self.num_heads, -1)
        scores = torch.matmul(query, key.permute(0, 2, 3, 1)) * query.size(3) ** -0.5 + bias
        return scores.float().softmax(-1)

    def step(self, x: Tensor, encoder_out: Tensor, bias: Tensor) -> Tensor:
        """The same for one position per row, x [rows, 1, d_model], with absorbed projections."""
        rows, _, width = x.shape
        heads, head_dim = self.num_heads, width // self.num_heads
        query = self.query(self.norm(x)).view(rows, heads, 1, head_dim)
        key_weight = self.key.weight.view(1, heads, head_dim, width)
        absorbed = torch.matmul(query, key_weight)[:, :, 0]  # (R, H, width)
        scores = torch.matmul(absorbed, encoder_out.transpose(1, 2)) * head_dim**-0.5 + bias
        context = torch.matmul(scores.float().softmax(-1).to(x.dtype), encoder_out)  # (R, H, width)
        value_weight = self.value.weight.view(1, heads, head_dim, width).transpose(2, 3)
        mixed = torch.matmul(context.unsqueeze(2), value_weight).reshape(rows, 1, width)
        return self.project(mixed + self.value.bias)


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention, feed-forward; all pre-norm."""

    def __init__(self, d_model: int, num_heads: int, ff_multiplier: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = CausalSelfAttention(d_model, num_heads, dropout)
        self.cross_attention = CrossAttention(d_model, num_heads, dropout)
        self.feed_forward = FeedForward(d_model, ff_multiplier, dropout)


class AttentionDecoder(nn.Module):
    """Next-token logits from previous tokens and encoder output.

    Outputs cover `<blank>` (0, never a target), the pieces, and `<sos/eos>` (the last). It attends
    to the encoder output with sinusoidal positions added (`memory`): the encoder's own positions
    are relative, so that of two equal sounds nothing else says which came first.
    """

    def __init__(
        self,
        num_outputs: int,
        d_model: int,
        num_heads: int,
        num_layers: int,
        ff_multiplier: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = d_model // num_heads
        self.sos_eos_id = num_outputs - 1
        self.embedding = nn.Embedding(num_outputs, d_model)
        nn.init.normal_(self.embedding.weight, std=d_model**-0.5)
        self.scale = d_model**0.5
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            DecoderLayer(d_model, num_heads, ff_multiplier, dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.output_bias = nn.Parameter(torch.zeros(num_outputs))
        self.position_scale = nn.Parameter(torch.ones(d_model))

    def memory(self, encoder_out: Tensor, encoder_lengths: Tensor) -> Tensor:
        """Encoder output [batch, frames, d_model] plus scaled positions (Vaswani et al. 2017).

        Once per utterance: `forward` and `step` take what this returns. 0 in the padding.
        """
        _, frames, width = encoder_out.shape
        positions = sinusoidal_positions(frames, width, encoder_out.device)
        placed = encoder_out + (self.position_scale * positions).to(encoder_out.dtype)
        return zero_padding(placed, length_mask(encoder_lengths, frames))

    def forward(self, memory: Tensor, encoder_lengths: Tensor, tokens: Tensor) -> Tensor:
        """Logits for every position of given prefixes.

        Args:
            memory: float [batch, frames, d_model].
            encoder_lengths: int64 [batch].
            tokens: int64 [batch·n, length], each row starting with `<sos/eos>`; the n rows of an
                utterance follow each other and share its memory. Padding may be any id:
                it comes after an utterance's own tokens, which never look ahead.

        Returns:
            Logits float [batch·n, length, num_outputs].
        """
        rows, length = tokens.shape
        batch, frames, width = memory.shape
        x = self.dropout(self.embedding(tokens) * self.scale)
        steps = torch.arange(length, device=tokens.device)
        ahead = (steps.unsqueeze(0) > steps.unsqueeze(1)).to(torch.float32) * MASKED
        causal = ahead.to(x.dtype)[None, None]
        bias = attention_bias(length_mask(encoder_lengths, frames), x.dtype)
        cosine, sine = rotary_tables(length, self.head_dim, x.device, x.dtype)
        for layer in self._layers():
            x = x + layer.self_attention(x, causal, cosine, sine)
            grouped = x.reshape(batch, -1, width)  # (B, n·length, D): keys are shared by the n rows
            attended = layer.cross_attention(grouped, memory, bias)
            x = x + attended.reshape(rows, length, width)
            x = x + layer.feed_forward(x)
        return self._logits(x)

    def step(
        self, memory: Tensor, encoder_lengths: Tensor, tokens: Tensor, cache: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits after one more token.

        Args:
            memory: float [rows, frames, d_model].
            encoder_lengths: int64 [rows].
            tokens: int64 [rows], the last token of each row.
            cache: float [layers, 2, rows, heads, past, head_dim]; past is 0 at the start.

        Returns:
            Logits [rows, num_outputs], and the cache with one more position.
        """
        x = (self.embedding(tokens) * self.scale).unsqueeze(1)
        mask = length_mask(encoder_lengths, memory.size(1))
        bias = attention_bias(mask, x.dtype)[:, 0]  # (R, 1, T)
        position = cache.size(4)
        cosine, sine = rotary_tables(1, self.head_dim, x.device, x.dtype, start=position)
        grown = []
        for index, layer in enumerate(self._layers()):
            attended, key, value = layer.self_attention.step(
                x, cache[index, 0], cache[index, 1], cosine, sine
            )
            x = x + attended
            x = x + layer.cross_attention.step(x, memory, bias)
            x = x + layer.feed_forward(x)
            grown.append(torch.stack([key, value]))
        return self._logits(x)[:, 0], torch.stack(grown)

    def empty_cache(self, rows: int) -> Tensor:
        """The cache before the first step."""
        weight = self.embedding.weight
        return weight.new_zeros(len(self.layers), 2, rows, self.num_heads, 0, self.head_dim)

    def _layers(self) -> Iterator[DecoderLayer]:
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            yield layer

    def _logits(self, x: Tensor) -> Tensor:
        return F.linear(self.norm(x), self.embedding.weight, self.output_bias)
