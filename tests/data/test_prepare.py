from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voxformer.data import DataError, read_manifest
from voxformer.data.prepare import prepare_kaldi, prepare_librispeech, prepare_manifest


@pytest.fixture
def librispeech(tmp_path: Path, write_audio) -> Path:
    folder = tmp_path / "src"
    for subset, speaker in (("train-x", "19"), ("dev-x", "84")):
        chapter = folder / subset / speaker / "198"
        write_audio(chapter / f"{speaker}-198-0000.flac", 1.0)
        write_audio(chapter / f"{speaker}-198-0001.flac", 0.5)
        (chapter / f"{speaker}-198.trans.txt").write_text(
            f"{speaker}-198-0000 HELLO THERE\n{speaker}-198-0001 IT'S ME\n"
        )
    return folder


def test_librispeech_gives_a_manifest_for_each_subset(tmp_path: Path, librispeech: Path) -> None:
    prepared = prepare_librispeech(librispeech, tmp_path / "out")
    assert set(prepared.manifests) == {"train-x", "dev-x"}
    assert (prepared.utterances, prepared.seconds, prepared.bad) == (4, 3.0, [])
    first, second = read_manifest(prepared.manifests["train-x"])
    assert (first.id, first.text, first.duration) == ("19-198-0000", "hello there", 1.0)
    assert (second.text, second.speaker) == ("it's me", "19")
    assert second.audio_path.is_file()


def test_librispeech_subset_on_its_own(tmp_path: Path, librispeech: Path) -> None:
    folder = librispeech / "dev-x"
    assert set(prepare_librispeech(folder, tmp_path / "out").manifests) == {"dev-x"}


def test_librispeech_names_what_is_broken(tmp_path: Path, librispeech: Path) -> None:
    folder = librispeech
    (folder / "train-x/19/198/19-198-0001.flac").write_bytes(b"fLaC broken")
    (folder / "dev-x/84/198/84-198-0000.flac").unlink()
    prepared = prepare_librispeech(folder, tmp_path / "out")
    assert sorted(name for name, _ in prepared.bad) == ["19-198-0001", "84-198-0000"]
    assert prepared.utterances == 2


def test_librispeech_lines_of_another_corpus_are_left_out(
    tmp_path: Path, librispeech: Path
) -> None:
    path = next(librispeech.glob("train-x/*/*/*.trans.txt"))
    path.write_text(f"\ufeff{path.read_text()}a/b.wav SOME\n/ THING\n. ELSE\n", "utf-8")
    prepared = prepare_librispeech(librispeech / "train-x", tmp_path / "out")
    assert len(read_manifest(prepared.manifests["train-x"])) == 2
    assert [name for name, _ in prepared.bad] == ["a/b.wav", "/", "."]


def test_librispeech_of_another_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"trans\.txt"):
        prepare_librispeech(tmp_path, tmp_path / "out")


def kaldi(folder: Path, **files: str) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content)
    return folder


def test_kaldi_whole_recordings(tmp_path: Path, write_audio) -> None:
    audio = write_audio(tmp_path / "a.wav", 1.0)
    folder = kaldi(
        tmp_path / "train",
        wav_scp=f"u1 {audio}\nu2 ../a.wav\n",
        text="u1 Yes.\nu2 NO\nu3 gone\n",
        utt2spk="u1 ann\nu2 bob\n",
    )
    prepared = prepare_kaldi(folder, tmp_path / "out")
    first, second = read_manifest(prepared.manifests["train"])
    assert (first.text, first.speaker, first.duration) == ("yes", "ann", 1.0)
    assert second.audio_path == audio
    assert [name for name, _ in prepared.bad] == ["u3"]


def test_kaldi_segments_are_cut(tmp_path: Path, write_audio) -> None:
    write_audio(tmp_path / "a.wav", 2.0)
    folder = kaldi(
        tmp_path / "train",
        wav_scp=f"rec {tmp_path / 'a.wav'}\n",
        text="u1 yes\nu2 no\nu3 late\nu4 lost\n",
        segments="u1 rec 0.0 0.75\nu2 rec 1.5 -1\nu3 rec 1.0 9.0\n",
    )
    prepared = prepare_kaldi(folder, tmp_path / "out")
    first, second = read_manifest(prepared.manifests["train"])
    assert (first.duration, second.duration) == (0.75, 0.5)
    assert (tmp_path / "out/segments") in first.audio_path.parents
    assert [name for name, _ in prepared.bad] == ["u4", "u3"]


