"""What export writes, and where it refuses to."""

from __future__ import annotations

import dataclasses
import errno
import gzip
import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from voxformer.config import RunConfig
from voxformer.decoding import Lexicon
from voxformer.export import ExportRefused, Provenance, bundle, export_bundle, onnx_export
from voxformer.export.onnx_export import TRACED_ROWS, export_graph, graphs_of
from voxformer.export.parity import check_numbers
from voxformer.export.precision import LIMITS
from voxformer.export.unpack import unpack_bundle
from voxformer.runtime import Recognizer, read_bundle
from voxformer.runtime.bundle import BundleError, sha256_of
from voxformer.runtime.onnx_engine import OnnxEngine
from voxformer.runtime.options import SearchSetupError
from voxformer.runtime.torch_engine import TorchEngine
from voxformer.text.mixture import BackoffModel
from voxformer.text.ngrams import train_ngrams
from voxformer.text.packed import pack
from voxformer.training.checkpoint import load_checkpoint

GRAPHS = ("encoder.onnx", "decoder.onnx", "decoder_step.onnx")


def test_bundle_says_what_is_in_it_and_where_it_comes_from(model, vocabulary, config, tmp_path):
    said = []
    out = export_bundle(
        model,
        vocabulary.tokens,
        config,
        tmp_path / "deep" / "out",
        max_tokens_per_second=4.5,
        longest_seconds=16.5,
        provenance=Provenance("runs/best.pt", "ab" * 32, 1200, "hybrid"),
        exporter="trace",
        say=said.append,
    )
    values = json.loads((out / "bundle.json").read_text("utf-8"))
    assert sorted(path.name for path in out.iterdir()) == sorted(
        (*GRAPHS, "decoder.weights", "bundle.json", "tokens.txt")
    )
    for name, entry in values["files"].items():
        assert entry == {
            "sha256": sha256_of(out / name),
            "bytes": (out / name).stat().st_size,
        }
    assert values["vocabulary"] == {"size": 12, "blank_id": 0, "sos_eos_id": 11}
    assert values["decoding"]["max_tokens_per_second"] == 4.5
    assert values["longest_seconds"] == 16.5
    assert values["decoding"]["beam_size"] == config.decoding.beam_size
    assert values["provenance"]["step"] == 1200
    assert values["provenance"]["versions"]["onnx"] == onnx.__version__
    assert values["wer"] is None
    assert values["parity"]["max_abs_difference"]["log_probs"] <= LIMITS["fp32"].difference
    assert read_bundle(out).vocabulary == vocabulary
    assert said


