"""The one thing that export says when it does not write."""

from __future__ import annotations


class ExportRefused(ValueError):
    """The graphs are not what the model is, or cannot be made; nothing was written."""
