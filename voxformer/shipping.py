"""From a trained stage 4 to what is shipped, each part kept once it is complete.

Weights are chosen on the development set among the run's own, the mean of its last checkpoints and
mixtures with the weights of the stage before, then the options of the search, first without and
then with a language model; bundles in fp32 and int8 pass the gate of the export; every mode is
reported on every set; a card says what it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from voxformer.data.manifest import Utterance, read_manifest
from voxformer.plan import Language
from voxformer.recipe import STAGES, Corpus, Say, best_of, export_once
from voxformer.runtime.bundle import MANIFEST_NAME
from voxformer.text.atomic import write_atomically

PRECISIONS: tuple[Literal["fp32", "int8"], ...] = ("fp32", "int8")
LAST = 5
"""`step_N.pt` files whose mean is a candidate; as many as the run keeps, at most."""

PLAIN_AXES = (
    ("ctc_weight", (0.2, 0.3, 0.4, 0.5, 0.6, 0.8)),
    ("length_bonus", (0.0, 0.25, 0.5, 1.0)),
)
LM_GRID = (("lm_weight", (0.3, 0.5, 0.7, 0.9, 1.1)), ("word_bonus", (-1.0, 0.0, 1.0, 2.0)))
"""Each with each, since a word's bonus makes up for what the language model takes off it."""
FINER_AXES = (
    ("lm_weight", (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)),
    ("word_bonus", (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)),
)
LM_AXES = (
    ("beam_size", (300, 1000)),
    ("prefixes_per_state", (1, 2)),
    ("ctc_weight", (0.3, 0.5, 0.7, 0.9)),
    ("n_best", (10, 30)),
)
LM_STATES: dict[str, Any] = {"prefixes_per_state": 1}
"""Of every search with a language model that weighs it: what it need not tell apart takes no room
in the beam."""
LM_BEAM = 100
"""Hypotheses of the search with a language model where its weight is looked for."""
FIRST_BEAM = 50
"""Hypotheses where candidates are compared."""
LM_OPTIONS = (
    "lm_weight",
    "word_bonus",
    "beam_size",
    "prefixes_per_state",
    "n_best",
    "ctc_weight",
    "length_bonus",
)
MIXTURES = (0.0, 0.3, 0.5, 0.7)
"""Shares of stage 4's weights in mixtures with those that it began with; without any, the stage may
have cost more than it gave."""
NO_BUNDLE = "not written: "


@dataclass(frozen=True)
class Shipped:
    """What `ship` leaves.

    Attributes:
        checkpoint: the chosen weights with the tuned options of the search.
        bundles: by precision.
        language_model: ARPA file, compressed.
        lexicon: of a model that writes phones; None for one of letters.
        results: WER by set, bundle and mode; paths in it are relative to the run's folder.
    """

    checkpoint: Path
    bundles: Mapping[str, Path]
    language_model: Path
    lexicon: Path | None
    results: dict[str, Any]


def ship(
    corpus: Corpus,
    language: Language,
    out: Path,
    say: Say,
    exporter: Literal["dynamo", "trace"] = "dynamo",
) -> Shipped:
    """Everything after training; what is there already, of the same weights, is not made again.

    Args:
        corpus: `dev` decides, `tests` are reported.
        language: of the search.
        out: the run's folder, whose stages are trained.
        say: told what happens.
        exporter: of PyTorch.

    Raises:
        ExportRefused: the fp32 bundle is not the model.
    """
    lm = language_model(corpus, language, out, say)
    lexicon = lexicon_of(trained_voice(out), corpus, language, out, say)
    checkpoint = choose_and_tune(corpus.dev, lm, lexicon, out, say)
    bundles = _bundles(checkpoint, corpus, lm, lexicon, out, say, exporter)
    results = _evaluate(bundles, checkpoint, corpus, lm, out, say)
    return Shipped(checkpoint, bundles, lm, lexicon, results)


