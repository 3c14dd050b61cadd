"""Settings of the whole suite."""

from __future__ import annotations

import os

# Small tensors gain nothing from threads, and on a busy machine they wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
