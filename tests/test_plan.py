"""What a recipe makes of the speech that there is, and that it can be killed anywhere."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from voxformer.cli import main
from voxformer.config import ConfigError, find_config, load_config
from voxformer.data.manifest import DataError, read_manifest
from voxformer.plan import load_recipe, make_plan
from voxformer.recipe import STAGES, first_with_text
from voxformer.runtime import read_bundle

from .tones import write_speech

SETS = ("librispeech-train", "commonvoice-train", "ljspeech-train", "speechocean-train")
HELD_OUT = ("librispeech-dev", "librispeech-other")


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Tones under the names of the recipe's sets: 24 utterances each, 6 of those held out."""
    return write_speech(tmp_path_factory.mktemp("speech"), SETS, HELD_OUT)


def setting(lines, key):
    return yaml.safe_load(next(x for x in reversed(lines) if x.startswith(f"{key}=")).split("=")[1])


def test_minutes_are_shared_as_the_recipe_says_and_hours_become_epochs(speech, tmp_path):
    recipe = load_recipe("librispeech")
    plan = make_plan("librispeech", recipe, speech, tmp_path, minutes=0.5)
    whole = sum(stage.minutes for stage in recipe.stages.values())
    assert sum(plan.minutes.values()) == pytest.approx(0.5)
    for number, stage in enumerate(STAGES):
        lines = plan.overrides[stage]
        assert setting(lines, "training.max_minutes") == pytest.approx(
            recipe.stages[stage].minutes * 0.5 / whole
        )
        hours = sum(
            5 * recipe.train[name].weights[number] * u.duration
            for name in SETS
            for u in read_manifest(speech / f"{name}.jsonl")
        )
        assert plan.hours[stage] == pytest.approx(hours / 3600)
        epochs = recipe.stages[stage].audio_hours * 0.5 / whole / (hours / 3600)
        assert setting(lines, "training.num_epochs") == round(epochs)
        config = load_config(f"librispeech/{stage}", lines)[0].training
        steps = config.num_epochs * plan.hours[stage] * 3600 / config.batch_seconds
        assert steps / config.eval_interval == pytest.approx(
            recipe.stages[stage].evaluations, rel=0.05
        )


def test_the_recipe_plans_25_minutes_of_all_stages():
    recipe = load_recipe("librispeech")
    assert sum(stage.minutes for stage in recipe.stages.values()) == 25


