"""Every fault of a config is one line with its place, and all of them are shown at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from voxformer.cli import main
from voxformer.config import ConfigError, RunConfig, dump_config, find_config, load_config
from voxformer.config.load import validate_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def faults(path: Path, content: str | bytes, *overrides: str) -> list[str]:
    """The lines of the error, without the folder."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    return str(error.value).replace(f"{path.parent}/", "").splitlines()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("modle: {}", "1: modle: unknown key; did you mean model?"),
        ("model:\n  d_modl: 5", "2: model.d_modl: unknown key; did you mean d_model?"),
        ("training:\n\n  lr_: 1\n  Batch_size: 2", "batch_size?"),
        ("model:\n  batch_size: 2", "2: model.batch_size: unknown key; did you mean training."),
        ("learning_rate: 1", "1: learning_rate: unknown key; did you mean training.learning_rate?"),
        ("data:\n  train: a", "2: data.train: unknown key; did you mean train_manifest?"),
        ("augment: {gain: 1}", "1: augment.gain: unknown key; did you mean gain_db?"),
        (
            "augment:\n  spec_augment:\n    time_mask: 1",
            "3: augment.spec_augment.time_mask: unknown",
        ),
        (
            "pretrain: {mask_frame: 1}",
            "1: pretrain.mask_frame: unknown key; did you mean mask_frames",
        ),
        ("decoding: {beam: 1}", "1: decoding.beam: unknown key; did you mean beam_size?"),
        ("watch: {foo: 1}", "1: watch.foo: unknown key; valid: critical_action, "),
        ("training: {batch_size: big}", "1: training.batch_size: should be a valid integer"),
        ("training: {batch_size: yes}", "1: training.batch_size: should not be true or false"),
        ("model: {d_model: 500.5}", "1: model.d_model: should be a valid integer"),
        ("training: {learning_rate: 2}", "should be less than or equal to 1 (got 2)"),
        ("training: {adam_betas: [0.9, 1.0]}", "1: training.adam_betas: should be less than 1"),
        ("training: {learning_rate: .nan}", "should be a finite number (got nan)"),
        ("model: {ctc_weight: 2.0}", "1: model.ctc_weight: should be less than or equal to 1 or"),
        (
            "data: {train_manifest: 3}",
            "1: data.train_manifest: should be a valid string or a valid",
        ),
        (
            "data:\n  train_manifest:\n  - {path: a.jsonl, weight: 0}",
            "2: data.train_manifest: a.jsonl: weight should be above 0 and at most 1000 (got",
        ),
        (
            "data: {train_manifest: [a.jsonl, {path: b.jsonl, weight: yes}]}",
            "1: data.train_manifest: b.jsonl: weight should be above 0 and at most 1000 (got",
        ),
        (
            "data: {train_manifest: [{path: b.jsonl, wieght: 2}]}",
            "1: data.train_manifest: b.jsonl: unknown key wieght; a set has path and weight (got",
        ),
        (
            "data: {train_manifest: [{weight: 2}]}",
            "1: data.train_manifest: each set should be a path, or {path: FILE, weight: W} (got",
        ),
        ("data: {train_manifest: []}", "1: data.train_manifest: "),
        ("training: {device: tpu}", "1: training.device: string should match"),
        ("stage: 5", "1: stage: should be 1 to 4, or pretrain, ctc, attention or hybrid (got 5)"),
        ("stage: hybird", "1: stage: should be 'pretrain', 'ctc', 'attention' or 'hybrid'"),
        ("training:", "1: training: is a section: give it keys, or leave it out"),
        ("data: {}\nmodel: [1]", "2: model: is a section: give it keys, or leave it out"),
        ("training:\n  seed: 1\n  seed: 2", "3: training.seed: given twice; see line 2"),
        (
            "model:\n  d_model: 100",
            "2: model: d_model 100 does not divide into encoder_num_heads 4",
        ),
        ("decoding:\n  beam_size: 3", "2: decoding: n_best 10 is larger than beam_size 3"),
        ("data:\n  min_duration: 40", "2: data: min_duration 40 is not below max_duration 30"),
        ("- 1\n- 2\n", "config.yaml: not a config: it has no sections such as `model:`"),
        ("hello", "config.yaml: not a config: it has no sections"),
        ("", "config.yaml: empty; a config has at least data.train_manifest"),
        ("# only a comment\n", "config.yaml: empty"),
        (
            "model:\n\td_model: 3\n",
            "2: not YAML: found character '\\t' that cannot start any token; ",
        ),
        ("model: [1\n", "2: not YAML: expected ',' or ']'"),
        ("a: 1\n---\nb: 2\n", "2: not YAML: but found another document"),
        (
            "training: {checkpoint_dir: 2026-13-45}",
            "1: not YAML: '2026-13-45' is not a valid timestamp",
        ),
        ("training: {seed: !!int x}", "1: not YAML: 'x' is not a valid int"),
        ("training: {seed: !!python/object:os.system x}", "1: not YAML: could not determine"),
        ("a: &a [*a]", "config.yaml: nested too deeply"),
        ("[" * 3000, "config.yaml: nested too deeply"),
        (b"PK\x03\x04\xff\xfe", "config.yaml: not a text file (byte 4 is not UTF-8)"),
        (b"PK\x00\x00", "config.yaml: not YAML: unacceptable character"),
        (b"#" * (2 << 20), "config.yaml: larger than 1 MiB"),
    ],
)
def test_each_fault_is_one_line_with_its_place(
    tmp_path: Path, text: str | bytes, expected: str
) -> None:
    found = faults(tmp_path / "config.yaml", text)
    assert any(expected in line and line.startswith("config.yaml") for line in found), found
    # Two head counts do not divide 100, and one line has two wrong keys; all else is one fault.
    assert len(found) == (2 if "100" in str(text) or "lr_" in str(text) else 1)


