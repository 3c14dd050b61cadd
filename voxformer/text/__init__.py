"""Text: the normalisation that training and scoring share, and the SentencePiece tokenizer."""

from __future__ import annotations

from .normalise import normalise
from .tokenizer import Tokenizer, TokenizerError, train_tokenizer

__all__ = ["Tokenizer", "TokenizerError", "normalise", "train_tokenizer"]
