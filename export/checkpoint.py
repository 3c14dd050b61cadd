"""From a checkpoint file to a bundle: what `voxformer export` calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from voxformer.training.checkpoint import load_model_checkpoint

from .bundle import Provenance, export_bundle
from .onnx_export import Exporter
from .precision import Precision

BUNDLES = "bundles"


def export_checkpoint(
    checkpoint: str | Path,
    out: str | Path | None = None,
    manifest: str | Path | None = None,
    *,
    precision: Precision = "fp32",
    ctc_topk: int | None = None,
    targets: Sequence[str] = (),
    timing_cache: Path | None = None,
    force: bool = False,
    search: Mapping[str, Any] | None = None,
    exporter: Exporter = "dynamo",
    say: Callable[[str], None] = lambda message: None,
) -> Path:
    """Export a checkpoint of stage 2 or later; see `export_bundle`.

    Args:
        checkpoint: a file that training wrote; the averaged weights are taken where it has them.
        out: the bundle's directory; default `bundles/<name of the run>`, with `-fp16` or `-int8`.
        manifest: speech for the gate; default the run's `data.valid_manifest`, if it has one.
        precision: see `export_bundle`.
        ctc_topk: see `export_bundle`.
        targets: see `export_bundle`.
        timing_cache: see `export_bundle`.
        force: see `export_bundle`.
        search: see `export_bundle`.
        exporter: see `export_graphs`.
        say: called with a line for each step.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        ExportRefused: the graphs are not the model, or `out` is something else.
        DataError: the manifest cannot be used.
        SearchSetupError: `search`, or the language model that it names, is not usable.
        OSError: the language model cannot be read.
    """
    checkpoint = Path(checkpoint)
    loaded = load_model_checkpoint(checkpoint)
    if manifest is None:
        manifest = loaded.config.data.valid_manifest
    if manifest is None:
        say("no manifest and no data.valid_manifest: error rates are not compared")
    if out is None:
        suffix = "" if precision == "fp32" else f"-{precision}"
        out = Path(BUNDLES) / f"{checkpoint.resolve().parent.name}{suffix}"
    return export_bundle(
        loaded.model,
        loaded.tokens,
        loaded.config,
        out,
        manifest,
        precision=precision,
        ctc_topk=ctc_topk,
        targets=targets,
        timing_cache=timing_cache,
        force=force,
        search=search,
        max_tokens_per_second=loaded.metadata["max_tokens_per_second"],
        longest_seconds=(loaded.metadata["data"] or {}).get("longest_seconds"),
        provenance=Provenance.from_metadata(checkpoint, loaded.metadata),
        tokenizer=loaded.tokenizer,
        exporter=exporter,
        say=say,
    )
