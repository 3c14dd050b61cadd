"""A whole run from manifests to a bundle: four stages, export, evaluation, real-time factor.

Each part is kept when it is complete, so that a recipe that was stopped goes on where it was. The
commands that it stands for (`train`, `export`, `evaluate`) do the same one by one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from voxformer.config import ConfigError, RunConfig, load_config
from voxformer.data.manifest import DataError, read_manifest
from voxformer.text.atomic import write_atomically

STAGES = ("stage1", "stage2", "stage3", "stage4")
EXTRA_STAGES = STAGES[:3]
WARM_UP_BATCHES = 3
Say = Callable[[str], None]


@dataclass(frozen=True)
class Corpus:
    """Manifests of a run.

    Attributes:
        sets: to learn from, with their weights, by stage.
        dev: to choose the best checkpoint on.
        tests: to report, by name; nothing is chosen on them.
    """

    sets: Mapping[str, Sequence[tuple[Path, float]]]
    dev: Path
    tests: Mapping[str, Path]


class StageFailed(Exception):
    """A stage ended with an exit code of its own (signal, disk, watch)."""

    def __init__(self, stage: str, code: int) -> None:
        super().__init__(f"{stage} ended with exit code {code}")
        self.stage = stage
        self.code = code


def corpus_in(folder: Path) -> Corpus:
    """The corpus of a folder that holds train.jsonl, dev.jsonl and test*.jsonl.

    `extra*.jsonl` may be there too: speech of other kinds, which stages 1 to 3 learn from as well,
    while the joint stage 4 keeps to `train`.

    Raises:
        DataError: one of them is missing.
    """
    train, dev = folder / "train.jsonl", folder / "dev.jsonl"
    tests = {path.stem: path for path in sorted(folder.glob("test*.jsonl"))}
    for path in (train, dev):
        if not path.is_file():
            raise DataError(
                f"{path}: no such manifest; a corpus has train.jsonl, dev.jsonl, test*.jsonl"
            )
    if not tests:
        raise DataError(
            f"{folder}: no test*.jsonl; a corpus has train.jsonl, dev.jsonl, test*.jsonl"
        )
    everything = [train, *sorted(folder.glob("extra*.jsonl"))]
    sets = {stage: everything if stage in EXTRA_STAGES else [train] for stage in STAGES}
    weighted = {stage: [(path, 1.0) for path in paths] for stage, paths in sets.items()}
    return Corpus(weighted, dev, tests)


def run_recipe(
    recipe: str,
    corpus: Corpus,
    out: Path,
    overrides: list[str],
    say: Say,
    exporter: Literal["dynamo", "trace"] = "dynamo",
) -> Path:
    """Train the four stages and export what the last one gives; returns the bundle.

    See `train_stages` for arguments and what is raised.
    """
    best = train_stages(recipe, corpus, out, overrides, say)
    return export_once(best, corpus, out / "bundle", say, exporter=exporter)


def train_stages(
    recipe: str,
    corpus: Corpus,
    out: Path,
    overrides: list[str],
    say: Say,
    planned: Mapping[str, list[str]] | None = None,
) -> Path:
    """Train the stages; returns the checkpoint of the last.

    A run folder with `best.pt` and without `latest.pt` is a finished stage whose weights were
    brought from elsewhere, and is taken as it is. How it came about may be told under `note` in
    out/training.json, for the model card.

    Args:
        recipe: folder of stage1.yaml … stage4.yaml, as `--config` finds it (`an4`, `quickstart`).
        corpus: manifests.
        out: run folders go to out/checkpoints, the bundle to out/bundle.
        overrides: `section.key=value` for every stage.
        say: told what happens.
        planned: the same for single stages; what `overrides` says goes first. A stage that it does
            not name is left out, the last one never; default: all, with nothing of their own.

    Raises:
        StageFailed: a stage was stopped; run the recipe again to go on.
    """
    if any(override.startswith("training.checkpoint_dir") for override in overrides):
        raise ConfigError("training.checkpoint_dir: each stage has its own; use --out")
    planned = {stage: [] for stage in STAGES} if planned is None else planned
    tokenizer_overrides = [*planned[first_with_text(planned)], *overrides]
    tokenizer = tokenizer_of(recipe, corpus, out, tokenizer_overrides, say)
    previous: Path | None = None
    record = out / "training.json"
    known: dict[str, Any] = {"seconds": {}}
    if record.is_file():  # of a stage that was finished elsewhere it may be all that is known
        known = json.loads(record.read_text("utf-8"))
    seconds: dict[str, float] = known["seconds"]
    for stage in STAGES:
        if stage not in planned:
            continue
        folder = out / "checkpoints" / stage
        if (folder / "best.pt").is_file() and not (folder / "latest.pt").is_file():
            previous = folder / "best.pt"
            say(f"{stage}: finished elsewhere, {previous}")
            continue
        of_stage = [*planned.get(stage, []), *overrides]
        config = stage_config(recipe, stage, corpus, folder, tokenizer, previous, of_stage)
        say(f"{stage}: {config.stage.value}, {config.training.num_epochs} epochs in {folder}")
        seconds[stage] = train_stage(config, stage)
        previous = best_of(folder)
        say(f"{stage}: {seconds[stage]:.0f} s of training, {previous}")
    values = {**known, "total_seconds": sum(seconds.values())}
    write_atomically(record, json.dumps(values, indent=2) + "\n")
    assert previous is not None
    return previous


def first_with_text(stages: Iterable[str]) -> str:
    """The first of the stages that learns from texts."""
    return min(set(stages) - {STAGES[0]})


def best_of(folder: Path) -> Path:
    """`best.pt` where a validation chose one, else `latest.pt`."""
    best = folder / "best.pt"
    return best if best.is_file() else folder / "latest.pt"


def evaluate_bundle(
    bundle: Path, checkpoint: Path, corpus: Corpus, out: Path, say: Say
) -> dict[str, Any]:
    """WER of every mode on every test set with ONNX Runtime, and the RTF of both engines.

    The result is written to out/results.json as well.
    """
    from voxformer.evaluation import evaluate
    from voxformer.evaluation.circumstances import circumstances
    from voxformer.evaluation.models import open_model
    from voxformer.runtime import MODES

    models = {"onnxruntime": open_model(bundle), "torch": open_model(checkpoint)}
    results: dict[str, Any] = {"bundle": str(bundle), "sets": {}, **circumstances()}
    for name, manifest in corpus.tests.items():
        utterances = read_manifest(manifest)
        results["sets"][name] = {}
        for engine_name, model in models.items():
            say(f"{name}: every mode with {engine_name}")
            found = evaluate(
                model.engine,
                model.vocabulary,
                utterances,
                MODES,
                model.options,
                warm_up=WARM_UP_BATCHES,
            )
            results["sets"][name][engine_name] = found.to_json(utterances=False)
    write_atomically(out / "results.json", json.dumps(results, indent=2) + "\n")
    return results


def tokenizer_of(recipe: str, corpus: Corpus, out: Path, overrides: list[str], say: Say) -> Path:
    """The folder of the tokenizer: the config's own, or out/tokenizer, which is trained on the
    texts of the first stage that reads some unless it is there already."""
    from voxformer.text import train_tokenizer
    from voxformer.text.pronunciation import pronouncer

    stage = first_with_text(corpus.sets)
    config, _ = load_config(f"{recipe}/{stage}", overrides)
    if config.data.tokenizer is not None:
        return Path(config.data.tokenizer)
    folder = out / "tokenizer"
    if not (folder / "tokens.txt").is_file():
        texts = [u.text for path, _ in corpus.sets[stage] for u in read_manifest(path)]
        if config.data.pronunciation is not None:
            texts = list(map(pronouncer(config.data.pronunciation), texts))
        train_tokenizer(texts, config.model.vocab_size, folder, config.data.tokenizer_type)
        say(f"tokenizer: {config.model.vocab_size} pieces in {folder}")
    return folder


def stage_config(
    recipe: str,
    stage: str,
    corpus: Corpus,
    folder: Path,
    tokenizer: Path,
    previous: Path | None,
    overrides: list[str],
) -> RunConfig:
    """The config of a stage on a corpus, which goes on where its run folder has got to.

    Args:
        recipe: folder of stage1.yaml … stage4.yaml.
        stage: one of `STAGES`.
        corpus: manifests.
        folder: of the run.
        tokenizer: folder of one.
        previous: checkpoint to take weights from; None starts at random.
        overrides: `section.key=value`; they win.
    """
    values: dict[str, Any] = {
        "data.train_manifest": [{"path": str(p), "weight": w} for p, w in corpus.sets[stage]],
        "data.valid_manifest": str(corpus.dev),
        "training.checkpoint_dir": str(folder),
        "training.resume_from": str(folder / "latest.pt"),
    }
    if stage != STAGES[0]:
        values["data.tokenizer"] = str(tokenizer)
    if previous is not None:
        values["training.init_from"] = str(previous)
    given = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    # What the user overrides comes last and wins.
    return load_config(f"{recipe}/{stage}", [*given, *overrides])[0]


def train_stage(config: RunConfig, stage: str) -> float:
    """Train a stage to its end; returns the seconds spent in its steps, resumed parts together.

    Raises:
        StageFailed: it was stopped; it goes on when it is started again.
    """
    from voxformer.training.checkpoint import load_checkpoint
    from voxformer.training.loop import train

    code = train(config, stage)
    if code:
        raise StageFailed(stage, code)
    assert config.training.checkpoint_dir is not None
    state = load_checkpoint(Path(config.training.checkpoint_dir) / "latest.pt")
    return float(state["position"]["seconds"])


def export_once(
    checkpoint: Path,
    corpus: Corpus,
    bundle: Path,
    say: Say,
    *,
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    exporter: Literal["dynamo", "trace"] = "dynamo",
    search: Mapping[str, Any] | None = None,
) -> Path:
    """Export a checkpoint, unless the bundle is there, of that very file and with that search.

    Returns:
        The bundle.
    """
    from voxformer.export import export_checkpoint
    from voxformer.training.storage import file_digest

    if (bundle / "bundle.json").is_file():
        values = json.loads((bundle / "bundle.json").read_text("utf-8"))
        same_weights = values["provenance"]["checkpoint_sha256"] == file_digest(checkpoint)
        if same_weights and _searches_with(values, search or {}):
            say(f"export: {bundle} is there already")
            return bundle
    began = time.monotonic()
    export_checkpoint(
        checkpoint,
        bundle,
        corpus.dev,
        precision=precision,
        exporter=exporter,
        search=search,
        say=lambda line: say(f"export: {line}"),
    )
    say(f"export: {bundle}, {time.monotonic() - began:.0f} s")
    return bundle


def _searches_with(values: dict[str, Any], search: Mapping[str, Any]) -> bool:
    """Whether a bundle's defaults, as bundle.json has them, are those of `search`."""
    from voxformer.training.storage import file_digest

    wanted = dict(search)
    decoding = values["decoding"]
    for field in ("language_model", "lexicon"):
        path, there = wanted.pop(field, None), decoding.get(field)
        if path is None or there is None:
            if path != there:
                return False
        elif values["files"][there]["sha256"] != file_digest(Path(path)):
            return False
    return all(decoding[key] == value for key, value in wanted.items())