def language_model(corpus: Corpus, language: Language, out: Path, say: Say) -> Path:
    """The n-gram model of the texts and of what stage 4 learns from, below out/lm."""
    from voxformer.data.language_model import write_language_model

    path = out / "lm" / f"words-{language.order}gram{_making(language)}{_listed(language)}.ngrams"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        said = write_language_model(
            path,
            *_texts(corpus, language),
            language.order,
            words=word_list(language, out),
            mixture=language.mixture,
            threshold=language.threshold,
        )
        say(said)
    return path


def _making(language: Language) -> str:
    """What tells a model from others of the same texts, for its file's name."""
    parts = []
    if language.mixture is not None:
        model, weight = language.mixture
        parts.append(f"{Path(model).name}-{weight:g}")
    if language.threshold:
        parts.append(f"entropy-{language.threshold:g}")
    return "".join(f"-{part}" for part in parts)


def trained_voice(out: Path) -> str | None:
    """Whose phones the last stage was trained to write; None for letters."""
    from voxformer.training.checkpoint import load_checkpoint

    config = load_checkpoint(best_of(out / "checkpoints" / STAGES[-1]))["config"]
    voice: str | None = config["data"].get("pronunciation")
    return voice


def lexicon_of(
    voice: str | None, corpus: Corpus, language: Language, out: Path, say: Say
) -> Path | None:
    """The words of the language model with their pronunciations, below out/lm; None without a
    voice, for models of letters."""
    from voxformer.data.language_model import write_lexicon

    if voice is None:
        return None
    path = out / "lm" / f"lexicon-{voice}{_listed(language)}.txt.gz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        words = word_list(language, out)
        say(write_lexicon(path, voice, *_texts(corpus, language), words))
    return path


def _texts(corpus: Corpus, language: Language) -> tuple[list[str], list[str]]:
    """Files of text, and manifests."""
    manifests = [str(manifest) for manifest, _ in corpus.sets[STAGES[-1]]]
    return [str(text) for text in language.texts], manifests


def _listed(language: Language) -> str:
    return "" if language.words is None else "-{}-{}".format(*language.words)


def word_list(language: Language, out: Path) -> Path | None:
    """The listed words below out/lm, if there are to be some.

    Raises:
        DataError: see `write_word_list`.
    """
    from voxformer.data.language_model import write_word_list

    if language.words is None:
        return None
    path = out / "lm" / f"words{_listed(language)}.txt"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_word_list(path, *language.words)
    return path


