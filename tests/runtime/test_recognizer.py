"""What a deployer does: load a bundle, transcribe files and arrays, long ones too."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from voxformer.decoding import Hypothesis
from voxformer.runtime import (
    MODES,
    EngineError,
    Recognizer,
    Vocabulary,
    Word,
    pad_batch,
    recognise_batch,
)
from voxformer.runtime.transcript import words_of


@pytest.fixture(scope="module")
def recognizer(bundle):
    return Recognizer.load(bundle, threads=1)


@pytest.mark.parametrize("mode", MODES)
def test_order_is_kept_and_results_do_not_depend_on_batching(recognizer, noise, mode):
    waveforms = noise(8000, 24000, 399, 16001, 12000)
    transcripts = recognizer.transcribe(waveforms, mode, batch_size=2)
    for waveform, transcript in zip(waveforms, transcripts, strict=True):
        batch = pad_batch([waveform])
        [n_best] = recognise_batch(
            recognizer.engine, *batch, mode, recognizer.options, recognizer.vocabulary
        )
        assert transcript.text == n_best[0].text
        assert [h.token_ids for h in transcript.hypotheses] == [h.token_ids for h in n_best]
        assert transcript.duration == len(waveform) / 16000


@pytest.mark.parametrize("mode", MODES)
def test_words_are_the_text_and_lie_within_the_recording_in_order(recognizer, noise, mode):
    [transcript] = recognizer.transcribe(noise(32000), mode)
    assert " ".join(word.text for word in transcript.words) == transcript.text
    starts = [word.start for word in transcript.words]
    assert starts == sorted(starts)
    for word in transcript.words:
        assert 0 <= word.start < word.end <= transcript.duration + 0.04


def test_files_and_arrays_give_the_same(recognizer, noise, tmp_path):
    [waveform] = noise(16000)
    path = tmp_path / "a.wav"
    soundfile.write(path, waveform, 16000, subtype="FLOAT")
    from_file, from_array, from_text = recognizer.transcribe([path, waveform, str(path)])
    assert from_file == from_array == from_text


def test_long_recording_is_cut_and_joined(recognizer, noise):
    [waveform] = noise(70 * 16000)
    waveform *= 0.1 + np.abs(np.sin(np.arange(70 * 16000) * (7 / 16000)))  # steady noise is silence
    waveform[25 * 16000 : 26 * 16000] = 0  # the one pause
    [transcript] = recognizer.transcribe([waveform], "ctc_greedy")
    assert all(last - first <= 30.0 for first, last in (s.heard for s in transcript.segments))
    assert transcript.text == " ".join(s.text for s in transcript.segments if s.text)
    assert transcript.hypotheses == ()
    first, second, *_ = transcript.segments
    assert first.heard[1] == first.end == pytest.approx(25.2, abs=0.05)
    assert second.heard[0] == pytest.approx(25.8, abs=0.1)
    rate = recognizer.engine.sample_rate
    piece = waveform[: round(first.heard[1] * rate)]
    [alone] = recognizer.transcribe([piece], "ctc_greedy")
    assert alone.text == first.text
    assert alone.words == first.words


def test_nothing_to_do_is_nothing(recognizer):
    assert recognizer.transcribe([]) == []


@pytest.mark.parametrize(
    ("recording", "message"),
    [
        (np.zeros((2, 400), np.float32), r"recording 0: float32 \[2, 400\]"),
        (np.zeros(400, np.int16), "recording 0: int16"),
        (np.array([0.0, np.nan]), "NaN"),
    ],
)
def test_array_that_is_no_waveform_is_refused(recognizer, recording, message):
    with pytest.raises(ValueError, match=message):
        recognizer.transcribe([recording])


def test_single_path_is_not_taken_for_a_list_of_characters(recognizer):
    with pytest.raises(TypeError, match="list of recordings"):
        recognizer.transcribe("a.wav")


def test_unknown_engine_is_refused(bundle):
    with pytest.raises(EngineError, match="onnxruntime"):
        Recognizer.load(bundle, engine="abacus")


def test_options_replace_those_of_the_bundle(bundle):
    assert Recognizer.load(bundle, beam_size=3, n_best=2).options.beam_size == 3


VOCABULARY = Vocabulary.from_tokens(
    ["<blank>", "\u2581", "\u2581he", "llo", "\u2581a", "<sos/eos>"]
)


def test_words_by_hand():
    hypothesis = Hypothesis(
        (2, 3, 1, 4),
        "hello a",
        0.0,
        token_confidences=(0.25, 1.0, 0.5, 0.0),
        token_starts=(5, 7, 9, 20),
        token_ends=(7, 8, 10, 23),
    )
    assert words_of(hypothesis, VOCABULARY, 0.04, start=1.0) == [
        Word("hello", 1.2, 1.32, 0.5),
        Word("a", 1.8, 1.92, 0.0),
    ]
    read = replace(hypothesis, words=("yellow", "eh"), text="yellow eh")
    assert words_of(read, VOCABULARY, 0.04, start=1.0) == [
        Word("yellow", 1.2, 1.32, 0.5),
        Word("eh", 1.8, 1.92, 0.0),
    ]


def test_running_a_bundle_imports_neither_torch_nor_jiwer(bundle, tmp_path):
    program = (
        "import sys, numpy as np\n"
        "from voxformer import Recognizer\n"
        "import voxformer.cli.transcribe, voxformer.cli.evaluate, voxformer.cli.export\n"
        f"Recognizer.load({str(bundle)!r}).transcribe([np.zeros(8000, np.float32)])\n"
        "print([m for m in ('torch', 'jiwer', 'pydantic', 'onnx') if m in sys.modules])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert result.stdout.strip() == "[]"