def test_kaldi_lines_end_where_lines_do(tmp_path: Path, write_audio) -> None:
    write_audio(tmp_path / "a.wav", 1.0)
    folder = kaldi(
        tmp_path / "train",
        wav_scp="\ufeffu1 ../a.wav\r\nu2 a\0.wav\r\n",
        text="\ufeffu1 yes\u2028sir\u0085so\r\nu2 no\r\n",
    )
    prepared = prepare_kaldi(folder, tmp_path / "out")
    [utterance] = read_manifest(prepared.manifests["train"])
    assert utterance.text.split() == ["yes", "sir", "so"]
    [(name, reason)] = prepared.bad
    assert name == "u2"
    assert reason.endswith("a\\x00.wav': no file can be called so")


def test_kaldi_pipes_are_refused(tmp_path: Path) -> None:
    folder = kaldi(tmp_path / "train", wav_scp="u1 sox a.sph -t wav - |\n", text="u1 yes\n")
    with pytest.raises(DataError, match="u1 is a command"):
        prepare_kaldi(folder, tmp_path / "out")


def test_kaldi_without_its_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"wav\.scp"):
        prepare_kaldi(tmp_path, tmp_path / "out")


def test_manifest_is_measured_normalised_and_cut(tmp_path: Path, write_audio) -> None:
    write_audio(tmp_path / "a.wav", 2.0)
    rows = [
        json.dumps({"audio_filepath": "a.wav", "duration": 99, "text": "Yes, SIR!"}),
        json.dumps({"audio_filepath": "a.wav", "text": "no"}),
        json.dumps({"audio_filepath": "a.wav", "offset": 0.5, "duration": 1.0, "text": "part"}),
        json.dumps({"audio_filepath": "none.wav", "duration": 1.0}),
        "{broken",
        json.dumps({"text": "no audio"}),
    ]
    (tmp_path / "raw.jsonl").write_text("\n".join(rows) + "\n")
    prepared = prepare_manifest(tmp_path / "raw.jsonl", tmp_path / "out")
    utterances = read_manifest(prepared.manifests["raw"])
    assert [u.text for u in utterances] == ["yes sir", "no", "part"]
    assert [u.duration for u in utterances] == [2.0, 2.0, 1.0]
    assert len({u.id for u in utterances}) == 3
    reasons = " ".join(reason for _, reason in prepared.bad)
    assert len(prepared.bad) == 3
    assert "no such audio file" in reasons
    assert "raw.jsonl:5" in reasons
    assert "audio_filepath" in reasons


def test_manifest_without_a_usable_line(tmp_path: Path) -> None:
    (tmp_path / "raw.jsonl").write_text(json.dumps({"audio_filepath": "none.wav"}) + "\n")
    with pytest.raises(DataError, match=r"no usable utterance: none: .*no such audio file"):
        prepare_manifest(tmp_path / "raw.jsonl", tmp_path / "out")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"audio_filepath": 5}', "audio_filepath is missing or not text"),
        (r'{"audio_filepath": "a\u0000.wav"}', "which no file can be called"),
        (r'{"audio_filepath": "\ud800.wav"}', "which no file can be called"),
        (r'{"audio_filepath": "a.wav", "id": "\ud800"}', "id holds half a character"),
        ('{"audio_filepath": "a.wav", "text": ["a", "b"]}', "text is list, not text"),
        ('{"audio_filepath": "a.wav", "offset": 0.1}', "needs offset and duration"),
        ('{"audio_filepath": "a.wav", "offset": NaN, "duration": 1}', "needs offset and duration"),
        ('{"audio_filepath": "a.wav", "offset": "x", "duration": 1}', "needs offset and duration"),
        ('{"audio_filepath": "a.wav", "offset": 1e300, "duration": 1}', "needs offset and"),
    ],
)
def test_a_line_that_cannot_be_used_is_left_out_by_number(
    tmp_path: Path, write_audio, line: str, reason: str
) -> None:
    write_audio(tmp_path / "a.wav", 1.0)
    good = '{"audio_filepath": "a.wav", "text": "yes"}'
    (tmp_path / "raw.jsonl").write_text(f"\ufeff{good}\n{line}\n", "utf-8")  # from a Windows editor
    prepared = prepare_manifest(tmp_path / "raw.jsonl", tmp_path / "out")
    [utterance] = read_manifest(prepared.manifests["raw"])
    assert utterance.text == "yes"
    [(name, said)] = prepared.bad
    assert name == "line 2"
    assert "raw.jsonl:2: " in said
    assert reason in said
    assert "\n" not in said


