"""A bundle directory, which is what a deployer receives; bundle.json vouches for what is in it."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from voxformer.runtime.options import (
    MODES,
    DecodingOptions,
    Mode,
    SearchSetupError,
    Vocabulary,
)

FORMAT = "voxformer-bundle"
FORMAT_VERSION = 5
OWN_LANGUAGE_MODEL = 3
"""The first format in which `decoding.language_model` names a file of the bundle."""
OWN_LEXICON = 4
"""The first format whose `decoding.lexicon` an earlier version must not overlook."""
PACKED_LANGUAGE_MODEL = 5
"""The first format whose language model may be packed n-grams, which earlier versions cannot
read."""

MANIFEST_NAME = "bundle.json"
TOKENS_NAME = "tokens.txt"
GRAPH_NAMES = ("encoder.onnx", "decoder.onnx", "decoder_step.onnx")

_CHUNK = 1 << 20


class BundleWarning(UserWarning):
    """A bundle is known not to be the model that it was made from."""


class BundleError(ValueError):
    """A bundle cannot be used; the message is one line: which file, what is wrong, what to do."""


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    Attributes:
        path: the directory.
        sample_rate: of the waveforms that the encoder takes, in Hz.
        frame_shift_s: seconds between encoder frames.
        vocabulary: tokens and special ids.
        decoding: default options of the searches; the path of its own language model among them.
        modes: decoding modes whose parts are trained.
        precision: of weights and arithmetic: `fp32`, `fp16` or `int8`.
        longest_seconds: of the utterances that it was trained on; None where it is not known.
        values: all of bundle.json: provenance, parity, WER, …
    """

    path: Path
    sample_rate: int
    frame_shift_s: float
    vocabulary: Vocabulary
    decoding: DecodingOptions
    modes: tuple[Mode, ...]
    precision: str
    longest_seconds: float | None
    values: dict[str, Any]

    def file(self, name: str) -> Path:
        """Path of a file of the bundle."""
        return self.path / name


def read_bundle(path: str | Path, verify: bool = True) -> Bundle:
    """Read bundle.json and check every file against its digest.

    Warns of a bundle that was written although it is not the model (`export --force`).

    Args:
        path: the bundle's directory.
        verify: False trusts the files (a digest takes about a second per 500 MB).

    Raises:
        BundleError: not a bundle, of a newer version, incomplete, or a file of it was changed.
    """
    path = Path(path)
    values = _read_values(path)
    try:
        files: dict[str, Any] = values["files"]
        for name in (TOKENS_NAME, *GRAPH_NAMES):
            if name not in files:
                raise BundleError(f"{path / MANIFEST_NAME}: lists no {name}; export it again")
        for name, entry in files.items():
            _check_file(path, name, entry["sha256"], verify)
        if failure := values.get("parity", {}).get("failure"):
            warnings.warn(f"{path}: written with --force: {failure}", BundleWarning, stacklevel=2)
        decoding = _read_decoding(path, values)
        vocabulary = _read_vocabulary(path, values["vocabulary"])
        _check_search(path, decoding, vocabulary)
        bundle = Bundle(
            path=path,
            sample_rate=int(values["sample_rate"]),
            frame_shift_s=float(values["frame_shift_s"]),
            vocabulary=vocabulary,
            decoding=decoding,
            modes=tuple(mode for mode in MODES if mode in values.get("modes", MODES)),
            precision=str(values["precision"]),
            longest_seconds=_optional_seconds(values.get("longest_seconds")),
            values=values,
        )
        if bundle.sample_rate < 1 or not bundle.frame_shift_s > 0.0 or not bundle.modes:
            raise BundleError(
                f"{path / MANIFEST_NAME}: sample_rate and frame_shift_s are above 0, and there is "
                "one of the modes; export it again"
            )
        return bundle
    except SearchSetupError as error:
        raise BundleError(f"{path / MANIFEST_NAME}: decoding: {error}") from None
    except BundleError:
        raise
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise BundleError(
            f"{path / MANIFEST_NAME}: incomplete or of another shape ({error!r}); export it again"
        ) from None


def _read_decoding(path: Path, values: dict[str, Any]) -> DecodingOptions:
    decoding = DecodingOptions.from_mapping(values["decoding"])
    if values["format_version"] < OWN_LANGUAGE_MODEL:
        return decoding
    return replace(
        decoding,
        language_model=_own_file(path, values, "language_model", "--lm"),
        lexicon=_own_file(path, values, "lexicon", "--lexicon"),
    )


def _own_file(path: Path, values: dict[str, Any], field: str, flag: str) -> str | None:
    """Path of a file of the bundle that the options of its search name."""
    name = values["decoding"].get(field)
    if name is None:
        return None
    if name not in values["files"]:
        raise BundleError(
            f"{path / MANIFEST_NAME}: decoding.{field}: {name!r} is not among its files; "
            f"export it again with {flag}"
        )
    return str(path / name)


def _optional_seconds(value: Any) -> float | None:
    seconds = None if value is None else float(value)
    if seconds is not None and not 0.0 < seconds < math.inf:
        raise ValueError(f"longest_seconds is {seconds}")
    return seconds


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _read_values(path: Path) -> dict[str, Any]:
    manifest = path / MANIFEST_NAME
    if path.is_file():
        raise BundleError(
            f"{path}: a file, not a bundle; `voxformer export --checkpoint CKPT` makes one"
        )
    if not manifest.is_file():
        raise BundleError(
            f"{path}: no {MANIFEST_NAME} there, so it is not a bundle; `voxformer export` makes one"
        )
    try:
        values = json.loads(manifest.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{manifest}: not readable JSON: {error}") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise BundleError(f'{manifest}: "format" is not "{FORMAT}", so it is not a bundle')
    version = values.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise BundleError(
            f"{manifest}: format version {version}, this VoxFormer reads up to {FORMAT_VERSION}; "
            "install a newer voxformer"
        )
    return values


def _check_file(path: Path, name: str, expected: str, verify: bool) -> None:
    file = path / name
    if not file.is_file():
        raise BundleError(f"{file}: missing; copy the bundle again")
    if verify and sha256_of(file) != expected:
        raise BundleError(f"{file}: its SHA-256 is not the one in {MANIFEST_NAME}; copy it again")


def _check_search(path: Path, decoding: DecodingOptions, vocabulary: Vocabulary) -> None:
    try:
        decoding.beam(vocabulary.blank_id)
    except ValueError as error:
        raise BundleError(f"{path / MANIFEST_NAME}: decoding: {error}") from None


def _read_vocabulary(path: Path, special: dict[str, Any]) -> Vocabulary:
    # Split at "\n" alone: a piece may be another of the characters that splitlines() splits at.
    tokens = (path / TOKENS_NAME).read_text("utf-8").removesuffix("\n").split("\n")
    if len(tokens) != special["size"]:
        raise BundleError(
            f"{path / TOKENS_NAME}: {len(tokens)} tokens, bundle.json says {special['size']}; "
            "export it again"
        )
    ids = (special["blank_id"], special["sos_eos_id"])
    if not all(isinstance(i, int) and 0 <= i < len(tokens) for i in ids) or ids[0] == ids[1]:
        raise BundleError(
            f"{path / MANIFEST_NAME}: blank_id and sos_eos_id are {ids}; they are two of the "
            f"{len(tokens)} tokens' ids; export it again"
        )
    return Vocabulary(tuple(tokens), *ids)