def choose_and_tune(dev: Path, lm: Path, lexicon: Path | None, out: Path, say: Say) -> Path:
    """Choose weights and options on the development set; returns out/chosen.pt.

    out/choice.json holds every point that was tried.
    """
    from voxformer.evaluation.models import open_checkpoint
    from voxformer.evaluation.tuning import Scorer, grid, tune
    from voxformer.training.averaging import with_decoding
    from voxformer.training.storage import file_digest

    run = out / "checkpoints" / "stage4"
    chosen, record = out / "chosen.pt", out / "choice.json"
    source = [file_digest(path) for path in (best_of(run), lm, lexicon) if path is not None]
    there = chosen.is_file() and record.is_file()
    if there and json.loads(record.read_text("utf-8"))["of"] == source:
        say(f"chosen already: {chosen}")
        return chosen
    utterances = read_manifest(dev)
    found: dict[str, tuple[float, Path]] = {}
    own: dict[str, Any] = {} if lexicon is None else {"lexicon": str(lexicon)}
    for name, path in candidates(run, out).items():
        model = open_checkpoint(path)
        scorer = Scorer(model, utterances)
        n_best = min(model.options.n_best, FIRST_BEAM)
        first = {"beam_size": FIRST_BEAM, "n_best": n_best, "language_model": str(lm)}
        options = model.options.changed(**first, **own, **LM_STATES)
        wer = grid(partial(scorer.wer, "ctc_beam"), options, LM_GRID).wer
        found[name] = wer, path
        say(f"{name}: development WER {wer:.2%} (beam, with the language model)")
    name = min(found, key=lambda key: found[key][0])
    model = open_checkpoint(found[name][1])
    scorer = Scorer(model, utterances)
    start = replace(model.options, **own)
    plain = tune(partial(scorer.wer, "rescoring"), start, PLAIN_AXES)
    say(f"search without language model: development WER {plain.wer:.2%}")
    beam = max(LM_BEAM, plain.options.beam_size)
    fused = replace(
        plain.options, language_model=str(lm), beam_size=beam, length_bonus=0.0, **LM_STATES
    )
    coarse = grid(partial(scorer.wer, "ctc_beam"), fused, LM_GRID)
    searched = tune(partial(scorer.wer, "ctc_beam"), coarse.options, FINER_AXES)
    with_lm = tune(partial(scorer.wer, "rescoring"), searched.options, LM_AXES)
    say(f"search with it: development WER {with_lm.wer:.2%}")
    values = {key: getattr(plain.options, key) for key, _ in PLAIN_AXES}
    with_decoding(found[name][1], chosen, values)
    written = {
        "of": source,
        "weights": {
            key: {"wer": wer, "path": os.path.relpath(path, out)}
            for key, (wer, path) in found.items()
        },
        "chosen": name,
        "plain": {"wer": plain.wer, "options": values, "tried": _trail(plain.trail)},
        "lm": {
            "wer": with_lm.wer,
            "options": {key: getattr(with_lm.options, key) for key in LM_OPTIONS},
            "tried": [
                point for tuned in (coarse, searched, with_lm) for point in _trail(tuned.trail)
            ],
        },
    }
    write_atomically(record, json.dumps(written, indent=2) + "\n")
    return chosen


def candidates(run: Path, out: Path) -> dict[str, Path]:
    """Weights to choose from: the best evaluation's, the last step's if that was another, a mean of
    the last, and mixtures of the first with what the stage began with, which go to `out`."""
    from voxformer.training.averaging import average_checkpoints, mix_checkpoints
    from voxformer.training.checkpoint import load_checkpoint
    from voxformer.training.storage import numbered_checkpoints

    best, last = best_of(run), run / "latest.pt"
    found = {"best evaluation": best}
    if last.is_file() and load_checkpoint(last)["step"] != load_checkpoint(best)["step"]:
        found["last step"] = last
    steps = numbered_checkpoints(run, "step")[-LAST:]
    if len(steps) > 1:
        mean = average_checkpoints(steps, out / "average.pt")
        found[f"mean of the last {len(steps)}"] = mean
    before = best_of(run.parent / STAGES[-2])
    if before.is_file():
        for share in MIXTURES:
            mixture = mix_checkpoints(before, best, share, out / f"mixture-{share}.pt")
            found[f"{share:.0%} of stage 4 in stage 3"] = mixture
    return found


