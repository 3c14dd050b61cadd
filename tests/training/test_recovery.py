"""Damage is always found, costs no more than it must, and what a run goes on with is told."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from voxformer.cli import main
from voxformer.config import ConfigError, RunConfig, dump_config, load_config
from voxformer.training import loop
from voxformer.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from voxformer.training.compatibility import SILENT, changed_settings
from voxformer.training.loop import train
from voxformer.training.recovery import newest_verified, set_aside
from voxformer.training.storage import link_verified

MakeConfig = Callable[..., RunConfig]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = load_checkpoint(folder / "latest.pt")["model"]
    return model


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a file of every kind; step 4 is the newest, epoch 1 ended with step 2."""
    folder = tmp_path_factory.mktemp("run")
    for step in (2, 3, 4):
        state = {
            "stage": "ctc",
            "step": step,
            "config": {"model": {}},
            "model": {"w": torch.arange(40.0) + step, "scale": torch.ones(())},
        }
        save_checkpoint(folder / f"step_{step}.pt", state)
        if step == 2:
            link_verified(folder / "step_2.pt", folder / "epoch_1.pt")
    link_verified(folder / "step_4.pt", folder / "latest.pt")
    save_checkpoint(folder / "best.pt", state)
    return folder


def flipped(content: bytes, generator: random.Random) -> bytes:
    at = generator.randrange(len(content))
    changed = bytearray(content)
    changed[at] ^= 1 << generator.randrange(8)
    return bytes(changed)


def truncated(content: bytes, generator: random.Random) -> bytes:
    return content[: generator.randrange(len(content))]


@pytest.mark.parametrize("damage", [flipped, truncated])
@pytest.mark.parametrize("suffix", ["", ".sha256"])
@pytest.mark.parametrize("name", ["step_4.pt", "epoch_1.pt", "latest.pt", "best.pt"])
def test_any_flipped_bit_and_any_cut_is_found(
    small_run: Path,
    tmp_path: Path,
    name: str,
    suffix: str,
    damage: Callable[[bytes, random.Random], bytes],
) -> None:
    generator = random.Random(f"{name}{suffix}{damage.__name__}")
    for path in (small_run / name, small_run / f"{name}.sha256"):
        shutil.copy(path, tmp_path)
    load_checkpoint(tmp_path / name)
    target = tmp_path / f"{name}{suffix}"
    content = target.read_bytes()
    for _ in range(100):
        target.write_bytes(damage(content, generator))
        with pytest.raises(CheckpointError, match=r"says otherwise|cannot be verified"):
            load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("damage", [flipped, truncated])
def test_damage_anywhere_in_a_run_folder_costs_no_more_than_its_file(
    small_run: Path, tmp_path: Path, damage: Callable[[bytes, random.Random], bytes]
) -> None:
    generator = random.Random(damage.__name__)
    names = sorted(path.name for path in small_run.iterdir())
    for attempt in range(100):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        for name in names:  # latest.pt and epoch_1.pt are files of their own here
            shutil.copy(small_run / name, folder)
        hit = {generator.choice(names) for _ in range(generator.randint(1, 4))}
        for name in hit:
            (folder / name).write_bytes(damage((folder / name).read_bytes(), generator))
        bad = {name.removesuffix(".sha256") for name in hit}
        whole = {"latest.pt": 4, "step_4.pt": 4, "step_3.pt": 3, "step_2.pt": 2, "epoch_1.pt": 2}
        best = max((step for name, step in whole.items() if name not in bad), default=None)
        assert best is not None
        found = newest_verified(folder)
        assert found.state["step"] == best
        assert torch.equal(found.state["model"]["w"], torch.arange(40.0) + best)
        if best < 4:
            assert f"steps {best + 1} to 4 are lost" in found.notes[-1]