def test_a_file_name_that_is_no_unicode_is_prepared_and_read(tmp_path: Path, write_audio) -> None:
    name = os.fsdecode(b"caf\xe9.wav")
    write_audio(tmp_path / "a.wav", 1.0).rename(tmp_path / name)
    (tmp_path / "raw.jsonl").write_text(json.dumps({"audio_filepath": name, "text": "yes"}))
    prepared = prepare_manifest(tmp_path / "raw.jsonl", tmp_path / "out")
    [utterance] = read_manifest(prepared.manifests["raw"])
    assert (utterance.id, utterance.audio_path) == ("caf?", tmp_path / name)


def test_a_segment_without_a_sample_is_left_out(tmp_path: Path, write_audio) -> None:
    write_audio(tmp_path / "a.wav", 1.0)
    rows = [
        {"audio_filepath": "a.wav", "offset": 0.5, "duration": duration, "id": f"of {duration}"}
        for duration in (0.00001, 0.25)
    ]
    (tmp_path / "raw.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    prepared = prepare_manifest(tmp_path / "raw.jsonl", tmp_path / "out")
    assert [u.duration for u in read_manifest(prepared.manifests["raw"])] == [0.25]
    [(name, reason)] = prepared.bad
    assert name == "of 1e-05"
    assert reason == f"{tmp_path / 'a.wav'}: segment at 0.5000 s holds no sample"


def test_equal_segments_with_long_ids_are_cut_at_the_same_time(tmp_path: Path, write_audio) -> None:
    write_audio(tmp_path / "a.wav", 2.0)
    row = {"audio_filepath": "a.wav", "offset": 0.5, "duration": 1.0, "id": "x" * 300}
    (tmp_path / "raw.jsonl").write_text(f"{json.dumps(row)}\n" * 40)
    prepared = prepare_manifest(tmp_path / "raw.jsonl", tmp_path / "out")
    utterances = read_manifest(prepared.manifests["raw"])
    assert len({u.id for u in utterances}) == 40
    assert [path.name for path in (tmp_path / "out/segments").iterdir()] == [
        utterances[0].audio_path.name
    ]


def test_held_out_speakers_are_in_one_set_only_and_do_not_depend_on_order(tmp_path: Path) -> None:
    rows = []
    for index in range(12):
        audio = tmp_path / f"{index}.wav"
        soundfile.write(audio, np.full(4000, 0.1, dtype=np.float32), 16000)
        row = {
            "audio_filepath": audio.name,
            "duration": 0.25,
            "text": "a",
            "speaker": f"s{index % 4}",
        }
        rows.append(json.dumps(row))
    for name, order in (("forward", rows), ("backward", rows[::-1])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(order))
        prepare_manifest(tmp_path / f"{name}.jsonl", tmp_path / name, dev_speakers=1)
    speakers = {
        (name, part): {u.speaker for u in read_manifest(tmp_path / name / f"{part}.jsonl")}
        for name in ("forward", "backward")
        for part in ("train", "dev")
    }
    assert len(speakers["forward", "dev"]) == 1
    assert speakers["forward", "dev"].isdisjoint(speakers["forward", "train"])
    assert speakers["forward", "dev"] == speakers["backward", "dev"]
    with pytest.raises(DataError, match="cannot hold out 4 speakers"):
        prepare_manifest(tmp_path / "forward.jsonl", tmp_path / "out", dev_speakers=4)
