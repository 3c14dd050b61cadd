"""The model card of a recipe's run, made from its JSON files: data, licences, figures, limits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from voxformer.data.manifest import read_manifest
from voxformer.decoding import Lexicon
from voxformer.plan import Plan, Recipe
from voxformer.shipping import Shipped
from voxformer.text.atomic import write_atomically
from voxformer.text.sphinx import PACKAGE

LIMITS = (
    (
        "English that is read aloud, at 16 kHz or more; other languages, telephone speech, music "
        "and several people at once were neither trained on nor measured."
    ),
    (
        "Accents and ages as the training sets have them; error rates of speakers unlike them are "
        "higher."
    ),
    "Text comes in lower case, without punctuation, with numbers as words.",
    (
        "The sets are Ogg/Opus at 24 kbit/s, which is lossy: figures are not strictly comparable "
        "with those of the original recordings."
    ),
    (
        "Weights, search options and the language model's weight were chosen on the development "
        "set, whose error rate is therefore a little too good."
    ),
)

UNHEARD_NOISE = (
    "No stage has heard silence or noise alone: where nobody speaks it may write a few words, of "
    "low confidence."
)
HEARD_NOISE = (
    "To noises in which nobody speaks it was taught to write nothing; voices behind the speaker, "
    "music and other sounds of people were not among them."
)


def write_card(name: str, recipe: Recipe, plan: Plan, shipped: Shipped, out: Path) -> Path:
    """Write out/model-card.md and what it is made from, out/model-card.json; returns the former."""
    values = card_values(name, recipe, plan, shipped, out)
    write_atomically(out / "model-card.json", json.dumps(values, indent=2) + "\n")
    write_atomically(out / "model-card.md", render_card(values))
    return out / "model-card.md"


def card_values(
    name: str, recipe: Recipe, plan: Plan, shipped: Shipped, out: Path
) -> dict[str, Any]:
    """Everything that the card says, as plain values."""
    paths = {path for stage in plan.corpus.sets.values() for path, _ in stage}
    data = []
    for path in sorted(paths):
        utterances = read_manifest(path)
        planned = recipe.train[path.stem]
        data.append(
            {
                "set": path.stem,
                "hours": sum(u.duration for u in utterances) / 3600,
                "utterances": len(utterances),
                "speech": any(u.speech for u in utterances),
                "weights": plan.weights[path.stem],
                "licence": planned.licence,
                "about": planned.about,
            }
        )
    training = json.loads((out / "training.json").read_text("utf-8"))
    bundles = {
        precision: {
            "bytes": sum(f.stat().st_size for f in path.rglob("*") if f.is_file()),
            "decoding": json.loads((path / "bundle.json").read_text("utf-8"))["decoding"],
        }
        for precision, path in shipped.bundles.items()
    }
    model = json.loads((shipped.bundles["fp32"] / "bundle.json").read_text("utf-8"))["model"]
    return {
        "name": name,
        "scale": plan.scale,
        "data": data,
        "training_seconds": training["seconds"],
        "training_note": training.get("note"),
        "bundles": bundles,
        "model": model,
        "choice": json.loads((out / "choice.json").read_text("utf-8")),
        "lexicon": _lexicon_values(shipped.lexicon),
        "frequent_words": plan.language.words,
        "mixture": plan.language.mixture,
        "results": shipped.results,
        "limits": [*LIMITS, UNHEARD_NOISE if all(d["speech"] for d in data) else HEARD_NOISE],
    }


def _lexicon_values(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    lexicon = Lexicon.load(path)
    words, sounds = ({entry[k] for entry in lexicon.entries} for k in (0, 1))
    return {"file": path.name, "words": len(words), "pronunciations": len(sounds)}


def _about_words(values: dict[str, Any]) -> list[str]:
    """Which words the model may write, and where they and what is said of them come from."""
    lexicon, listed = values.get("lexicon"), values.get("frequent_words")
    mixture = values.get("mixture")
    said = []
    if lexicon is not None:
        said.append(
            f"It hears phones, as eSpeak NG pronounces words, and writes the words of "
            f"{lexicon['file']} alone: {lexicon['words']} with {lexicon['pronunciations']} "
            "pronunciations."
        )
    if listed is not None:
        language, count = listed
        said.append(
            f"The language model, and the lexicon if there is one, have the {count} most frequent "
            f"words of `{language}` by wordfreq (R. Speer 2022, CC BY-SA 4.0, from Wikipedia, "
            "subtitles, news, books and others) beside those of the texts; for these files its "
            "licence holds as well."
        )
    if mixture is not None:
        model, weight = mixture
        said.append(f"The language model is mixed: {weight:.0%} of it are {model}.")
        if model == PACKAGE:
            said.append(
                "That is the American English model of the package (CMU Sphinx, BSD licence). What "
                "texts it was made of is not told, so that those of a test set may be among them."
            )
    return [" ".join(said)] if said else []


def render_card(values: dict[str, Any]) -> str:
    """Markdown of `card_values`."""
    results, choice = values["results"], values["choice"]
    versions = ", ".join(f"{key} {value}" for key, value in results["versions"].items())
    seconds = values["training_seconds"]
    scale = f" --scale {values['scale']}" if values["scale"] else ""
    parts = [
        f"# Model card: {values['name']}",
        (
            "A hybrid CTC-attention recogniser of read English, trained with "
            f"`voxformer recipe {values['name']}{scale}`."
        ),
        "## Training speech",
        _table(
            ("set", "hours", "utterances", "weights in stages 1-4", "licence", "what it is"),
            (
                (
                    row["set"],
                    f"{row['hours']:.2f}",
                    row["utterances"],
                    " / ".join("-" if w is None else f"{w:g}" for w in row["weights"]),
                    row["licence"],
                    row["about"],
                )
                for row in values["data"]
            ),
        ),
        "Seconds in steps: "
        + ", ".join(f"{stage} {spent:.0f}" for stage, spent in seconds.items())
        + ".",
        *([note] if (note := values.get("training_note")) else []),
        "## What is shipped",
        _table(
            ("bundle", "MiB"),
            ((name, f"{row['bytes'] / 2**20:.1f}") for name, row in values["bundles"].items()),
        ),
        (
            f"Width {values['model']['d_model']}, {values['model']['vocab_size']} pieces. Weights: "
            f"{choice['chosen']}, chosen on the development set. Search: "
            f"{_options(choice['plain'])}; "
            f"with the language model {Path(results['language_model']['file']).name}: "
            f"{_options(choice['lm'])}."
        ),
        *_about_words(values),
        "## Word error rates",
        _table(
            ("set", "bundle", "mode", "WER", "95 % interval", "sub / del / ins", "words", "RTF"),
            _figures(results["sets"]),
        ),
        (
            f"{results['machine']['cpu']}, {results['machine']['cores']} cores; {versions}; commit "
            f"{results['commit']}."
        ),
        "## Most frequent errors",
        "\n".join(
            f"- {name}, fp32 with the language model: "
            + ", ".join(f"{what} ({times})" for what, times in found)
            for name, found in results["confusions"].items()
        ),
        "## Limits",
        "\n".join(f"- {line}" for line in values["limits"]),
    ]
    return "\n\n".join(parts) + "\n"


def _figures(sets: dict[str, Any]) -> Iterable[Sequence[Any]]:
    for name, bundles in sets.items():
        for label, evaluation in bundles.items():
            for mode, found in evaluation["modes"].items():
                low, high = found["wer_interval_95"]
                words = found["words"]
                errors = (words["substitutions"], words["deletions"], words["insertions"])
                yield (
                    name,
                    label,
                    mode,
                    f"{found['wer']:.2%}",
                    f"{low:.2%} - {high:.2%}",
                    " / ".join(map(str, errors)),
                    words["reference_words"],
                    f"{found['rtf']:.4f}",
                )


def _options(found: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value:g}" for key, value in found["options"].items())


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