def test_where_nothing_can_be_used_nothing_is_touched(small_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small_run, tmp_path / "run")
    for path in folder.glob("*.pt"):
        path.write_bytes(b"damaged")
    before = sorted(path.name for path in folder.iterdir())
    for _ in range(2):  # a second attempt must not find an empty folder and start anew
        with pytest.raises(CheckpointError, match=r"no checkpoint in it can be used: .*latest\.pt"):
            newest_verified(folder)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_what_is_set_aside_is_never_overwritten(tmp_path: Path) -> None:
    names = []
    for content in (b"first", b"second", b"third"):
        (tmp_path / "step_40.pt").write_bytes(content)
        (tmp_path / "step_40.pt.sha256").write_text(content.decode())
        aside = set_aside(tmp_path / "step_40.pt")
        names.append(aside.name)
        assert aside.read_bytes() == content
        assert aside.with_name(f"{aside.name}.sha256").read_text() == content.decode()
    assert names == ["step_40.pt.damaged", "step_40.pt.2.damaged", "step_40.pt.3.damaged"]
    assert (tmp_path / "step_40.pt.damaged").read_bytes() == b"first"


def test_a_step_newer_than_latest_is_found(small_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small_run, tmp_path / "run")
    link_verified(folder / "step_3.pt", folder / "latest.pt")
    found = newest_verified(folder)
    assert (found.path.name, found.notes) == ("step_4.pt", [])


