"""A bundle is used only as it was written; each fault is one line."""

from __future__ import annotations

import json
import shutil

import pytest

from voxformer.runtime import BundleError, Recognizer, read_bundle
from voxformer.runtime.segments import DEFAULT_CUTTING


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
        ({"format_version": 3}, "install a newer voxformer"),
        ({"files": {}}, r"lists no tokens\.txt"),
        ({"vocabulary": {"size": 3, "blank_id": 0, "sos_eos_id": 2}}, "12 tokens"),
        ({"vocabulary": {}}, "export it again"),
        ({"sample_rate": "fast"}, "export it again"),
        ({"decoding": None}, "export it again"),
        ({"longest_seconds": "long"}, "export it again"),
        ({"longest_seconds": -3}, "longest_seconds is -3.0"),
        ({"longest_seconds": float("nan")}, "longest_seconds is nan"),
    ],
)
def test_unusable_bundle_json_says_what_is_wrong(copy, changes, message):
    edit(copy, **changes)
    with pytest.raises(BundleError, match=message) as error:
        read_bundle(copy)
    assert "\n" not in str(error.value)


def test_what_is_not_a_bundle_says_so(tmp_path):
    file = tmp_path / "best.pt"
    file.write_bytes(b"")
    with pytest.raises(BundleError, match="voxformer export --checkpoint"):
        read_bundle(file)
    with pytest.raises(BundleError, match=r"no bundle\.json"):
        read_bundle(tmp_path)
    (tmp_path / "bundle.json").write_text("{", "utf-8")
    with pytest.raises(BundleError, match="not readable JSON"):
        read_bundle(tmp_path)
