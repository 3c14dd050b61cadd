from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxformer.data import DataError, Utterance, read_manifest, spread, write_manifest


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows))
    return path


def row(**changes: object) -> dict[str, object]:
    return {"audio_filepath": "a/1.flac", "duration": 1.5, "text": "yes", **changes}


def test_paths_are_relative_to_the_manifest(tmp_path: Path) -> None:
    [utterance] = read_manifest(write(tmp_path / "m.jsonl", row(id="x", speaker="ann")))
    assert utterance == Utterance("x", tmp_path / "a/1.flac", 1.5, "yes", "ann")
    assert utterance.audio_path.is_absolute()


def test_id_text_and_speaker_may_be_missing(tmp_path: Path) -> None:
    [utterance] = read_manifest(
        write(tmp_path / "m.jsonl", {"audio_filepath": "b.wav", "duration": 1})
    )
    assert (utterance.id, utterance.text, utterance.speaker) == ("b", "", None)


def test_made_ids_and_those_of_several_manifests_become_unique(tmp_path: Path) -> None:
    one = write(tmp_path / "1.jsonl", row(), row(audio_filepath="b/1.flac"))
    two = write(tmp_path / "2.jsonl", row(id="1", audio_filepath="c/1.flac"), row(id="2"))
    found = read_manifest([one, two], [1.0, 2.5])
    assert [(u.id, u.weight) for u in found] == [("1", 1.0), ("1#2", 1.0), ("1#3", 2.5), ("2", 2.5)]


def test_utterance_of_two_sets_is_refused_in_one_line(tmp_path: Path) -> None:
    one = write(tmp_path / "1.jsonl", row(id="a"), row(audio_filepath="b/1.flac"))
    for shared in (row(id="a"), row(audio_filepath="b/1.flac")):
        two = write(tmp_path / "2.jsonl", row(id="x", audio_filepath="x.flac"), shared)
        with pytest.raises(DataError) as caught:
            read_manifest([one, two])
        name = shared.get("id", "1")
        assert str(caught.value) == (
            f"{two}: utterance {name!r} is in {one} as well; leave it out of one, and use a set's "
            "weight to draw its utterances more often"
        )
    with pytest.raises(DataError, match=r"in .*1\.jsonl as well"):
        read_manifest([one, one])


@given(
    st.lists(
        st.builds(
            Utterance,
            id=st.text(min_size=1),
            audio_path=st.sampled_from([Path("/data/a.flac"), Path("/other/b.wav")]),
            duration=st.integers(0, 10**6).map(lambda n: n / 1000),
            text=st.text().map(str.strip),
            speaker=st.none() | st.text(),
        )
        | st.builds(
            Utterance,
            id=st.text(min_size=1),
            audio_path=st.just(Path("/data/a.flac")),
            duration=st.just(1.5),
            speech=st.just(False),
        ),
        min_size=1,
        unique_by=lambda u: u.id,
    )
)
def test_what_was_written_is_read(tmp_path_factory, utterances: list[Utterance]) -> None:
    path = tmp_path_factory.mktemp("manifest") / "m.jsonl"
    write_manifest(path, utterances)
    assert read_manifest(path) == utterances


def test_a_moved_folder_still_works(tmp_path: Path) -> None:
    old = tmp_path / "old"
    write_manifest(old / "m.jsonl", [Utterance("x", old.resolve() / "audio/x.flac", 1.0)])
    new = old.rename(tmp_path / "new")
    assert read_manifest(new / "m.jsonl")[0].audio_path == new / "audio/x.flac"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{not json}\n", "not JSON"),
        ("[1, 2]\n", "one JSON object"),
        ({"duration": 1.0}, "audio_filepath"),
        (row(audio_filepath=3), "audio_filepath"),
        ({"audio_filepath": "a.wav"}, "duration"),
        (row(duration="1"), "duration"),
        (row(duration=-1), "duration"),
        (row(duration=True), "duration"),
        ('{"audio_filepath": "a.wav", "duration": NaN}\n', "duration"),
        (row(text=["a"]), "text"),
        (row(offset=2.0), "offset"),
        (row(speech="no"), "neither true nor false"),
        (row(speech=False, text="yes"), "there is a text"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, bad: object, message: str) -> None:
    path = write(tmp_path / "m.jsonl", row(), "\n", bad)
    with pytest.raises(DataError, match=message) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert "\n" not in str(caught.value)


def test_id_that_comes_twice_is_named_with_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", row(id="x"), row(id="y"), row(id="x"))
    with pytest.raises(DataError, match=r":3: id 'x' is already used in line 1"):
        read_manifest(path)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_empty_manifest_is_an_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(DataError, match="empty"):
        read_manifest(write(tmp_path / "m.jsonl", content))


def test_missing_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="voxformer prepare"):
        read_manifest(tmp_path / "none.jsonl")


def test_manifest_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        read_manifest(tmp_path / "m.jsonl")


def test_failed_write_leaves_the_old_manifest(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", row())

    def failing():
        yield Utterance("x", tmp_path / "x.wav", 1.0)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_manifest(path, failing())
    assert len(read_manifest(path)) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["m.jsonl"]


@given(st.integers(0, 60), st.integers(1, 70))
def test_what_is_spread_is_in_order_and_no_part_is_left_out(size: int, count: int) -> None:
    chosen = spread(range(size), count)
    assert len(chosen) == min(size, count)
    assert chosen == sorted(set(chosen))
    # Neighbours are as far apart as if the sequence were divided into equal parts.
    gaps = [later - earlier for earlier, later in pairwise([*chosen, size])]
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert spread(range(size), None) == list(range(size))