def test_a_damaged_best_is_set_aside_and_written_anew(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    options = {"eval_interval": 3, "num_epochs": 1}
    assert train(make_config("ctc", **options), "run") == 0
    assert load_checkpoint(folder / "latest.pt")["position"]["best"] < 10
    (folder / "best.pt").write_bytes(b"damaged")
    options |= {"num_epochs": 2, "resume_from": str(folder / "latest.pt")}
    assert train(make_config("ctc", **options), "run") == 0
    assert load_checkpoint(folder / "best.pt")["step"] > 6
    assert "best.pt.damaged, the next evaluation writes it anew" in log_of(folder)


def log_of(folder: Path) -> str:
    return (folder / "training.log").read_text()


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`stop_at(step)`: end a run after a step, as a signal does, but with exit code 0."""
    wanted: list[int] = []
    finished = loop._Run._finished

    def stopped(self: loop._Run) -> bool:
        return finished(self) or self.position.step in wanted

    monkeypatch.setattr(loop._Run, "_finished", stopped)

    def set_step(step: int) -> None:
        wanted[:] = [step]

    return set_step


OPTIONS = {"save_interval": 2, "eval_interval": 100, "num_epochs": 2, "ema_decay": 0.9}


def test_a_run_goes_on_in_another_folder_with_its_data_in_another_place(
    make_config: MakeConfig, corpus: Path, tmp_path: Path, stop_at: Callable[[int], None]
) -> None:
    stop_at(-1)
    assert train(make_config("ctc", "whole", **OPTIONS), "whole") == 0
    stop_at(5)
    assert train(make_config("ctc", "here", **OPTIONS), "here") == 0
    shutil.move(tmp_path / "here", tmp_path / "there")
    shutil.copytree(corpus, tmp_path / "renamed")
    stop_at(-1)
    config = make_config("ctc", "there", **OPTIONS)
    config.training.resume_from = str(tmp_path / "there" / "latest.pt")
    config.data.train_manifest = str(tmp_path / "renamed" / "train.jsonl")
    config.data.valid_manifest = str(tmp_path / "renamed" / "dev.jsonl")
    assert train(config, "there") == 0
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "there"))
    assert "goes on with other settings" not in log_of(tmp_path / "there")
    assert "training set: " not in log_of(tmp_path / "there")


def test_more_epochs_and_other_harmless_settings_are_told_and_go_on(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert train(make_config("ctc", **OPTIONS), "run") == 0
    more = {"num_epochs": 3, "learning_rate": 2e-3, "num_workers": 1, "resume_from": "x"}
    config = make_config("ctc", **{**OPTIONS, **more})
    config.training.resume_from = str(folder / "latest.pt")
    config.model.dropout = 0.2
    assert train(config, "run") == 0
    assert load_checkpoint(folder / "latest.pt")["position"]["epoch"] == 3
    assert (
        "goes on with other settings than before: model.dropout: 0.1, now 0.2; "
        "training.learning_rate: 0.001, now 0.002; training.num_epochs: 2, now 3\n"
    ) in log_of(folder)


def test_another_batch_size_goes_on_at_the_same_share_of_the_epoch(
    make_config: MakeConfig, tmp_path: Path, stop_at: Callable[[int], None]
) -> None:
    folder = tmp_path / "run"
    stop_at(3)
    assert train(make_config("ctc", **OPTIONS), "run") == 0  # 3 of 6 batches of 4
    stop_at(-1)
    resumed = str(folder / "latest.pt")
    config = make_config("ctc", **{**OPTIONS, "batch_size": 2, "resume_from": resumed})
    assert train(config, "run") == 0
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert "training.batch_size: 4, now 2" in log_of(folder)
    # 6 of 12 batches of 2 were left of the first epoch.
    assert load_checkpoint(resumed)["step"] == 3 + 6 + 12
    assert rows[-1]["step"] == 21


def test_another_training_set_is_told(
    make_config: MakeConfig, corpus: Path, tmp_path: Path, stop_at: Callable[[int], None]
) -> None:
    stop_at(3)
    assert train(make_config("ctc", **OPTIONS), "run") == 0
    stop_at(-1)
    lines = (corpus / "train.jsonl").read_text().splitlines(keepends=True)
    rows = [json.loads(line) for line in lines[:20]]
    for row in rows:
        row["audio_filepath"] = str(corpus / row["audio_filepath"])
    (tmp_path / "fewer.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = make_config("ctc", **OPTIONS)
    config.data.train_manifest = str(tmp_path / "fewer.jsonl")
    config.training.resume_from = str(tmp_path / "run" / "latest.pt")
    assert train(config, "run") == 0
    assert "training set: 24 utterances, now 20, not the same" in log_of(tmp_path / "run")


@pytest.mark.parametrize(
    ("stage", "change", "expected"),
    [
        ("ctc", {"training": {"seed": 2}}, "training.seed is 1 there, 2 here: the start weights"),
        ("ctc", {"training": {"optimizer": "muon"}}, "training.optimizer is adamw there, muon he"),
        ("pretrain", {"pretrain": {"codebook_size": 16}}, "pretrain.codebook_size is 8 there, 16"),
        ("ctc", {"model": {"decoder_num_layers": 2}}, "decoder_num_layers 1 there, 2 here; set mo"),
    ],
)
def test_a_contradiction_is_one_line_that_says_what_to_do(
    make_config: MakeConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    change: dict[str, dict[str, object]],
    expected: str,
) -> None:
    assert train(make_config(stage, max_steps=1), "run") == 0
    values = make_config(stage, max_steps=1).model_dump(mode="json")
    for section, settings in change.items():
        values[section] |= settings
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.pt*")}
    capsys.readouterr()
    assert main(["train", "--config", str(tmp_path / "config.yaml"), "--resume"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert expected in line
    assert "start another run" in line
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*.pt*")} == before


def test_a_flipped_bit_in_a_config_is_an_error_or_told_when_the_run_goes_on(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """The config in the checkpoint is covered by its digest; the file beside it is read again."""
    config = make_config("pretrain")
    saved = config.model_dump(mode="json")
    content = dump_config(config).encode()
    path = tmp_path / "config.yaml"
    generator = random.Random(0)
    outcomes = {"refused": 0, "told": 0, "other value": 0, "same": 0}
    for _ in range(150):
        path.write_bytes(flipped(content, generator))
        try:
            read, _ = load_config(str(path))
            told = changed_settings("x.pt", saved, read)
        except (ConfigError, CheckpointError):
            outcomes["refused"] += 1
            continue
        now = read.model_dump(mode="json")
        if now == saved:
            outcomes["same"] += 1
        elif told:
            outcomes["told"] += 1
        else:
            # Paths, sizes of the network, and what may differ from one machine to another.
            different = {
                f"{section}.{key}"
                for section, values in now.items()
                if isinstance(values, dict)
                for key in values
                if values[key] != saved[section][key]
            }
            different |= {"stage"} if now["stage"] != saved["stage"] else set()
            assert all(
                key in SILENT or key.startswith(("model.", "mirror.")) for key in different
            ), different
            outcomes["other value"] += 1
    assert outcomes["refused"] > 100


def test_prune_leaves_the_newest_that_verifies(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(small_run, tmp_path / "run")
    (folder / "step_4.pt").write_bytes(b"damaged")
    assert main(["checkpoints", "verify", str(folder)]) == 2
    assert "step_4.pt.sha256 says otherwise" in capsys.readouterr().out
    assert main(["checkpoints", "prune", str(folder), "--keep", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "step_2.pt: deleted",
        "step_3.pt: kept, the newest that verifies",
    ]
    assert main(["checkpoints", "list", str(folder)]) == 0
