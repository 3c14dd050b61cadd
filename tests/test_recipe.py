"""What a recipe takes from a corpus folder."""

import pytest

from voxformer.data.manifest import DataError
from voxformer.recipe import corpus_in


def touch(folder, *names):
    for name in names:
        (folder / f"{name}.jsonl").touch()


def test_extra_speech_goes_to_all_stages_but_the_joint_one(tmp_path):
    touch(tmp_path, "train", "dev", "test-a", "test-b", "extra-b", "extra-a")
    corpus = corpus_in(tmp_path)
    assert list(corpus.tests) == ["test-a", "test-b"]
    everything = [(tmp_path / f"{name}.jsonl", 1.0) for name in ("train", "extra-a", "extra-b")]
    assert [corpus.sets[f"stage{n}"] for n in (1, 2, 3)] == [everything] * 3
    assert corpus.sets["stage4"] == everything[:1]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("train", r"train\.jsonl: no such manifest"),
        ("dev", r"dev\.jsonl: no such manifest"),
        ("test", r": no test\*\.jsonl"),
    ],
)
def test_a_corpus_that_lacks_a_manifest_is_refused(tmp_path, missing, message):
    touch(tmp_path, *{"train", "dev", "test", "extra"} - {missing})
    with pytest.raises(DataError, match=message):
        corpus_in(tmp_path)
