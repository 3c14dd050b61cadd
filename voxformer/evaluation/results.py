"""Results on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voxformer.text.atomic import write_atomically


def write_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write plain values as JSON, whole or not at all."""
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(Path(path), text + "\n")
