"""A bundle is used only as it was written; each fault is one line."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from voxformer.runtime import BundleError, Recognizer, read_bundle
from voxformer.runtime.bundle import sha256_of
from voxformer.runtime.options import SearchSetupError
from voxformer.runtime.segments import DEFAULT_CUTTING
from voxformer.text.ngrams import train_ngrams


@pytest.fixture
def copy(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "copy")


def edit(folder, **changes):
    path = folder / "bundle.json"
    values = json.loads(path.read_text("utf-8"))
    values.update(changes)
    path.write_text(json.dumps(values), "utf-8")


def test_reads_what_was_written(bundle, model, vocabulary):
    read = read_bundle(bundle)
    assert read.vocabulary == vocabulary
    assert read.sample_rate == model.config.sample_rate
    assert read.frame_shift_s == 0.04
    assert read.decoding.max_tokens_per_second == 6.0
    assert read.precision == "fp32"
    assert read.values["parity"]["max_abs_difference"]["log_probs"] < 1e-3


@pytest.mark.parametrize(("longest", "most"), [(12.5, 12.5), (None, 30.0), (45, 30.0), (2.0, 12.0)])
def test_pieces_are_as_long_as_what_the_model_learned_from(copy, longest, most):
    edit(copy, longest_seconds=longest)
    cutting = Recognizer.load(copy).cutting
    assert cutting.max_seconds == most
    assert cutting.overlap_seconds == min(4.0, most / 4)


def test_a_bundle_of_before_is_cut_as_before(copy):
    path = copy / "bundle.json"
    values = json.loads(path.read_text("utf-8"))
    del values["longest_seconds"]
    path.write_text(json.dumps(values), "utf-8")
    assert Recognizer.load(copy).cutting == DEFAULT_CUTTING


@pytest.mark.parametrize(
    "name", ["encoder.onnx", "decoder.onnx", "decoder_step.onnx", "tokens.txt"]
)
def test_changed_or_missing_file_is_refused_by_name(copy, name):
    path = copy / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name}: its SHA-256"):
        read_bundle(copy)
    path.unlink()
    with pytest.raises(BundleError, match=rf"{name}: missing"):
        Recognizer.load(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "something"}, "not a bundle"),
        ({"format_version": 6}, "install a newer voxformer"),
        ({"files": {}}, r"lists no tokens\.txt"),
        ({"vocabulary": {"size": 3, "blank_id": 0, "sos_eos_id": 2}}, "12 tokens"),
        ({"vocabulary": {}}, "export it again"),
        ({"sample_rate": "fast"}, "export it again"),
        ({"decoding": None}, "export it again"),
        ({"longest_seconds": "long"}, "export it again"),
        ({"longest_seconds": -3}, "longest_seconds is -3.0"),
        ({"longest_seconds": float("nan")}, "longest_seconds is nan"),
        ({"sample_rate": 0}, "above 0"),
        ({"sample_rate": float("inf")}, "export it again"),
        ({"frame_shift_s": float("nan")}, "above 0"),
        ({"modes": []}, "one of the modes"),
        ({"vocabulary": {"size": 12, "blank_id": "0", "sos_eos_id": 11}}, "two of the 12 tokens"),
        ({"vocabulary": {"size": 12, "blank_id": 0, "sos_eos_id": 12}}, "two of the 12 tokens"),
        ({"vocabulary": {"size": 12, "blank_id": 0, "sos_eos_id": 0}}, "two of the 12 tokens"),
    ],
)
def test_unusable_bundle_json_says_what_is_wrong(copy, changes, message):
    edit(copy, **changes)
    with pytest.raises(BundleError, match=message) as error:
        read_bundle(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"beam_size": "20"}, "decoding: beam_size is '20'; it must be a whole number"),
        ({"beam_size": 5}, "decoding: n_best is 10, more than beam_size 5"),
        ({"beam_size": 10**30}, "decoding: beam_size is 1000000000000000000000000000000; it must"),
        ({"attention_beam_size": 0}, "decoding: attention search: beam_size is 0"),
        ({"no_repeat_ngram": -1}, "decoding: attention search: no_repeat_ngram is -1"),
        ({"ctc_weight": [0.5]}, r"decoding: ctc_weight is \[0.5\]; it must be a number"),
        ({"ctc_weight": 2}, "decoding: ctc_weight is 2; it must be from 0 to 1"),
        ({"max_tokens_per_second": 0}, "decoding: max_tokens_per_second is 0; it must be above 0"),
        (
            {"max_tokens_per_second": float("inf")},
            "decoding: max_tokens_per_second is inf; it",
        ),
        ({"language_model": 5}, "decoding: language_model is 5; it must be the path of a file"),
        ({"lm_unit": "x"}, "decoding: lm_unit is 'x'"),
        ({"hotwords": "yes"}, "decoding: hotwords is 'yes'; it must be phrases"),
        ({"hotwords": [["yes", "5"]]}, "decoding: hotword 'yes' has boost '5'"),
        ({"repetition_penalty": None}, "decoding: repetition_penalty is None; it must be a number"),
    ],
)
def test_decoding_defaults_changed_by_hand_are_checked(copy, option, message):
    decoding = json.loads((copy / "bundle.json").read_text("utf-8"))["decoding"]
    edit(copy, decoding={**decoding, **option})
    with pytest.raises(BundleError, match=rf"bundle\.json: {message}") as error:
        Recognizer.load(copy)
    assert "\n" not in str(error.value)


def test_a_language_model_outside_the_bundle_is_refused(copy):
    decoding = json.loads((copy / "bundle.json").read_text("utf-8"))["decoding"]
    edit(copy, format_version=3, decoding={**decoding, "language_model": "../lm.arpa"})
    with pytest.raises(BundleError, match=r"'\.\./lm\.arpa' is not among its files; export it"):
        read_bundle(copy)


def test_another_language_model_takes_the_weights_of_the_bundles_own_away(copy):
    (copy / "words.arpa").write_text("".join(train_ngrams(["a b", "b"], 2)), "utf-8")
    (copy / "own.arpa").write_text("".join(train_ngrams(["b a"], 2)), "utf-8")
    values = json.loads((copy / "bundle.json").read_text("utf-8"))
    entry = {"sha256": sha256_of(copy / "own.arpa"), "bytes": 1}
    own = {"language_model": "own.arpa", "lm_weight": 0.9, "word_bonus": 2.0}
    edit(
        copy,
        format_version=3,
        files={**values["files"], "own.arpa": entry},
        decoding={**values["decoding"], **own},
    )
    recognizer = Recognizer.load(copy)
    assert recognizer.options.language_model == str(copy / "own.arpa")
    recognizer.transcribe([np.zeros(8000, np.float32)], mode="ctc_beam")
    assert not list(copy.glob("*.voxlm"))  # a bundle is not written to
    for other in (None, str(copy / "words.arpa")):
        options = Recognizer.load(copy, language_model=other).options
        assert (options.language_model, options.lm_weight, options.word_bonus) == (other, 0.5, 0.0)


def test_a_path_put_into_an_older_bundle_by_hand_is_used(copy, tmp_path):
    lm = tmp_path / "mine.arpa"
    lm.write_text("".join(train_ngrams(["a b"], 2)), "utf-8")
    decoding = json.loads((copy / "bundle.json").read_text("utf-8"))["decoding"]
    edit(copy, format_version=2, decoding={**decoding, "language_model": str(lm)})
    assert read_bundle(copy).decoding.language_model == str(lm)


def test_options_of_a_recognizer_are_checked_when_it_is_loaded(bundle):
    for options, message in (
        ({"beam_size": 0}, "beam_size is 0"),
        ({"threads": -1}, "num_threads is -1; it must be at least 0"),
        ({"threads": 1.5}, "num_threads is 1.5; it must be a whole number"),
        ({"hotwords": {"yes": None}}, "hotword 'yes' has boost None"),
    ):
        with pytest.raises(SearchSetupError, match=message):
            Recognizer.load(bundle, **options)
    Recognizer.load(bundle, beam_size=np.int64(12), ctc_weight=np.float32(0.5))


def test_what_is_not_a_bundle_says_so(tmp_path):
    file = tmp_path / "best.pt"
    file.write_bytes(b"")
    with pytest.raises(BundleError, match="voxformer export --checkpoint"):
        read_bundle(file)
    with pytest.raises(BundleError, match=r"no bundle\.json"):
        read_bundle(tmp_path)
    for broken in ("{", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"):
        (tmp_path / "bundle.json").write_text(broken, "utf-8")
        with pytest.raises(BundleError, match="not readable JSON"):
            read_bundle(tmp_path)
