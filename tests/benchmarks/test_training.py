"""Operations are counted as by hand; the script runs from config to table."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import training
import yaml

from voxformer.config import RunConfig
from voxformer.training.batch_size import Trial, forward_pass, made_up_batch
from voxformer.training.memory import saved_bytes
from voxformer.training.optim import make_optimizer
from voxformer.training.precision import Precision
from voxformer.training.setup import build_objective

CPU = torch.device("cpu")


def test_operations_of_the_encoder_are_those_counted_by_hand() -> None:
    width, channels, outputs, batch = 64, 8, 101, 3
    config = RunConfig.model_validate(
        {
            "stage": "ctc",
            "model": {
                "vocab_size": outputs - 1,
                "d_model": width,
                "encoder_num_heads": 2,
                "encoder_num_blocks": 1,
                "encoder_layers_per_block": 2,
                "subsampling_channels": channels,
                "encoder_conv_kernel": 15,
            },
        }
    )
    frames = 100  # of the encoder, of 400 of the front end
    feed_forward = 2 * 2 * (2 * width * 4 * width)
    attention = 2 * width * 3 * width + 2 * width * width + 2 * 2 * frames * width
    convolution = 2 * width * 2 * width + 2 * width * width + 2 * 15 * width
    layers = 2 * batch * frames * (feed_forward + attention + convolution)
    first = 2 * 9 * channels * batch * 200 * 40
    others = batch * 100 * 20 * (2 * 9 * channels + 2 * channels * channels)
    projections = batch * frames * (2 * channels * 20 * width + 2 * width * outputs)
    # Backward costs twice as much, but for the gradient of the features, which nobody needs.
    expected = 3 * (layers + others + projections) + 2 * first
    assert training.count_flops(config, [("Encoder", (batch, 400))]) == expected
    assert training.count_flops(config, [("Encoder", (batch, 400))] * 2) == 2 * expected


def test_a_frozen_encoder_is_counted_forward_only() -> None:
    shapes = [("Encoder", (2, 200)), ("AttentionDecoder", (2, 9))]
    model = {"vocab_size": 50, "d_model": 32, "encoder_layers_per_block": 1}
    configs = {
        stage: RunConfig.model_validate({"stage": stage, "model": model})
        for stage in ("ctc", "attention")
    }
    counts = {name: training.count_flops(config, shapes[:1]) for name, config in configs.items()}
    assert 2.5 < counts["ctc"] / counts["attention"] < 3.3
    assert training.count_flops(configs["attention"], shapes) > counts["attention"]


def test_a_peak_is_measured_where_the_table_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "MATRIX", 128)
    assert 1e7 < training.peak_flops(CPU, "fp32") < 1e14
    gpu = torch.device("cuda")
    for name, peak in {
        "NVIDIA H100 80GB HBM3": 989e12,
        "NVIDIA A100-SXM4-80GB": 312e12,
        "NVIDIA GeForce RTX 4090": 165.2e12,
        "NVIDIA L4": 121e12,
        "NVIDIA L40S": None,
        "NVIDIA H100 PCIe": None,
        "Tesla T4": None,
    }.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert training.known_peak(gpu, "bf16") == peak


@pytest.mark.parametrize("crf_weight", [0.0, 0.9])
def test_a_step_keeps_as_much_as_its_batch_does(crf_weight: float) -> None:
    config = RunConfig.model_validate(
        {
            "stage": "ctc",
            "model": {"vocab_size": 12, "d_model": 16, "encoder_num_blocks": 1},
            "training": {"crf_weight": crf_weight, "ema_decay": 0.9},
        }
    )
    found = training.bytes_of_step(config, ["fp32", "bf16"], 5, 1.5, 4)
    assert found["averaged"] == found["weights"] > found["gradients"] > 0  # no decoder's
    assert found["moments"] >= 2 * found["gradients"]
    bigram = torch.full((13, 13), 1 / 13)
    module, objective = build_objective(config, CPU, bigram)
    optimizer = make_optimizer(module, config.training)
    trial = Trial(config, module, objective, optimizer, Precision("fp32", CPU, True))
    batch = made_up_batch(config, 5, 1.5, 4)
    assert found["fp32"] == saved_bytes(module, lambda: forward_pass(trial, batch))
    assert found["bf16"] < found["fp32"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["speed", "memory"])
def test_a_config_is_measured_to_a_table(tmp_path: Path, mode: str) -> None:
    generator = np.random.default_rng(0)
    rows = []
    for index in range(12):
        samples = 16000 + 1000 * index
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, generator.normal(0, 0.1, samples), 16000)
        text = "low mid high rise fall"
        rows.append({"audio_filepath": path.name, "duration": samples / 16000, "text": text})
    manifest = tmp_path / "train.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "model": {"vocab_size": 16, "d_model": 32, "encoder_layers_per_block": 1},
        "training": {"batch_size": 3, "num_workers": 0, "device": "cpu", "num_threads": 1},
        "data": {"train_manifest": str(manifest)},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    output = tmp_path / "out.json"
    arguments = ["--config", str(path), "--steps", "3", "--warmup", "1", "--json", str(output)]
    assert training.main(arguments + (["--memory"] if mode == "memory" else [])) == 0
    values = json.loads(output.read_text())
    (found,) = values["measured"]
    assert len(values["rows"][0]) == len(values["columns"])
    assert found["steps"] == len(found["step_seconds"]) == 3
    assert found["padded_seconds"] >= 0.97 * found["audio_seconds"] > 0
    assert 0 < found["flops"] / sum(found["step_seconds"]) < found["peak_flops"] < math.inf
    assert 0 <= found["data_wait"] < 1
    if mode == "memory":
        assert found["saved_bytes"]["bf16"] < found["saved_bytes"]["fp32"]
        assert found["state_bytes"] == pytest.approx(16 * found["parameters"], rel=0.01)
