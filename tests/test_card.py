"""The model card, from plain values."""

import copy

from voxformer.card import render_card

FOUND = {
    "wer": 0.1234,
    "wer_interval_95": [0.11, 0.14],
    "words": {"substitutions": 7, "deletions": 2, "insertions": 1, "reference_words": 81},
    "rtf": 0.0123,
}
VALUES = {
    "name": "mine",
    "scale": "cpu",
    "data": [
        {
            "set": "books",
            "hours": 1.5,
            "utterances": 12,
            "weights": [None, 1, 0.5, 0.3],
            "licence": "CC0",
            "about": "read aloud",
        }
    ],
    "training_seconds": {"stage1": 12.0, "stage4": 34.4},
    "bundles": {"fp32": {"bytes": 3 * 2**20}, "int8": {"bytes": 2**20}},
    "model": {"d_model": 64, "vocab_size": 50},
    "choice": {
        "chosen": "last step",
        "plain": {"options": {"ctc_weight": 0.4}},
        "lm": {"options": {"lm_weight": 0.6}},
    },
    "results": {
        "sets": {"dev": {"fp32": {"modes": {"ctc_greedy": FOUND}}}},
        "confusions": {"dev": [["in -> and", 4], ["(nothing) -> a", 2]]},
        "language_model": {"file": "lm/words.arpa.gz"},
        "machine": {"cpu": "Some CPU", "cores": 2},
        "versions": {"voxformer": "0.1.0"},
        "commit": "abc",
    },
    "limits": ["English only."],
}


def test_a_card_says_data_licences_sizes_figures_and_limits():
    text = render_card(copy.deepcopy(VALUES))
    for line in (
        "| books | 1.50 | 12 | - / 1 / 0.5 / 0.3 | CC0 | read aloud |",
        "| int8 | 1.0 |",
        "| dev | fp32 | ctc_greedy | 12.34% | 11.00% - 14.00% | 7 / 2 / 1 | 81 | 0.0123 |",
        "Seconds in steps: stage1 12, stage4 34.",
        (
            "Width 64, 50 pieces. Weights: last step, chosen on the development set. Search: "
            "ctc_weight 0.4; with the language model words.arpa.gz: lm_weight 0.6."
        ),
        "- dev, fp32 with the language model: in -> and (4), (nothing) -> a (2)",
        "- English only.",
    ):
        assert line in text.splitlines()


def test_a_card_says_which_words_the_model_knows_and_whose_they_are():
    values = copy.deepcopy(VALUES)
    values["lexicon"] = {"file": "lexicon.txt.gz", "words": 57, "pronunciations": 52}
    values["frequent_words"] = ["en", 50]
    values["training_note"] = "Stage 1 was finished elsewhere."
    text = render_card(values)
    assert "the words of lexicon.txt.gz alone: 57 with 52 pronunciations" in text
    assert "the 50 most frequent words of `en` by wordfreq" in text
    assert "CC BY-SA 4.0" in text
    assert "mixed" not in text
    values["mixture"] = ["pocketsphinx", 0.4]
    text = render_card(values)
    assert "mixed: 40% of it are pocketsphinx. That is the American English model" in text
    assert "Stage 1 was finished elsewhere." in text.splitlines()
