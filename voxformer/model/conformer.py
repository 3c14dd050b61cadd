"""One Conformer layer (Gulati et al. 2020) with rotary attention and LayerNorm in the convolution.

BatchNorm is avoided on purpose: its statistics mix utterances and padding, which breaks the rule
that batch-mates never change a result.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from voxformer.model.masks import zero_padding
from voxformer.model.rotary import apply_rotary


class FeedForward(nn.Module):
    """LayerNorm, expansion, SiLU, projection back.

    Dropout is on the output only: on the wide hidden layer it took a fifth of a CPU training step.
    """

    def __init__(self, d_model: int, multiplier: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.expand = nn.Linear(d_model, d_model * multiplier)
        self.project = nn.Linear(d_model * multiplier, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_model] to the same shape."""
        return self.dropout(self.project(F.silu(self.expand(self.norm(x)))))


class RotarySelfAttention(nn.Module):
    """Multi-head self-attention over a padded batch."""

    def __init__(self, d_model: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(d_model)
        self.query_key_value = nn.Linear(d_model, 3 * d_model)
        self.project = nn.Linear(d_model, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """x [batch, time, d_model]; bias [batch, 1, 1, time]; tables [time, head_dim]."""
        batch, time, width = x.shape
        packed = self.query_key_value(self.norm(x)).view(batch, time, 3, self.num_heads, -1)
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, T, D) each
        query = apply_rotary(query, cosine, sine)
        key = apply_rotary(key, cosine, sine)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.dropout(self.project(mixed.transpose(1, 2).reshape(batch, time, width)))


class ConvolutionModule(nn.Module):
    """Gated pointwise convolution, depthwise convolution over time, LayerNorm, SiLU, projection."""

    def __init__(self, d_model: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.gate = nn.Linear(d_model, 2 * d_model)
        self.depthwise = nn.Conv1d(d_model, d_model, kernel, padding=kernel // 2, groups=d_model)
        self.inner_norm = nn.LayerNorm(d_model)
        self.project = nn.Linear(d_model, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [batch, time, d_model]; mask bool [batch, time]."""
        x = F.glu(self.gate(self.norm(x)), dim=-1)
        x = zero_padding(x, mask)
        x = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return self.dropout(self.project(F.silu(self.inner_norm(x))))


class ConformerLayer(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, LayerNorm."""

    def __init__(
        self, d_model: int, num_heads: int, ff_multiplier: int, kernel: int, dropout: float
    ) -> None:
        super().__init__()
        self.feed_forward1 = FeedForward(d_model, ff_multiplier, dropout)
        self.attention = RotarySelfAttention(d_model, num_heads, dropout)
        self.convolution = ConvolutionModule(d_model, kernel, dropout)
        self.feed_forward2 = FeedForward(d_model, ff_multiplier, dropout)
        self.norm = nn.LayerNorm(d_model)

    def forward(
        self, x: Tensor, mask: Tensor, bias: Tensor, cosine: Tensor, sine: Tensor
    ) -> Tensor:
        """x [batch, time, d_model]; mask bool [batch, time]; bias as `attention_bias` makes it."""
        x = x + 0.5 * self.feed_forward1(x)
        x = x + self.attention(x, bias, cosine, sine)
        x = x + self.convolution(x, mask)
        x = x + 0.5 * self.feed_forward2(x)
        return zero_padding(self.norm(x), mask)
