"""Data: manifests, corpus preparation, augmentation, and the resumable batches of training.

Only what needs no torch is imported here; batches are in `voxformer.data.loader`.
"""

from __future__ import annotations

from .manifest import DataError, Utterance, read_manifest, spread, write_manifest

__all__ = ["DataError", "Utterance", "read_manifest", "spread", "write_manifest"]
