from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from voxformer.audio.io import read_audio
from voxformer.cli import main
from voxformer.data import DataError, read_manifest, synthetic, voices
from voxformer.data.commands import sample_sentences, vocabulary
from voxformer.data.seeds import derived_generator

ENGINES = all(importlib.util.find_spec(module) for module in voices._MODULES.values())
needs_engines = pytest.mark.skipif(not ENGINES, reason="needs voxformer[synthetic]")


def test_held_out_sentences_are_new_and_made_of_known_words() -> None:
    train, held_out = sample_sentences(derived_generator(1), 500, 200)
    assert len(set(train)) == 500
    assert len(set(held_out)) == 200
    assert not set(train) & set(held_out)
    words = {word for sentence in train for word in sentence.split()}
    assert {word for sentence in held_out for word in sentence.split()} <= words
    assert words <= vocabulary()
    assert 100 <= len(vocabulary()) <= 150


def test_more_sentences_than_words_allow_is_an_error() -> None:
    with pytest.raises(ValueError, match="held-out"):
        sample_sentences(derived_generator(1), 1, 500)


def test_plan_is_a_function_of_the_seed_and_keeps_voices_apart() -> None:
    plans = [synthetic.plan(Path("x"), seed, 200, 20, 40) for seed in (1, 1, 2)]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]
    speakers = {name: {t.voice.name for t in tasks} for name, tasks in plans[0].items()}
    assert speakers["test_voices"] == {"pico-gb", "piper-joe"}
    assert not speakers["test_voices"] & speakers["train"]
    assert speakers["test_sentences"] <= {v.name for row in voices.TRAIN_VOICES for v in row}
    texts = {name: [t.text for t in tasks] for name, tasks in plans[0].items()}
    assert texts["test_sentences"] == texts["test_voices"]
    assert not set(texts["test_voices"]) & set(texts["train"] + texts["dev"])
    paths = [t.path for tasks in plans[0].values() for t in tasks]
    assert len(set(paths)) == len(paths)


def test_no_held_out_voice_is_a_variant_of_a_training_voice() -> None:
    training = {(v.engine, v.setting) for row in voices.TRAIN_VOICES for v in row}
    assert not training & {(v.engine, v.setting) for v in voices.HELD_OUT_VOICES}
    assert all(v.warp == 1.0 for v in voices.HELD_OUT_VOICES)


@needs_engines
def test_a_text_is_read_in_parts_by_every_engine(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    line = "the apologies which are due to you i feel that anything less will neither do"
    text.write_text("".join(f"{line} {w}\n" for w in ("at all", "today", "here", "now")) + "no\n")
    out = tmp_path / "out"
    command = ["prepare", "synthetic", str(text), "--out", str(out), "--sentences", "4"]
    assert main(command) == 0
    utterances = read_manifest(out / "synthetic-train.jsonl")
    assert len(utterances) == 4
    engines = {str(u.speaker).split("-")[0] for u in utterances}
    assert {"espeak", "pico", "hibari"} <= engines
    lines = text.read_text().splitlines()
    for utterance in utterances:
        assert any(utterance.text in whole for whole in lines)
        assert 4 <= len(utterance.text.split()) <= 24
        samples = read_audio(utterance.audio_path, 16000)
        assert len(samples) / 16000 == pytest.approx(utterance.duration, abs=1e-3)
    before = {path: path.stat().st_mtime_ns for path in (out / "synthetic-train").iterdir()}
    assert main(command) == 0
    assert before == {p: p.stat().st_mtime_ns for p in (out / "synthetic-train").iterdir()}


@needs_engines
def test_a_text_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("no line here\n")
    with pytest.raises(DataError, match=r"short\.txt: no line of 4 words or more"):
        synthetic.synthesise_text(tmp_path / "short.txt", tmp_path)
    with pytest.raises(DataError, match=r"none\.txt: cannot be read: No such file"):
        synthetic.synthesise_text(tmp_path / "none.txt", tmp_path)


def test_missing_engine_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(voices._MODULES, "pico", "voxformer_no_such_engine")
    with pytest.raises(DataError, match=r"pip install 'voxformer\[synthetic\]'") as caught:
        synthetic.synthesise(tmp_path)
    assert "\n" not in str(caught.value)


@needs_engines
def test_a_small_corpus_is_whole_reproducible_and_restartable(tmp_path: Path) -> None:
    sizes = {"num_train": 12, "num_dev": 0, "num_test": 2, "num_workers": 1}
    calls: list[tuple[int, int]] = []
    manifests = synthetic.synthesise(
        tmp_path / "a", 5, **sizes, progress=lambda *c: calls.append(c)
    )
    assert calls == [(n, 16) for n in range(17)]
    train = read_manifest(manifests["train"])
    assert len(train) == 12
    for utterance in train:
        samples = read_audio(utterance.audio_path)
        assert len(samples) / 16000 == pytest.approx(utterance.duration, abs=1e-3)
        assert 0.4 < abs(samples).max() < 0.6
        assert 0.5 < utterance.duration < 8.0

    # One file is lost: it alone is made again, by another process, and is the same.
    lost = train[1].audio_path
    content, others = lost.read_bytes(), {u.audio_path: u.audio_path.stat() for u in train}
    lost.unlink()
    synthetic.synthesise(tmp_path / "a", 5, **sizes)
    assert lost.read_bytes() == content
    assert all(p.stat().st_mtime_ns == s.st_mtime_ns for p, s in others.items() if p != lost)


@needs_engines
def test_an_engine_that_fails_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voice = voices.Voice("nobody", "espeak", "xx-none")
    monkeypatch.setattr(synthetic, "TRAIN_VOICES", ((voice,),))
    with pytest.raises(DataError, match="nobody cannot say"):
        synthetic.synthesise(tmp_path, num_train=12, num_dev=0, num_test=1)
