"""`--ctc-topk`: the best tokens of a frame in place of the matrix, and the gate on them."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from voxformer.export import ExportRefused, bundle, export_bundle
from voxformer.export.parity import _top_difference
from voxformer.export.precision import LIMITS
from voxformer.export.top_k import keep_best
from voxformer.runtime import (
    DecodingOptions,
    Encoded,
    ModeError,
    Recognizer,
    TopTokens,
    decode,
    encode,
    pad_batch,
    read_bundle,
    recognise_batch,
)
from voxformer.runtime.onnx_engine import OnnxEngine

OPTIONS = DecodingOptions(beam_size=6, n_best=6, max_tokens_per_second=6.0)
ALL = 11
MODES = ("ctc_greedy", "ctc_beam", "attention", "rescoring")


@pytest.fixture
def exported(exports, model, vocabulary, config, tmp_path):
    """A bundle with the best k tokens of a frame, in a precision."""

    def make(k, **arguments):
        out = tmp_path / f"best-{k}"
        return export_bundle(model, vocabulary.tokens, config, out, ctc_topk=k, **arguments)

    return make


def noise(*lengths):
    random = np.random.default_rng(len(lengths))
    return pad_batch([random.normal(0, 0.1, size=n).astype(np.float32) for n in lengths])


def same(left, right):
    for a, b in zip(left, right, strict=True):
        assert [h.token_ids for h in a] == [h.token_ids for h in b]
        np.testing.assert_allclose([h.score for h in a], [h.score for h in b], atol=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_all_tokens_give_what_the_matrix_gives(exported, engine, vocabulary, mode):
    short = OnnxEngine.from_bundle(read_bundle(exported(ALL)))
    batch = noise(16000, 9411, 399)
    expected = recognise_batch(engine, *batch, mode, OPTIONS, vocabulary)
    same(recognise_batch(short, *batch, mode, OPTIONS, vocabulary), expected)


def test_bundle_says_how_many_and_is_judged_with_them(exported, speech):
    out = exported(3, manifest=speech)
    values = json.loads((out / "bundle.json").read_text("utf-8"))
    assert values["ctc_topk"] == 3
    assert 0.0 < values["parity"]["max_abs_difference"]["log_probs"] < 1e-3
    assert set(values["parity"]["wer"]) == {"ctc_greedy", "rescoring"}
    outputs = {o.name: o for o in onnx.load(out / "encoder.onnx").graph.output}
    axes = [d.dim_param or d.dim_value for d in outputs["top_log_probs"].type.tensor_type.shape.dim]
    assert axes == ["batch", "frames", 3]
    assert "log_probs" not in outputs


def test_frames_hold_their_best_tokens_and_the_blank(exported, engine, vocabulary):
    batch = noise(16000, 9411)
    whole = encode(engine, *batch)
    encoded = encode(OnnxEngine.from_bundle(read_bundle(exported(3))), *batch)
    top = encoded.ctc
    assert top.token_ids.dtype == np.int32
    expected = -np.sort(-whole.log_probs, axis=2)[:, :, :3]
    np.testing.assert_allclose(top.log_probs, expected, atol=1e-4)
    chosen = np.take_along_axis(whole.log_probs, top.token_ids.astype(np.int64), axis=2)
    np.testing.assert_allclose(top.log_probs, chosen, atol=1e-4)
    blanks = whole.log_probs[:, :, vocabulary.blank_id]
    np.testing.assert_allclose(top.blank_log_probs, blanks, atol=1e-4)


def test_fp16_and_int8_are_shortened_after_the_conversion(exported, speech):
    for precision in ("fp16", "int8"):
        out = exported(4, manifest=speech, precision=precision)
        values = json.loads((out / "bundle.json").read_text("utf-8"))
        assert (values["ctc_topk"], values["precision"]) == (4, precision)
        assert {"largest_activations", "kept_fp32"} & set(values["parity"])
        recognizer = Recognizer.load(out)
        assert isinstance(encode(recognizer.engine, *noise(8000)).ctc, TopTokens)


@pytest.mark.parametrize("mode", ["ctc_greedy", "ctc_beam"])
def test_few_tokens_are_enough_where_the_others_have_no_say(vocabulary, mode):
    """Log-probs as of a trained model: two or three tokens hold all but 1e-9 of a frame."""
    random = np.random.default_rng(1)
    scores = random.normal(0, 1, size=(2, 60, ALL))
    ranked = np.argsort(random.random((2, 60, ALL)), axis=2)
    scores[np.take_along_axis(ranked, ranked, 2) < 3] += 25.0
    log_probs = scores - np.log(np.exp(scores).sum(axis=2, keepdims=True))
    log_probs = log_probs.astype(np.float32)
    ids = np.argsort(-log_probs, axis=2)[:, :, :4].astype(np.int32)
    top = TopTokens(ids, np.take_along_axis(log_probs, ids, 2), log_probs[:, :, 0])
    lengths = np.array([60, 41])
    expected, found = (
        decode(None, Encoded(None, lengths, ctc), [2.4, 1.6], mode, OPTIONS, vocabulary)
        for ctc in (log_probs, top)
    )
    same(found, expected)


def test_what_needs_the_matrix_says_so_in_one_line(exported):
    recognizer = Recognizer.load(exported(3))
    [waveform] = noise(16000)[0]
    with pytest.raises(ModeError, match=r"mode attention takes .* without --ctc-topk") as error:
        recognizer.transcribe([waveform], "attention")
    assert "\n" not in str(error.value)
    [transcript] = recognizer.transcribe([waveform], "rescoring")
    assert [w.start for w in transcript.words] == sorted(w.start for w in transcript.words)
    with pytest.raises(ModeError, match="the best 3 of a frame; export it without --ctc-topk"):
        _ = encode(recognizer.engine, *noise(8000)).log_probs


@pytest.mark.parametrize("k", [0, 12])
def test_number_that_no_frame_has_is_refused(exported, k):
    with pytest.raises(ExportRefused, match=f"the best {k} tokens .* CTC has 11 outputs"):
        exported(k)


def test_wrong_tokens_are_refused(exported, monkeypatch, tmp_path):
    """The worst tokens of a frame have true log-probs; they are still not the best."""

    def keep_worst(path, k, blank_id):
        keep_best(path, k, blank_id)
        proto = onnx.load(path)
        [node] = [node for node in proto.graph.node if node.op_type == "TopK"]
        node.attribute.append(onnx.helper.make_attribute("largest", 0))
        onnx.save(proto, path)

    monkeypatch.setattr(bundle, "keep_best", keep_worst)
    with pytest.raises(ExportRefused, match="log_probs differ from the model's"):
        exported(3)
    assert list(tmp_path.iterdir()) == []


def test_equal_tokens_may_stand_for_one_another():
    expected = np.log(np.array([[[0.1, 0.3, 0.3, 0.3]]], dtype=np.float32))

    def top(ids, shift=0.0):
        ids = np.array([[ids]], dtype=np.int32)
        values = np.take_along_axis(expected, ids.astype(np.int64), 2) + np.float32(shift)
        return TopTokens(ids, values, expected[:, :, 0])

    limits = LIMITS["fp32"]
    assert _top_difference(expected, top([1, 2]), limits) == 0.0
    assert _top_difference(expected, top([3, 1]), limits) == 0.0
    assert _top_difference(expected, top([0, 1]), limits) > 0.5
    assert _top_difference(expected, top([1, 2], 0.25), limits) == pytest.approx(0.25)
    assert np.isinf(_top_difference(expected, top([1, 1]), limits))
    assert np.isnan(_top_difference(expected, top([1, 2], np.nan), limits))