def _chosen(out: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((out / "choice.json").read_text("utf-8"))
    return values


def _trail(points: Sequence[tuple[dict[str, Any], float]]) -> list[dict[str, Any]]:
    return [{**changes, "wer": wer} for changes, wer in points]


def _bundles(
    checkpoint: Path,
    corpus: Corpus,
    lm: Path,
    lexicon: Path | None,
    out: Path,
    say: Say,
    exporter: Literal["dynamo", "trace"],
) -> dict[str, Path]:
    """fp32, and int8 where its gate lets it pass, with the language model if it helps, and with the
    lexicon if there is one."""
    from voxformer.export import ExportRefused

    choice = _chosen(out)
    search: dict[str, Any] = {} if lexicon is None else {"lexicon": str(lexicon)}
    if choice["lm"]["wer"] < choice["plain"]["wer"]:
        search |= {"language_model": str(lm), **choice["lm"]["options"]}
    else:
        say(f"{lm} does not help on the development set: the bundles are without it")
    bundles: dict[str, Path] = {}
    for precision in PRECISIONS:
        folder = out / ("bundle" if precision == "fp32" else f"bundle-{precision}")
        try:
            bundles[precision] = export_once(
                checkpoint,
                corpus,
                folder,
                say,
                precision=precision,
                exporter=exporter,
                search=search,
            )
        except ExportRefused as refusal:
            if precision == "fp32":
                raise
            say(f"{folder}: {NO_BUNDLE}{refusal}")
    return bundles


def _evaluate(
    bundles: Mapping[str, Path],
    checkpoint: Path,
    corpus: Corpus,
    lm: Path,
    out: Path,
    say: Say,
) -> dict[str, Any]:
    """Every mode of every bundle on every set, without the language model, as with `--no-lm`, and
    with it."""
    from voxformer.evaluation.circumstances import circumstances
    from voxformer.evaluation.models import open_model
    from voxformer.evaluation.report import error_report, most_confused
    from voxformer.training.storage import file_digest

    path, digest, lm_digest = out / "results.json", file_digest(checkpoint), file_digest(lm)
    # Of bundle.json, which has those of all files, the lexicon among them, and the options.
    digests = {name: file_digest(bundle / MANIFEST_NAME) for name, bundle in bundles.items()}
    if path.is_file():
        results: dict[str, Any] = json.loads(path.read_text("utf-8"))
        same_model = results.get("checkpoint_sha256") == digest
        # Where it does not help, the language model is in no bundle.
        same_lm = results["language_model"].get("sha256") == lm_digest
        if same_model and same_lm and results.get("bundle_sha256") == digests:
            say(f"evaluated already: {path}")
            return results
    tuned = _chosen(out)["lm"]["options"]
    sets: dict[str, dict[str, Any]] = {}
    confusions: dict[str, list[tuple[str, int]]] = {}
    for name, manifest in {"dev": corpus.dev, **corpus.tests}.items():
        utterances = read_manifest(manifest)
        sets[name] = {}
        for precision, bundle in bundles.items():
            model = open_model(bundle)
            for with_lm in (False, True):
                options = model.options
                if not with_lm:
                    options = options.without_language_model()
                elif options.language_model is None:
                    options = replace(options, language_model=str(lm), **tuned)
                label = f"{precision}, {lm.stem}" if with_lm else precision
                say(f"{name}: {label}")
                found, errors = _evaluate_one(model, utterances, options, with_lm)
                sets[name][label] = {**found, "engine": f"{found['engine']}, {label}"}
                if precision == "fp32":
                    suffix = "-lm" if with_lm else ""
                    report = "\n\n".join(error_report(result) for result in errors)
                    write_atomically(out / f"errors-{name}{suffix}.txt", report + "\n")
                    if with_lm:
                        confusions[name] = most_confused(errors[-1])
    results = {
        "checkpoint_sha256": digest,
        "bundles": {precision: bundle.name for precision, bundle in bundles.items()},
        "bundle_sha256": digests,
        "sets": sets,
        "confusions": confusions,
        "language_model": {"file": os.path.relpath(lm, out), "sha256": lm_digest, "options": tuned},
        **circumstances(),
    }
    write_atomically(path, json.dumps(results, indent=2) + "\n")
    return results


def _evaluate_one(
    model: Any, utterances: Sequence[Utterance], options: Any, with_lm: bool
) -> tuple[dict[str, Any], list[Any]]:
    """A bundle's report; the language model acts in the CTC search and in what it rescores."""
    from voxformer.evaluation import evaluate
    from voxformer.recipe import WARM_UP_BATCHES

    modes = [m for m in model.modes if not with_lm or m in ("ctc_beam", "rescoring")]
    found = evaluate(
        model.engine, model.vocabulary, utterances, modes, options, warm_up=WARM_UP_BATCHES
    )
    return found.to_json(utterances=False), list(found.modes.values())
