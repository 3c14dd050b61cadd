"""What a recipe is for a corpus of many sets: `recipe.yaml` beside its four stages.

It names the sets with their weights and licences, and gives each stage a budget in minutes of the
device and in hours of speech. The minutes end a stage, the hours plan its epochs: on a device that
is as fast as was thought both come to the same, on a slower one the schedules follow the clock.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from voxformer.config import ConfigError, find_config, load_config
from voxformer.config.schema import Section
from voxformer.data.manifest import DataError, read_manifest, spread, write_manifest
from voxformer.recipe import STAGES, Corpus

NAME = "recipe.yaml"
MAX_EPOCHS = 100_000


Weights = Annotated[
    list[Annotated[float, Field(ge=0.0, le=1000.0)]],
    Field(min_length=len(STAGES), max_length=len(STAGES)),
]


class PlannedSet(Section):
    """A training set."""

    weights: Weights
    """How often an epoch of each of the four stages draws its utterances; 0 leaves it out."""
    optional: bool = False
    """A set that need not be there, such as synthetic speech."""
    licence: str
    """As the model card says it."""
    about: str
    """One line for the model card."""


class PlannedStage(Section):
    """The budget of a stage."""

    minutes: float = Field(gt=0.0)
    """Of the device, in steps; evaluations and saves come on top."""
    audio_hours: float = Field(gt=0.0)
    """Hours of speech to hear in that time, each view of an utterance once."""
    evaluations: int = Field(5, ge=1)
    """Evaluations spread over it."""


class Scale(Section):
    """The same recipe for a smaller device, or made so small that it only checks the code.

    `epoch_copies` does not hold for it: an epoch draws each utterance its weight times.
    """

    utterances: int | None = Field(None, ge=4)
    """Of each set, spread evenly over it; default: all."""
    max_seconds: float | None = Field(None, gt=0.0)
    """Longest utterance that is taken; default: any."""
    minutes: float | None = Field(None, gt=0.0)
    """All stages together; default: the sum over the stages."""
    audio_hours: float | None = Field(None, gt=0.0)
    """All stages together; default: the sum over the stages, in proportion to the minutes."""
    stages: dict[str, PlannedStage] | None = None
    """In place of the recipe's; a stage that is not named is left out, the last one never."""
    weights: dict[str, Weights] = Field(default_factory=dict)
    """In place of a training set's own."""
    exporter: Literal["dynamo", "trace"] = "trace"
    """Of PyTorch; tracing takes seconds where the other takes minutes."""
    overrides: list[str]
    """`section.key=value` for every stage."""
    of_stage: dict[str, list[str]] = Field(default_factory=dict)
    """`section.key=value` for single stages."""


class FrequentWords(Section):
    """Words that language model and lexicon have beside those of the texts."""

    language: str
    """As the package wordfreq has it."""
    count: int = Field(ge=1)
    """Of the most frequent ones."""


class Mixture(Section):
    """Another language model, of more texts, that the recipe's is mixed with."""

    model: str
    """`pocketsphinx` for that of the package, or a file, see `read_model`."""
    weight: float = Field(0.5, ge=0.0, le=1.0)
    """Its share."""


class Recipe(Section):
    """`recipe.yaml`."""

    train: Annotated[dict[str, PlannedSet], Field(min_length=1)]
    """Training sets by the names of their manifests, without `.jsonl`."""
    epoch_copies: int = Field(1, ge=1, le=100)
    """An epoch draws each utterance so many times its weight, augmented anew each time: where a
    pass takes seconds, starting the processes that read would take a good part of them."""
    dev: str
    """Everything is chosen on it."""
    tests: list[str] = Field(default_factory=list)
    """Reported; nothing is chosen on them."""
    texts: list[str] = Field(default_factory=list)
    """Text files for the language model, beside the texts of the training sets."""
    lm_order: int = Field(3, ge=1, le=6)
    """Words of its longest n-grams."""
    lm_mix: Mixture | None = None
    """Another model to be mixed in; default: none."""
    lm_prune_entropy: float = Field(0.0, ge=0.0, lt=1.0)
    """Leave out n-grams without each of which perplexity grows by less than so many times; the
    model is part of the bundles."""
    words: FrequentWords | None = None
    """Known as well, with how frequent they are elsewhere; default: the texts' words alone."""
    stages: dict[str, PlannedStage]
    """`stage1` to `stage4`."""
    scales: dict[str, Scale] = Field(default_factory=dict)
    """By the name that `--scale` takes."""

    def budgets(self, scale: str | None = None) -> dict[str, PlannedStage]:
        """Of the stages that are run, at full scale or at one of `scales`."""
        own = None if scale is None else self.scales[scale].stages
        return dict(self.stages if own is None else own)


