"""The parity report says what the gate measured and what the bundles recognise."""

from __future__ import annotations

import json

import pytest

from voxformer.config import RunConfig
from voxformer.evaluation.models import ModelError
from voxformer.export import export_checkpoint


@pytest.fixture(scope="module")
def report(script, random_bundle, noise_manifest, tmp_path_factory):
    """Of fp32 and fp16 bundles of one checkpoint, as parity.py writes it."""
    folder = tmp_path_factory.mktemp("parity")
    checkpoint = random_bundle.parent / "run" / "best.pt"
    half = export_checkpoint(
        checkpoint, folder / "half", noise_manifest, precision="fp16", exporter="trace"
    )
    arguments = ["--model", str(random_bundle), str(half), "--json", str(folder / "parity.json")]
    assert script("parity").main(arguments) == 0
    values = json.loads((folder / "parity.json").read_text("utf-8"))
    bundles = [json.loads((b / "bundle.json").read_text("utf-8")) for b in (random_bundle, half)]
    return folder, values, bundles


def test_numbers_are_those_of_the_gate(report):
    _, values, bundles = report
    for found, bundle in zip(values["parity"], bundles, strict=True):
        parity = bundle["parity"]
        assert found["precision"] == bundle["precision"]
        assert set(found["graphs"]) == {"encoder", "decoder", "decoder_step"}
        for graph, output in (("encoder", "log_probs"), ("decoder_step", "step_log_probs")):
            numbers = found["graphs"][graph]
            assert numbers["worst"] == parity["max_abs_difference"][output]
            assert numbers["worst"] == max(numbers["cases"].values())
            assert numbers["cases"] == {n: c[output] for n, c in parity["cases"].items()}
    assert values["parity"][1]["graphs"]["encoder"]["largest_half"] > 0.0


def test_error_rates_are_compared_in_every_mode(report):
    _, values, bundles = report
    for found, bundle in zip(values["parity"], bundles, strict=True):
        assert list(found["wer"]) == ["ctc_greedy", "ctc_beam", "attention", "rescoring"]
        for mode, rates in bundle["parity"]["wer"].items():
            assert found["wer"][mode]["torch"] == pytest.approx(rates["torch"])
            assert found["wer"][mode]["graphs"] == pytest.approx(rates["onnxruntime"])


def test_report_becomes_two_tables(report, script):
    folder, values, _ = report
    renderer = script("render_results")
    worst = values["parity"][0]["graphs"]["decoder"]["worst"]
    assert f"| fp32 | decoder | 0.001 | {worst:.1e} |" in renderer.table(["parity"], folder)
    rates = values["parity"][1]["wer"]["rescoring"]
    cells = f"rescoring | {rates['torch']:.2%} | {rates['graphs']:.2%} | {rates['errors_apart']} |"
    assert cells in renderer.table(["parity:wer"], folder)


def test_bundles_of_two_checkpoints_are_refused(script, random_bundle, model, tmp_path):
    config = RunConfig(model=model.config)
    script("random_model").write(str(tmp_path / "best.pt"), model, config, 13.0)
    other = export_checkpoint(tmp_path / "best.pt", tmp_path / "other", exporter="trace")
    with pytest.raises(ModelError, match="of another checkpoint"):
        script("parity").main(["--model", str(random_bundle), str(other)])