def test_a_small_scale_takes_utterances_spread_over_each_set(speech, tmp_path):
    recipe = load_recipe("librispeech")
    recipe.scales["small"].utterances = 8
    recipe.scales["small"].max_seconds = 0.7
    plan = make_plan("librispeech", recipe, speech, tmp_path, scale="small")
    for path, _ in plan.corpus.sets["stage2"]:
        every = [u for u in read_manifest(speech / path.name) if u.duration <= 0.7]
        taken = read_manifest(path)
        assert path.parent == tmp_path / "data"
        assert [u.id for u in taken] == [every[i * len(every) // 8].id for i in range(8)]
        assert all(u.audio_path.is_file() for u in taken)
    assert "model.d_model=48" in plan.overrides["stage1"]


def test_a_scale_may_have_stages_weights_and_settings_of_its_own(speech, tmp_path):
    recipe = load_recipe("librispeech")
    plan = make_plan("librispeech", recipe, speech, tmp_path, scale="cpu")
    scale = recipe.scales["cpu"]
    assert list(plan.overrides) == list(plan.minutes) == ["stage2", "stage3", "stage4"]
    assert plan.minutes["stage2"] == scale.stages["stage2"].minutes
    assert setting(plan.overrides["stage4"], "training.learning_rate") == 0.4e-3
    assert setting(plan.overrides["stage2"], "training.learning_rate") == 1.2e-3
    weights = {path.stem: weight for path, weight in plan.corpus.sets["stage2"]}
    assert weights == {SETS[0]: 1.5, SETS[1]: 1.2, SETS[2]: 1, SETS[3]: 0.3}
    assert all(path.parent == speech for path, _ in plan.corpus.sets["stage2"])  # all of them
    whole = sum(stage.minutes for stage in scale.stages.values())
    half = make_plan("librispeech", recipe, speech, tmp_path, minutes=whole / 2, scale="cpu")
    assert half.minutes["stage2"] == scale.stages["stage2"].minutes / 2


def test_what_a_scale_names_must_be_there(tmp_path):
    recipe = yaml.safe_load(find_config("librispeech/recipe.yaml").read_text())
    scale = recipe["scales"]["cpu"]
    scale["stages"]["stage5"] = scale["stages"].pop("stage4")
    scale["weights"] = {"mine": [1, 1, 1, 1]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(ConfigError) as error:
        load_recipe(str(tmp_path))
    for fault in (
        "scales.cpu.stages: stage5 is no stage",
        "scales.cpu.stages: needs stage4",
        "scales.cpu.weights: mine is no training set",
        "scales.cpu.of_stage: stage4 is none of its stages",
    ):
        assert fault in str(error.value)
    scale["weights"] = {SETS[0]: [1]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(ConfigError, match=rf"scales\.cpu\.weights\.{SETS[0]}: List should have"):
        load_recipe(str(tmp_path))


def test_a_stage_without_speech_is_one_line(speech, tmp_path):
    recipe = load_recipe("librispeech")
    for name in SETS:
        recipe.scales["cpu"].weights[name] = [1, 0, 1, 1]
    with pytest.raises(ConfigError, match="stage2: no training set has a weight above 0"):
        make_plan("librispeech", recipe, speech, tmp_path, scale="cpu")


def test_the_tokenizer_follows_the_first_stage_that_reads_texts():
    assert first_with_text(["stage4", "stage1", "stage3"]) == "stage3"
    assert first_with_text(STAGES) == "stage2"


def test_an_optional_set_is_taken_where_it_is_there(speech, tmp_path):
    recipe = load_recipe("librispeech")
    plan = make_plan("librispeech", recipe, speech, tmp_path)
    assert [path.stem for path, _ in plan.corpus.sets["stage3"]] == list(SETS)
    extra = tmp_path / "speech"
    extra.mkdir()
    for name in (*SETS, *HELD_OUT, "text"):
        (extra / name).symlink_to(speech / name)
        if name != "text":
            (extra / f"{name}.jsonl").symlink_to(speech / f"{name}.jsonl")
    (extra / "synthetic-train.jsonl").write_text((speech / f"{SETS[0]}.jsonl").read_text())
    sets = make_plan("librispeech", recipe, extra, tmp_path).corpus.sets
    assert [(p.stem, w) for p, w in sets["stage3"]][-1] == ("synthetic-train", 5.0)
    assert "synthetic-train" not in [path.stem for path, _ in sets["stage4"]]


def test_what_is_wrong_is_one_line(speech, tmp_path):
    recipe = load_recipe("librispeech")
    with pytest.raises(ConfigError, match="no scale 'tiny' in the recipe librispeech; it has cpu"):
        make_plan("librispeech", recipe, speech, tmp_path, scale="tiny")
    with pytest.raises(DataError, match=r"librispeech-train\.jsonl: no such manifest"):
        make_plan("librispeech", recipe, tmp_path, tmp_path)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("dev: a\ntrian: {}\nstages: {}\n")
    with pytest.raises(ConfigError) as error:
        load_recipe(str(folder))
    assert "train: Field required" in str(error.value)
    assert "trian: Extra inputs are not permitted" in str(error.value)


def test_the_plan_can_be_looked_at_alone(speech, tmp_path, capsys):
    arguments = ["--speech", str(speech), "--out", str(tmp_path / "run"), "--until", "plan"]
    assert main(["recipe", "librispeech", *arguments]) == 0
    assert "stage4: epochs of" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()
    planned = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert planned["stage4"]["minutes"] == 11.5


def test_a_model_that_is_to_be_mixed_in_is_missed_before_training(
    speech, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "configs" / "mine"
    shutil.copytree(Path(__file__).parents[1] / "configs" / "librispeech", folder)
    text = (folder / "recipe.yaml").read_text("utf-8")
    assert "model: pocketsphinx" in text
    missing = text.replace("model: pocketsphinx", "model: nowhere.arpa")
    (folder / "recipe.yaml").write_text(missing, "utf-8")
    out = tmp_path / "run"
    arguments = ["--speech", str(speech), "--out", str(out), "--scale", "small"]
    assert main(["recipe", "mine", *arguments]) != 0
    assert "nowhere.arpa: No such file" in capsys.readouterr().err.splitlines()[-1]
    assert not (out / "checkpoints").exists()


@pytest.mark.slow
def test_a_recipe_that_is_killed_and_started_again_ends_with_bundles_and_a_card(speech, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "voxformer", "recipe", "librispeech", "--scale", "small"]
    command += ["--speech", str(speech), "--out", str(out), "--minutes", "0.4"]
    command += ["--set", "model.vocab_size=18", "--set", "training.num_threads=1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def killed_at(path: Path, with_signal: int) -> int:
        process = start()
        while process.poll() is None and not path.exists():
            time.sleep(0.05)
        process.send_signal(with_signal)
        return process.wait()

    stages = out / "checkpoints"
    assert killed_at(stages / "stage2" / "latest.pt", signal.SIGKILL) == -signal.SIGKILL
    first = (stages / "stage1" / "best.pt").stat()
    assert killed_at(stages / "stage4" / "latest.pt", signal.SIGTERM) == 143
    assert killed_at(out / "choice.json", signal.SIGKILL) == -signal.SIGKILL
    chosen = (out / "chosen.pt").stat()
    assert start().wait() == 0, (tmp_path / "log").read_text()

    assert (stages / "stage1" / "best.pt").stat().st_mtime_ns == first.st_mtime_ns
    assert (out / "chosen.pt").stat().st_mtime_ns == chosen.st_mtime_ns
    results = json.loads((out / "results.json").read_text())
    assert set(results["sets"]) == {"dev", "librispeech-other"}
    modes = results["sets"]["dev"]["fp32, words-3gram-pocketsphinx-0.4-entropy-2.2e-08-en-100000"][
        "modes"
    ]
    assert set(modes) == {"ctc_beam", "rescoring"}
    helps = json.loads((out / "choice.json").read_text())
    for name in ("bundle", "bundle-int8"):
        bundle = read_bundle(out / name)
        assert (bundle.decoding.language_model is not None) == (
            helps["lm"]["wer"] < helps["plain"]["wer"]
        )
    card = (out / "model-card.md").read_text()
    for text in ("| ljspeech-train |", "public domain", "| dev | fp32 | attention |"):
        assert text in card
    assert main(["recipe", *command[4:]]) == 0  # all is there