def test_few_aliases_cannot_make_billions_of_values(tmp_path: Path) -> None:
    rows = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert "more than 10000 values" in faults(tmp_path / "config.yaml", "\n".join(rows))[0]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.d_model", "expected section.key=value"),
        ("=3", "expected section.key=value"),
        ("model.=3", "expected section.key=value"),
        ("training.batch_size=[1", "not YAML: expected"),
        ("training.run=2026-13-45", "not YAML: month must be in 1..12"),
        (
            "training.batch_size=-1",
            "training.batch_size: should be greater than or equal to 1 (got",
        ),
        ("training.batch_sise=1", "training.batch_sise: unknown key; did you mean batch_size?"),
        ("model=3", "model: is a section"),
        ("stage.x=1", "stage: "),
        ("training.seed.x=1", "training.seed is not a section"),
        ("model.d_model=100", "model: d_model 100 does not divide into encoder_num_heads 4 heads"),
    ],
)
def test_faulty_override_is_named_as_it_was_given(
    tmp_path: Path, override: str, expected: str
) -> None:
    found = faults(tmp_path / "config.yaml", "training: {seed: 1}", override)
    assert found[0].startswith(f"--set {override}: ")
    assert expected in found[0]


def test_all_faults_are_shown_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(
        "model:\n  d_modl: 5\n  vocab_size: many\ntraining:\n  seed: 1\n  seed: 2\n  dropout: 0.1\n"
        "data:\n  train_manifest: missing.jsonl\n"
    )
    arguments = ["train", "--config", "bad.yaml", "--set", "nonsense", "--set", "data.x=1"]
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    where = (
        "bad.yaml:2",
        "bad.yaml:3",
        "bad.yaml:6",
        "bad.yaml:7",
        "--set nonsense",
        "--set data.x",
    )
    assert len(lines) == len(where)
    for place in where:
        assert sum(line.startswith(f"voxformer train: {place}") for line in lines) == 1
    assert "did you mean model.dropout?" in " ".join(lines)
    assert "missing.jsonl" not in " ".join(lines)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_a_path_may_leave_out_the_ending(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    config = tmp_path / "own" / "stage2.yaml"
    config.write_text("stage: ctc\n")
    assert find_config(tmp_path / "own" / "stage2") == config
    monkeypatch.chdir(tmp_path)
    assert find_config("own/stage2").resolve() == config.resolve()


def test_config_that_is_not_there_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nope: no such config \(looked at it as a path, in"):
        find_config("nope")
    with pytest.raises(ConfigError, match="a folder, not a config"):
        find_config(tmp_path)


# A recipe.yaml is no config of a stage; tests/test_plan.py reads it.
STAGE_CONFIGS = sorted(path for path in CONFIGS.rglob("*.yaml") if path.name != "recipe.yaml")


@pytest.mark.parametrize("path", STAGE_CONFIGS, ids=lambda path: str(path.stem))
def test_packaged_config_loads_by_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    config, found = load_config(path.relative_to(CONFIGS).with_suffix(""))
    assert found.resolve() == path
    assert validate_config(config.model_dump(mode="json")) == config


def test_users_config_is_exactly_the_users() -> None:
    values = yaml.safe_load((CONFIGS / "stage4_fixed.yaml").read_text("utf-8"))
    assert values.keys() == {"model", "training", "data"}
    assert values["model"] == {
        "vocab_size": 2000,
        "d_model": 512,
        "encoder_num_heads": 8,
        "encoder_num_blocks": 3,
        "decoder_num_heads": 8,
        "decoder_num_layers": 4,
        "ctc_weight": 0.5,
    }
    assert values["training"] == {
        "learning_rate": 1.0e-4,
        "batch_size": 8,
        "gradient_accumulation_steps": 4,
        "num_epochs": 10,
        "warmup_steps": 2000,
        "save_interval": 500,
        "eval_interval": 500,
        "resume_from": "checkpoints/stage4_fixed/latest.pt",
    }
    resolved = load_config(CONFIGS / "stage4_fixed.yaml")[0].model_dump(mode="json")
    defaults = RunConfig().model_dump(mode="json")
    for section, given in values.items():
        assert {key: resolved[section][key] for key in given} == given
        resolved[section] = {k: v for k, v in resolved[section].items() if k not in given}
        defaults[section] = {k: v for k, v in defaults[section].items() if k not in given}
    assert resolved == defaults


def fields(section: type[BaseModel], at: str = "") -> Iterator[tuple[str, str | None]]:
    for name, field in section.model_fields.items():
        yield at + name, field.description
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields(kind, f"{at}{name}.")


def test_every_field_is_described() -> None:
    described = dict(fields(RunConfig))
    assert "augment.spec_augment.time_masks" in described
    assert [name for name, text in described.items() if not (text or "").strip()] == []


def test_training_sets_are_paths_with_weights(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for text, expected in (
        ("a.jsonl", [("a.jsonl", 1.0)]),
        ("[a.jsonl, b.jsonl]", [("a.jsonl", 1.0), ("b.jsonl", 1.0)]),
        ("[a.jsonl, {path: b.jsonl, weight: 0.25}]", [("a.jsonl", 1.0), ("b.jsonl", 0.25)]),
        ("[{path: b.jsonl}]", [("b.jsonl", 1.0)]),
    ):
        path.write_text(f"data: {{train_manifest: {text}}}")
        config, _ = load_config(path)
        assert [(s.path, s.weight) for s in config.data.training_sets] == expected
        path.write_text(dump_config(config))
        assert load_config(path)[0] == config
    assert validate_config({}).data.training_sets == []
