"""A bundle of the small random model, and noise to feed it."""

from __future__ import annotations

import numpy as np
import pytest

from voxformer.config import RunConfig
from voxformer.export import export_bundle


@pytest.fixture(scope="session")
def bundle(model, vocabulary, tmp_path_factory):
    """The model as a bundle; the exporter is the quick one."""
    out = tmp_path_factory.mktemp("bundles") / "tiny"
    config = RunConfig(model=model.config)
    return export_bundle(
        model, vocabulary.tokens, config, out, max_tokens_per_second=6.0, exporter="trace"
    )


@pytest.fixture
def noise():
    """Waveforms of so many samples each, reproducible."""

    def make(*lengths):
        random = np.random.default_rng(sum(lengths) + len(lengths))
        return [random.normal(0, 0.1, size=length).astype(np.float32) for length in lengths]

    return make