@dataclass(frozen=True)
class Language:
    """What language model and lexicon are made from, beside the texts of stage 4's training sets.

    Attributes:
        texts: files with a sentence a line.
        order: words of the longest n-grams.
        words: a language and how many of its most frequent words are known as well; None for none.
        mixture: another model to be mixed in, and its weight; None for none.
        threshold: n-grams go without which perplexity grows by less than so many times.
    """

    texts: Sequence[Path]
    order: int
    words: tuple[str, int] | None = None
    mixture: tuple[str, float] | None = None
    threshold: float = 0.0


@dataclass(frozen=True)
class Plan:
    """A recipe on the speech that there is.

    Attributes:
        corpus: manifests by stage.
        overrides: of the config of each stage that is run: time, epochs, when to evaluate and save.
        language: of the search.
        hours: of speech that an epoch of each stage draws.
        minutes: of the device, of each stage.
        weights: of each training set in stages 1 to 4; None where a stage is left out.
        scale: of the recipe's, if it is one.
        exporter: see `voxformer export --help`.
    """

    corpus: Corpus
    overrides: Mapping[str, list[str]]
    language: Language
    hours: Mapping[str, float]
    minutes: Mapping[str, float]
    weights: Mapping[str, Sequence[float | None]]
    scale: str | None
    exporter: Literal["dynamo", "trace"]


def load_recipe(name: str) -> Recipe:
    """The recipe in a folder of `configs/`, of the package, or at a path.

    Raises:
        ConfigError: it is not there, or a key is wrong; each fault is a line.
    """
    path = find_config(f"{name}/{NAME}")
    try:
        recipe = Recipe.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())[:200]}") from None
    except ValidationError as error:
        faults = [
            f"{path}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}"
            for fault in error.errors()
        ]
        raise ConfigError("\n".join(faults)) from None
    if sorted(recipe.stages) != sorted(STAGES):
        raise ConfigError(f"{path}: stages: must be {', '.join(STAGES)}")
    faults = [f"{path}: {fault}" for fault in _faults_of_scales(recipe)]
    if faults:
        raise ConfigError("\n".join(faults))
    return recipe


def _faults_of_scales(recipe: Recipe) -> Iterator[str]:
    for name, scale in recipe.scales.items():
        at = f"scales.{name}"
        stages = list(STAGES if scale.stages is None else scale.stages)
        for key in stages:
            if key not in STAGES:
                yield f"{at}.stages: {key} is no stage; they are {', '.join(STAGES)}"
        if STAGES[-1] not in stages:
            yield f"{at}.stages: needs {STAGES[-1]}, which is what is exported"
        for key in scale.of_stage:
            if key not in stages:
                yield f"{at}.of_stage: {key} is none of its stages; they are {', '.join(stages)}"
        for key in scale.weights:
            if key not in recipe.train:
                yield f"{at}.weights: {key} is no training set of the recipe"