def test_provenance_names_paths_from_the_working_directory_on(
    exports, model, vocabulary, config, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for given, written in (
        (tmp_path / "runs" / "best.pt", "runs/best.pt"),
        ("runs/best.pt", "runs/best.pt"),
        ("/elsewhere/best.pt", "/elsewhere/best.pt"),
    ):
        provenance = Provenance(str(given), "ab" * 32, 1200, "hybrid")
        out = export_bundle(
            model, vocabulary.tokens, config, tmp_path / "out", provenance=provenance
        )
        values = json.loads((out / "bundle.json").read_text("utf-8"))
        assert values["provenance"]["checkpoint"] == written


def test_cap_of_the_config_goes_before_the_measured_one(
    exports, model, vocabulary, config, tmp_path
):
    decoding = config.decoding.model_copy(update={"max_tokens_per_second": 2.0})
    own = config.model_copy(update={"decoding": decoding})
    out = export_bundle(model, vocabulary.tokens, own, tmp_path / "out", max_tokens_per_second=4.5)
    assert read_bundle(out).decoding.max_tokens_per_second == 2.0


def test_language_model_becomes_part_of_the_bundle(exports, model, vocabulary, config, tmp_path):
    lm = tmp_path / "yes.arpa"
    lm.write_text("".join(train_ngrams(["a b a", "b a"], 2)), "utf-8")
    search = {"language_model": str(lm), "lm_weight": 0.7, "word_bonus": 1.0}
    out = export_bundle(model, vocabulary.tokens, config, tmp_path / "out", search=search)
    lm.unlink()
    out = out.rename(tmp_path / "moved")
    values = json.loads((out / "bundle.json").read_text("utf-8"))
    assert values["format_version"] == 3
    assert values["decoding"]["language_model"] == "language-model.arpa"
    assert sorted(values["files"]) == sorted(
        (*GRAPHS, "decoder.weights", "tokens.txt", "language-model.arpa")
    )
    recognizer = Recognizer.load(out)
    assert recognizer.options.language_model == str(out / "language-model.arpa")
    assert (recognizer.options.lm_weight, recognizer.options.word_bonus) == (0.7, 1.0)
    silence = np.zeros(16000, dtype=np.float32)
    assert recognizer.transcribe([silence], mode="ctc_beam")[0].text is not None
    (out / "language-model.arpa").write_text("\\data\\\n", "utf-8")
    with pytest.raises(BundleError, match=r"language-model\.arpa: its SHA-256"):
        Recognizer.load(out)


def test_packed_language_model_asks_for_a_version_that_reads_it(
    exports, model, vocabulary, config, tmp_path
):
    lm = tmp_path / "packed"
    lm.write_bytes(pack(BackoffModel.read_arpa(train_ngrams(["a b a", "b a"], 2))))
    search = {"language_model": str(lm), "lm_weight": 0.7}
    out = export_bundle(model, vocabulary.tokens, config, tmp_path / "out", search=search)
    values = json.loads((out / "bundle.json").read_text("utf-8"))
    assert values["format_version"] == 5
    assert values["decoding"]["language_model"] == "language-model.ngrams"
    silence = np.zeros(16000, dtype=np.float32)
    assert Recognizer.load(out).transcribe([silence], mode="ctc_beam")[0].text is not None


def test_lexicon_becomes_part_of_the_bundle(exports, model, vocabulary, config, tmp_path):
    lexicon = tmp_path / "words.txt.gz"
    letters = [t for t in vocabulary.tokens if t.isalpha() and t.islower()]
    entries = [(f"word-{a}", a + b) for a in letters for b in letters]
    lexicon.write_bytes(gzip.compress(Lexicon(entries).dump().encode()))
    spoken = config.model_copy(deep=True)
    spoken.data.pronunciation = "en-us"
    with pytest.raises(ExportRefused, match=r"writes phones \(en-us\): name a lexicon"):
        export_bundle(model, vocabulary.tokens, spoken, tmp_path / "out")
    search = {"lexicon": str(lexicon)}
    out = export_bundle(model, vocabulary.tokens, spoken, tmp_path / "out", search=search)
    lexicon.unlink()
    values = json.loads((out / "bundle.json").read_text("utf-8"))
    assert values["format_version"] == 4
    assert values["decoding"]["lexicon"] == "lexicon.txt.gz"
    recognizer = Recognizer.load(out)
    noise = np.random.default_rng(1).normal(0, 0.1, 32000).astype(np.float32)
    known = {word for word, _ in entries}
    for mode in ("ctc_beam", "rescoring"):
        words = recognizer.transcribe([noise], mode=mode)[0].text.split()
        assert set(words) <= known
    values["files"].pop("lexicon.txt.gz")
    (out / "bundle.json").write_text(json.dumps(values))
    with pytest.raises(BundleError, match=r"decoding\.lexicon: .* export it again with --lexicon"):
        Recognizer.load(out)


def test_unusable_language_model_is_refused_before_anything_is_made(
    model, vocabulary, config, tmp_path
):
    lm = tmp_path / "lm.arpa"
    lm.write_text("no model", "utf-8")
    for path, error in ((lm, SearchSetupError), (tmp_path / "none.arpa", FileNotFoundError)):
        with pytest.raises(error, match=path.name):
            export_bundle(
                model,
                vocabulary.tokens,
                config,
                tmp_path / "out",
                search={"language_model": str(path)},
            )
    with pytest.raises(ExportRefused, match=r"cached\.voxlm: is of this version .* name the ARPA"):
        export_bundle(
            model,
            vocabulary.tokens,
            config,
            tmp_path / "out",
            search={"language_model": "cached.voxlm"},
        )
    assert list(tmp_path.iterdir()) == [lm]


def test_graphs_are_opset_18_with_dynamic_axes_and_no_paths(graphs):
    for name in GRAPHS:
        proto = onnx.load(graphs / name)
        onnx.checker.check_model(proto, full_check=True)
        assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 18)]
        for value in (*proto.graph.input, *proto.graph.output):
            assert value.type.tensor_type.shape.dim[0].dim_param or "cache" in value.name
        content = (graphs / name).read_bytes()
        assert str(Path(__file__).resolve().parents[2]).encode() not in content
        assert b"voxformer.py" not in content


