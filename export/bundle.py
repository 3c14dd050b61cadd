"""Writes a bundle: into a folder beside the final one, through the gate, then in place at once."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from voxformer import __version__
from voxformer.config import RunConfig
from voxformer.data import Utterance, read_manifest, spread
from voxformer.decoding.language_model import SUFFIX
from voxformer.evaluation import Evaluation
from voxformer.model import FRAME_SHIFT_S, VoxFormer
from voxformer.runtime.bundle import (
    FORMAT,
    GRAPH_NAMES,
    MANIFEST_NAME,
    OWN_LANGUAGE_MODEL,
    OWN_LEXICON,
    PACKED_LANGUAGE_MODEL,
    TOKENS_NAME,
    sha256_of,
)
from voxformer.runtime.onnx_engine import OnnxEngine
from voxformer.runtime.options import DecodingOptions, Vocabulary, trained_modes
from voxformer.runtime.recognise import check_search
from voxformer.runtime.torch_engine import TorchEngine
from voxformer.text.packed import MAGIC as PACKED_MAGIC
from voxformer.text.packed import PACKED_SUFFIX

from .convert import Conversions, Judge
from .engines import add_engines, load_target
from .errors import ExportRefused
from .onnx_export import OPSET, Exporter, export_graphs
from .precision import PRECISIONS, Precision
from .shared import share_weights
from .top_k import check_k, keep_best

GATE_UTTERANCES = 200
"""Utterances of a manifest that the gate recognises, spread evenly over it."""

WITHOUT_LM = 2
"""The bundle's format where it has no language model, which earlier versions read as well."""
TOKENIZER_NAME = "tokenizer.model"
"""What texts are encoded with, for whoever trains the model further; searches do not read it."""
GZIP = b"\x1f\x8b"
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")


@dataclass(frozen=True)
class Provenance:
    """Where a bundle's weights come from; all of it may be unknown.

    Attributes:
        checkpoint: path; bundle.json has it from the working directory on, if it is below.
        digest: SHA-256 of the checkpoint, in hex.
        step: optimiser updates.
        stage: `ctc`, `attention` or `hybrid`.
    """

    checkpoint: str | None = None
    digest: str | None = None
    step: int | None = None
    stage: str | None = None

    @classmethod
    def from_metadata(cls, checkpoint: str | Path, metadata: Mapping[str, Any]) -> Provenance:
        """From what `load_model_checkpoint` says about a checkpoint."""
        return cls(str(checkpoint), metadata.get("digest"), metadata["step"], metadata["stage"])