def make_plan(
    name: str,
    recipe: Recipe,
    speech: Path,
    out: Path,
    minutes: float | None = None,
    scale: str | None = None,
    overrides: list[str] | None = None,
) -> Plan:
    """What each stage learns from, for how long.

    Args:
        name: of the recipe, for its stages' configs.
        recipe: what `load_recipe` read.
        speech: folder of the manifests and texts.
        out: of the run; the manifests of a smaller scale go to out/data.
        minutes: of the device for all stages together; default: what the recipe says. Hours of
            speech change in proportion.
        scale: one of the recipe's scales.
        overrides: the user's, which decide how large batches are.

    Raises:
        ConfigError: no such scale, or a wrong config.
        DataError: a manifest or a text is missing.
    """
    speech, out = speech.absolute(), out.absolute()
    chosen = None
    if scale is not None:
        if scale not in recipe.scales:
            known = ", ".join(recipe.scales) or "none"
            raise ConfigError(f"no scale {scale!r} in the recipe {name}; it has {known}")
        chosen = recipe.scales[scale]
    sets = {
        key: value
        for key, value in recipe.train.items()
        if not value.optional or (speech / f"{key}.jsonl").is_file()
    }
    names = [*sets, recipe.dev, *recipe.tests]
    manifests = {key: _manifest(speech, key, out, chosen) for key in names}
    texts = tuple(speech / text for text in recipe.texts)
    for text in texts:
        if not text.is_file():
            raise DataError(f"{text}: no such text; the recipe {name} wants it")
    copies = 1 if chosen else recipe.epoch_copies
    weights = {key: value.weights for key, value in sets.items()}
    budgets = recipe.budgets(scale)
    if chosen:
        weights.update({key: value for key, value in chosen.weights.items() if key in sets})
    by_stage = {
        stage: tuple(
            (manifests[key], copies * of_set[number])
            for key, of_set in weights.items()
            if of_set[number] > 0.0
        )
        for number, stage in enumerate(STAGES)
        if stage in budgets
    }
    corpus = Corpus(
        by_stage, manifests[recipe.dev], {test: manifests[test] for test in recipe.tests}
    )
    whole = sum(stage.minutes for stage in budgets.values())
    factor = (minutes or (chosen and chosen.minutes) or whole) / whole
    hours_factor = factor
    if chosen is not None and chosen.audio_hours is not None:
        hours_factor = chosen.audio_hours / sum(s.audio_hours for s in budgets.values())
    seconds_of = {
        manifests[key]: sum(u.duration for u in read_manifest(manifests[key])) for key in sets
    }
    hours, planned = {}, {}
    of_stage: dict[str, list[str]] = {}
    for stage in STAGES:
        if stage not in budgets:
            continue
        of_stage[stage] = [*chosen.overrides, *chosen.of_stage.get(stage, [])] if chosen else []
        budget = budgets[stage]
        hours[stage] = sum(weight * seconds_of[path] for path, weight in by_stage[stage]) / 3600
        if hours[stage] == 0.0:
            raise ConfigError(f"{name}: {stage}: no training set has a weight above 0")
        planned[stage] = budget.minutes * factor
        of_stage[stage] += budget_settings(
            f"{name}/{stage}",
            [*of_stage[stage], *(overrides or [])],
            hours[stage],
            budget.audio_hours * hours_factor,
            planned[stage],
            budget.evaluations,
        )
    exporter = chosen.exporter if chosen else "dynamo"
    shown = {
        key: [w if stage in budgets else None for stage, w in zip(STAGES, found, strict=True)]
        for key, found in weights.items()
    }
    words = None if recipe.words is None else (recipe.words.language, recipe.words.count)
    mixture = None if recipe.lm_mix is None else (recipe.lm_mix.model, recipe.lm_mix.weight)
    language = Language(texts, recipe.lm_order, words, mixture, recipe.lm_prune_entropy)
    return Plan(corpus, of_stage, language, hours, planned, shown, scale, exporter)


def budget_settings(
    config_name: str,
    overrides: list[str],
    epoch_hours: float,
    audio_hours: float,
    minutes: float | None,
    evaluations: int,
) -> list[str]:
    """The settings of a stage that follow from its budget.

    Args:
        config_name: of the stage.
        overrides: what else is set, such as how large batches are.
        epoch_hours: of speech that an epoch draws.
        audio_hours: to hear in all.
        minutes: of the device, which end the stage if they come first; None for no limit.
        evaluations: to spread over it.

    Returns:
        `section.key=value`, each.
    """
    training = load_config(config_name, overrides)[0].training
    epochs = min(MAX_EPOCHS, max(1, round(audio_hours / epoch_hours)))
    seconds = training.batch_seconds_limit
    steps = epochs  # at least one an epoch, where batches are as long as memory allows
    if seconds is not None:
        of_step = seconds * training.gradient_accumulation_steps
        steps = max(1, round(epochs * epoch_hours * 3600 / of_step))
    return [
        f"training.num_epochs={epochs}",
        f"training.max_minutes={'null' if minutes is None else format(minutes, '.6g')}",
        f"training.eval_interval={max(1, steps // evaluations)}",
        f"training.save_interval={max(1, steps // max(4, round(minutes or 0.0)))}",
    ]


def _manifest(speech: Path, name: str, out: Path, chosen: Scale | None) -> Path:
    """The set's manifest; of a smaller scale, one of utterances spread evenly over it."""
    path = speech / f"{name}.jsonl"
    if not path.is_file():
        raise DataError(f"{path}: no such manifest; see recipe.yaml for the sets that are wanted")
    if chosen is None or (chosen.utterances is None and chosen.max_seconds is None):
        return path
    longest = math.inf if chosen.max_seconds is None else chosen.max_seconds
    usable = [u for u in read_manifest(path) if u.duration <= longest]
    if not usable:
        raise DataError(f"{path}: no utterance of {longest:g} s or less")
    target = out / "data" / f"{name}.jsonl"
    os.makedirs(target.parent, exist_ok=True)
    write_manifest(target, spread(usable, chosen.utterances or len(usable)))
    return target


def describe(plan: Plan) -> str:
    """The plan as JSON, for the run's folder."""
    values: dict[str, Any] = {
        stage: {
            "sets": [{"manifest": str(path), "weight": w} for path, w in plan.corpus.sets[stage]],
            "epoch_hours": round(plan.hours[stage], 3),
            "minutes": plan.minutes[stage],
            "overrides": list(plan.overrides[stage]),
        }
        for stage in plan.overrides
    }
    return json.dumps(values, indent=2) + "\n"
