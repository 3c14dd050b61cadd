"""Runs on phones: what they train on, and that their models are not taken for ones of letters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from voxformer.cli import main
from voxformer.config.load import dump_config
from voxformer.decoding import Lexicon
from voxformer.text.pronunciation import Pronouncer
from voxformer.training.checkpoint import load_checkpoint
from voxformer.training.loop import train
from voxformer.training.setup import RunError

from ..tones import WORDS


@pytest.fixture
def trained(make_config) -> Path:  # type: ignore[no-untyped-def]
    """best.pt of a run on phones."""
    config = make_config("ctc", num_epochs=1)
    config.data.pronunciation = "en-us"
    assert train(config, "run") == 0
    return Path(config.training.checkpoint_dir) / "best.pt"


def test_tokens_are_of_phones_and_evaluations_compare_these(trained: Path) -> None:
    phones = Pronouncer("en-us")
    tokens = load_checkpoint(trained)["tokens"]
    assert set("".join(tokens[2:-1])) - {"▁"} == set("".join(map(phones.word, WORDS)))
    samples = json.loads((trained.parent / "samples.json").read_text())
    assert all(phone in str(samples) for phone in ("haɪ", "loʊ"))


def test_words_come_from_a_lexicon_which_is_asked_for(
    trained: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dev = str(corpus / "dev.jsonl")
    command = ["evaluate", "--model", str(trained), "--manifest", dev, "--mode", "all"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "writes phones (en-us); name a lexicon" in error
    assert len(error.splitlines()) == 1
    export = ["export", "--checkpoint", str(trained), "--out", str(tmp_path / "bundle")]
    assert main([*export, "--exporter", "trace"]) == 2
    assert "writes phones (en-us): name a lexicon" in capsys.readouterr().err
    lexicon = tmp_path / "lexicon.txt"
    train_set = str(corpus / "train.jsonl")
    make = ["lexicon", "--voice", "en-us", "--manifest", train_set, "--out", str(lexicon)]
    assert main(make) == 0
    assert len(Lexicon.load(lexicon)) == len(WORDS)
    capsys.readouterr()
    results = tmp_path / "results.json"
    assert main([*command, "--lexicon", str(lexicon), "--json", str(results)]) == 0
    modes = json.loads(results.read_text())["modes"]
    said = {u["hypothesis"] for u in modes["ctc_beam"]["utterances"]}
    assert set(" ".join(said).split()) <= set(WORDS)


def test_training_goes_on_from_a_bundle(
    trained: Path,
    corpus: Path,
    tmp_path: Path,
    make_config,  # type: ignore[no-untyped-def]
) -> None:
    lexicon, bundle, start = (tmp_path / name for name in ("lexicon.txt", "bundle", "start.pt"))
    train_set = str(corpus / "train.jsonl")
    make = ["lexicon", "--voice", "en-us", "--manifest", train_set, "--out", str(lexicon)]
    assert main(make) == 0
    export = ["export", "--checkpoint", str(trained), "--lexicon", str(lexicon)]
    assert main([*export, "--out", str(bundle), "--exporter", "trace"]) == 0
    assert main(["checkpoints", "unpack", str(bundle), str(start)]) == 0
    config = make_config("ctc", run="next", max_steps=1, init_from=str(start), learning_rate=1e-9)
    config.data.pronunciation = "en-us"
    assert train(config, "next") == 0
    before, unpacked = load_checkpoint(trained), load_checkpoint(start)
    after = load_checkpoint(tmp_path / "next" / "latest.pt")
    assert after["tokens"] == unpacked["tokens"] == before["tokens"]
    assert bytes(after["tokenizer"].tolist()) == bytes(before["tokenizer"].tolist())
    name = "encoder.blocks.1.layers.0.feed_forward1.expand.weight"
    torch.testing.assert_close(after["model"][name], before["model"][name], rtol=0, atol=1e-6)


def test_a_stage_on_other_pronunciations_is_refused(trained: Path, make_config) -> None:  # type: ignore[no-untyped-def]
    config = make_config("hybrid", run="next", init_from=str(trained))
    with pytest.raises(RunError, match=r"data\.pronunciation: None, but .* with 'en-us'"):
        train(config, "next")


def test_a_voice_that_is_none_is_one_line(
    make_config,  # type: ignore[no-untyped-def]
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = make_config("ctc")
    config.data.pronunciation = "xx-none"
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert main(["train", "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert "data.pronunciation: eSpeak NG has no voice 'xx-none'" in error