def export_bundle(
    model: VoxFormer,
    tokens: Sequence[str],
    config: RunConfig,
    out: str | Path,
    manifest: str | Path | None = None,
    *,
    precision: Precision = "fp32",
    ctc_topk: int | None = None,
    targets: Sequence[str] = (),
    timing_cache: Path | None = None,
    force: bool = False,
    max_tokens_per_second: float | None = None,
    longest_seconds: float | None = None,
    search: Mapping[str, Any] | None = None,
    provenance: Provenance | None = None,
    tokenizer: bytes | None = None,
    exporter: Exporter = "dynamo",
    say: Callable[[str], None] = lambda message: None,
) -> Path:
    """Export a trained model as a bundle directory, or refuse and write nothing.

    Args:
        model: in eval mode; it is copied to the CPU and to fp32.
        tokens: `<blank>`, the pieces, `<sos/eos>`.
        config: of the run; its `decoding` section becomes the bundle's defaults.
        out: the directory; an earlier bundle there is replaced, anything else is left alone.
        manifest: speech for the gate's comparison of error rates, and the WER in bundle.json.
        precision: of weights and arithmetic: `fp32`, `fp16` (with fp32 islands) or `int8`
            (calibrated on the manifest).
        ctc_topk: encoder.onnx gives ids and log-probs of so many tokens of a frame, and the
            blank's, in place of the whole CTC matrix; None for the matrix.
        targets: names of devices to build TensorRT engines for, from fp32 graphs: `rtx4090`, `h100`
            or `local`; where one cannot be built for here, a build kit is written.
        timing_cache: see `build_engines`.
        force: write what the gate refuses, with its failure in bundle.json, of which the runtime
            warns; int8 then keeps no matrix in fp32.
        max_tokens_per_second: measured on the training data; the config's own value goes first.
        longest_seconds: of the training utterances; longer recordings are cut to it.
        search: fields of `DecodingOptions` that replace the config's. A language model is copied
            into the bundle, and used by whoever does not say otherwise.
        provenance: of the weights.
        tokenizer: the SentencePiece model that made the tokens, with which `unpack_bundle` makes a
            checkpoint of the bundle again; None where that is not wanted.
        exporter: see `export_graphs`.
        say: called with a line for each step.

    Returns:
        `out` as a path.

    Raises:
        ExportRefused: the graphs are not the model, `out` is something else, or a `.voxlm` file was
            named.
        EngineBuildError: a target is unknown, or an engine cannot be built.
        DataError: the manifest cannot be used.
        SearchSetupError: `search`, or the language model that it names, is not usable.
        OSError: the language model cannot be read.
    """
    if precision not in PRECISIONS:
        raise ExportRefused(f"no precision {precision!r}; there is {', '.join(PRECISIONS)}")
    if precision == "int8" and manifest is None:
        raise ExportRefused("int8 is calibrated on real speech; name some with --manifest")
    wanted = [load_target(name) for name in targets]
    out = Path(out)
    vocabulary = Vocabulary.from_tokens(tokens)
    if len(tokens) != config.model.vocab_size + 2:
        raise ExportRefused(
            f"{len(tokens)} tokens for a model with {config.model.vocab_size} pieces: it needs "
            f"{config.model.vocab_size + 2}, <blank> and <sos/eos> among them"
        )
    check_k(ctc_topk, len(tokens) - 1)
    _check_target(out)
    utterances = _gate_utterances(manifest)
    options = replace(_decoding_defaults(config, max_tokens_per_second), **(search or {}))
    if Path(options.language_model or "").suffix == SUFFIX:
        raise ExportRefused(
            f"{options.language_model}: is of this version and kind of machine alone; "
            "name the ARPA file that it was made from"
        )
    spoken = config.data.pronunciation
    if spoken is not None and options.lexicon is None:
        raise ExportRefused(
            f"the model writes phones ({spoken}): name a lexicon for its words with --lexicon "
            f"(`voxformer lexicon --voice {spoken}` makes one)"
        )
    check_search(options, vocabulary)
    provenance = provenance or Provenance()
    modes = trained_modes(provenance.stage)
    model = copy.deepcopy(model).cpu().float()
    with _staging(out) as folder:
        say(f"tracing {', '.join(GRAPH_NAMES)} ({exporter})")
        export_graphs(model, folder, _graph_metadata(config, provenance), exporter)
        say("comparing the graphs with the model")
        judge = Judge(TorchEngine(model), vocabulary, options, modes, utterances)
        exported = OnnxEngine(folder, config.model.sample_rate, FRAME_SHIFT_S)
        verdict = judge.verdict(exported, "fp32")
        engines: dict[str, Any] = {"engines": {}}
        if verdict.failure is None:
            with tempfile.TemporaryDirectory() as room:
                conversions = Conversions(folder, judge, Path(room), say, force)
                if wanted:
                    engines = add_engines(conversions, folder, wanted, say, timing_cache, ctc_topk)
                graphs, converted = conversions.to(precision)
                if converted is not None:
                    verdict = converted
                    for name in GRAPH_NAMES:
                        shutil.copyfile(graphs / name, folder / name)
        if ctc_topk is not None:
            say(f"keeping the best {ctc_topk} tokens of a frame, and comparing again")
            keep_best(folder / GRAPH_NAMES[0], ctc_topk, vocabulary.blank_id)
            if verdict.failure is None:
                shortened = OnnxEngine(folder, config.model.sample_rate, FRAME_SHIFT_S)
                verdict = judge.verdict(shortened, precision, verdict.parity)
        parity = verdict.parity
        if verdict.failure is not None:
            if not force:
                raise ExportRefused(
                    f"{verdict.failure}; the {precision} export is wrong, nothing was written "
                    "(--force writes it all the same)"
                )
            parity["failure"] = verdict.failure
            say(f"WRONG, written because of --force: {verdict.failure}")
        wer = None if verdict.evaluation is None else _wer_of(verdict.evaluation, manifest)
        _write(folder / TOKENS_NAME, "".join(f"{token}\n" for token in tokens))
        names = [TOKENS_NAME, *GRAPH_NAMES]
        if tokenizer is not None:
            (folder / TOKENIZER_NAME).write_bytes(tokenizer)
            names.append(TOKENIZER_NAME)
        if shared := share_weights(folder, GRAPH_NAMES[1:]):
            names.append(shared)
        if options.language_model is not None:
            names.append(_copy(options.language_model, folder, "language-model", ".arpa"))
            options = replace(options, language_model=names[-1])
        if options.lexicon is not None:
            names.append(_copy(options.lexicon, folder, "lexicon", ".txt"))
            options = replace(options, lexicon=names[-1])
        values = {
            "format": FORMAT,
            "format_version": _format_version(options),
            "sample_rate": config.model.sample_rate,
            "frame_shift_s": FRAME_SHIFT_S,
            "vocabulary": {
                "size": len(tokens),
                "blank_id": vocabulary.blank_id,
                "sos_eos_id": vocabulary.sos_eos_id,
            },
            "decoding": options.to_json(),
            "modes": list(modes),
            "longest_seconds": longest_seconds,
            "pronunciation": spoken,
            "precision": precision,
            "ctc_topk": ctc_topk,
            "opset": OPSET,
            **engines,
            "files": {
                name: {"sha256": sha256_of(folder / name), "bytes": (folder / name).stat().st_size}
                for name in names
            },
            "model": config.model.model_dump(mode="json"),
            "provenance": {
                "checkpoint": _relative_to_cwd(provenance.checkpoint),
                "checkpoint_sha256": provenance.digest,
                "step": provenance.step,
                "stage": provenance.stage,
                "manifest": _relative_to_cwd(manifest),
                "versions": _versions(),
            },
            "parity": parity,
            "wer": wer,
        }
        _write(folder / MANIFEST_NAME, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
        _flush(folder)
    return out


def _gate_utterances(manifest: str | Path | None) -> list[Utterance]:
    """Up to `GATE_UTTERANCES` of the manifest, spread evenly."""
    if manifest is None:
        return []
    return spread(read_manifest(manifest), GATE_UTTERANCES)


def _decoding_defaults(config: RunConfig, measured: float | None) -> DecodingOptions:
    values = config.decoding.model_dump(mode="json")
    if values["max_tokens_per_second"] is None:
        values["max_tokens_per_second"] = measured
    return DecodingOptions.from_mapping(values)


def _format_version(options: DecodingOptions) -> int:
    """The least that knows what the bundle needs, so that earlier versions may read it."""
    if options.language_model is not None and options.language_model.endswith(PACKED_SUFFIX):
        return PACKED_LANGUAGE_MODEL
    if options.lexicon is not None:
        return OWN_LEXICON
    return OWN_LANGUAGE_MODEL if options.language_model is not None else WITHOUT_LM


def _copy(path: str, folder: Path, stem: str, suffix: str) -> str:
    """The file's name in the bundle; its first bytes say whether it is compressed or packed."""
    with open(path, "rb") as file:
        start = file.read(len(PACKED_MAGIC))
    if start == PACKED_MAGIC:
        suffix = PACKED_SUFFIX
    elif start.startswith(GZIP):
        suffix += ".gz"
    shutil.copyfile(path, folder / f"{stem}{suffix}")
    return f"{stem}{suffix}"


def _wer_of(evaluation: Evaluation, manifest: str | Path | None) -> dict[str, Any]:
    report = evaluation.to_json(utterances=False)
    rates = ("wer", "wer_interval_95", "band", "words", "cer")
    return {
        "manifest": _relative_to_cwd(manifest),
        "utterances": report["utterances"],
        "modes": {
            mode: {key: result[key] for key in rates} for mode, result in report["modes"].items()
        },
    }


def _relative_to_cwd(path: str | Path | None) -> str | None:
    """A path below the working directory from there on: others have no use for the rest of it."""
    if path is None:
        return None
    with contextlib.suppress(ValueError):
        return str(Path(path).absolute().relative_to(Path.cwd()))
    return str(path)


def _graph_metadata(config: RunConfig, provenance: Provenance) -> dict[str, str]:
    return {
        "version": __version__,
        "sample_rate": str(config.model.sample_rate),
        "frame_shift_s": str(FRAME_SHIFT_S),
        "checkpoint_sha256": provenance.digest or "",
    }


def _versions() -> dict[str, str]:
    versions = {"voxformer": __version__}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _check_target(out: Path) -> None:
    replaceable = out.is_dir() and (_is_bundle(out) or not any(out.iterdir()))
    if out.exists() and not replaceable:
        raise ExportRefused(f"{out}: exists and is not a bundle; name another place with --out")


def _is_bundle(path: Path) -> bool:
    return (path / MANIFEST_NAME).is_file()


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place on success and vanishes on failure."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    earlier = out.with_name(f".{out.name}.{os.getpid()}.old")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
        if out.exists():
            out.rename(earlier)
        try:
            folder.rename(out)
        except OSError:
            if earlier.exists():
                earlier.rename(out)
            raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(earlier, ignore_errors=True)
    _sync(out.parent)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _flush(folder: Path) -> None:
    """To the disk, before the folder gets its final name."""
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