def test_wrong_number_of_tokens_is_refused(model, vocabulary, config, tmp_path):
    with pytest.raises(ExportRefused, match="it needs 12"):
        export_bundle(model, vocabulary.tokens[:-1], config, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_place_that_holds_something_else_is_left_alone(model, vocabulary, config, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work", "utf-8")
    with pytest.raises(ExportRefused, match="is not a bundle"):
        export_bundle(model, vocabulary.tokens, config, tmp_path)
    with pytest.raises(ExportRefused, match="is not a bundle"):
        export_bundle(model, vocabulary.tokens, config, tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text("utf-8") == "years of work"
    (tmp_path / "null").symlink_to(os.devnull)
    with pytest.raises(ExportRefused, match="is not a bundle"):
        export_bundle(model, vocabulary.tokens, config, tmp_path / "null")
    assert (tmp_path / "null").is_char_device()


def test_a_full_disk_is_not_said_to_be_pytorchs_fault(
    model, vocabulary, config, tmp_path, monkeypatch
):
    def full(graph, path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(onnx_export, "_export_trace", full)
    with pytest.raises(OSError, match="No space left") as caught:
        export_bundle(model, vocabulary.tokens, config, tmp_path / "out", exporter="trace")
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_killed_while_writing_leaves_no_bundle(
    exports, model, vocabulary, config, tmp_path, monkeypatch
):
    def killed(path, text):
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        export_bundle(model, vocabulary.tokens, config, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


class FixedRows(torch.nn.Module):
    """A graph that works for seven rows only: what a Python number in a reshape does."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def forward(self, encoder_out, encoder_lengths, tokens, cache):
        log_probs, cache = self.step(encoder_out, encoder_lengths, tokens, cache)
        return log_probs.reshape(TRACED_ROWS, 12), cache


def test_graph_for_one_shape_only_is_refused(model, graphs, tmp_path):
    shutil.copytree(graphs, tmp_path, dirs_exist_ok=True)
    graph = graphs_of(model)["decoder_step"]
    fixed = dataclasses.replace(graph, module=FixedRows(graph.module))
    export_graph(fixed, tmp_path / "decoder_step.onnx", {}, "trace")
    with pytest.raises(ExportRefused, match="the graphs cannot run"):
        check_numbers(TorchEngine(model), OnnxEngine(tmp_path, 16000, 0.04))


@pytest.mark.slow
def test_dynamo_refuses_an_axis_that_became_a_constant(model, tmp_path):
    graph = graphs_of(model)["decoder_step"]
    fixed = dataclasses.replace(graph, module=FixedRows(graph.module))
    with pytest.raises(ExportRefused, match=r"decoder_step\.onnx"):
        export_graph(fixed, tmp_path / "decoder_step.onnx", {}, "dynamo")


@pytest.mark.slow
def test_dynamo_graphs_are_the_model(trained, vocabulary, tokenizer, tmp_path):
    out = export_bundle(
        trained,
        vocabulary.tokens,
        RunConfig(model=trained.config),
        tmp_path / "out",
        tokenizer=tokenizer,
        exporter="dynamo",
    )
    read = read_bundle(out)
    report = check_numbers(TorchEngine(trained), OnnxEngine.from_bundle(read))
    assert max(report["max_abs_difference"].values()) <= LIMITS["fp32"].difference
    assert unpack_bundle(out, tmp_path / "start.pt") <= LIMITS["fp32"].difference
    found = load_checkpoint(tmp_path / "start.pt")["model"]
    for name, value in trained.state_dict().items():
        is_share = name.endswith("downsample.weights")
        pair = [weight.softmax(0) if is_share else weight for weight in (found[name], value)]
        torch.testing.assert_close(*pair)
