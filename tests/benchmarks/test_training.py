"""What benchmarks say of a step, for every loss that a config can ask for."""

from __future__ import annotations

import pytest

from voxformer.config import RunConfig


@pytest.mark.parametrize("crf_weight", [0.0, 0.9])
def test_bytes_of_a_step_grow_with_its_utterances(script, crf_weight) -> None:
    config = RunConfig.model_validate(
        {
            "stage": "ctc",
            "model": {"vocab_size": 12, "d_model": 16, "encoder_num_blocks": 1},
            "training": {"crf_weight": crf_weight, "ema_decay": 0.9},
        }
    )
    training = script("training")
    few, many = (
        training.bytes_of_step(config, ["fp32", "bf16"], count, 1.5, 4) for count in (2, 6)
    )
    assert few.keys() == {"fp32", "bf16", *training.STATE}
    assert [few[part] for part in training.STATE] == [many[part] for part in training.STATE]
    assert few["averaged"] == few["weights"] >= few["gradients"] > 0
    assert 0 < few["bf16"] < few["fp32"] < many["fp32"]
