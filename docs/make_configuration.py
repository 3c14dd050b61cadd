"""Make docs/configuration.md from the schema in voxformer/config/schema.py.

python docs/make_configuration.py            write the file
python docs/make_configuration.py --check    exit 1 if the file is not what would be written
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from voxformer.config import RunConfig

TARGET = Path(__file__).resolve().parent / "configuration.md"

INTRODUCTION = """\
# Configuration

Made by `docs/make_configuration.py` from `voxformer/config/schema.py`; change that file, not this.

One YAML file describes one run of one stage. Every key has a default, so a file names only what it
changes. `voxformer train --config NAME` takes a path, or the name of a file in `configs/` or among
the configs in the package, with or without `.yaml`. `--set section.key=value` overrides a key; the
value is read as YAML and the option may be repeated. The resolved config, every default written
out, is saved as `config.yaml` in the run folder.

A config is checked before anything else is done. Each fault is one line, with the file's line
number and, for an unknown key, the nearest valid one:

    stage4.yaml:5: model.d_modle: unknown key; did you mean d_model?

Rules that join several keys:

- `model.d_model` is a multiple of 2 x `encoder_num_heads` and of 2 x `decoder_num_heads`.
- `model.encoder_downsampling`, if given, has one entry for each of `encoder_num_blocks`.
- `model.encoder_conv_kernel` is odd.
- `data.min_duration` is below `data.max_duration`.
- `decoding.n_best` is at most `decoding.beam_size`.
- `model.vocab_size` is the size of the tokenizer that the run uses.
- `watch.early_stopping`, and the action `stop` for what evaluations show, need
  `data.valid_manifest`.
- An utterance (id and recording) is in one training set only; the sets' weights, over all
  utterances, add up to 1 or more.

Where a run begins:

- `training.resume_from` continues a checkpoint of the same stage and architecture (`ctc_weight` and
  `dropout` may differ). The run's own `latest.pt` means the newest checkpoint of the run folder
  that verifies; a damaged one is renamed to `<name>.damaged`. If the folder holds no checkpoint at
  all, the run starts fresh and says so. Any other missing file is an error. `voxformer train
  --resume` sets it to the run's own `latest.pt`. A URL is fetched into the run folder, which must
  hold no checkpoint yet.
- A run folder without checkpoints, whose `mirror.url` holds some, is filled from there and goes on;
  `init_from` is not looked at then. A mirror that does not answer is logged, and the run starts.
- `training.init_from` takes the weights that both models have, which must be of the same sizes, and
  the tokenizer; it is looked at only when the run starts fresh.
- Without `resume_from`, a run folder that already holds checkpoints is refused.

A step is one update of the optimiser: `warmup_steps`, `save_interval`, `eval_interval`,
`log_interval`, `max_steps` and the N of `step_N.pt` count steps.
"""


def render() -> str:
    """The whole page."""
    schema = _inlined(RunConfig.model_json_schema())
    parts = [INTRODUCTION, *_section(schema, schema, "")]
    return "\n".join(parts)


def _section(schema: dict[str, Any], section: dict[str, Any], path: str) -> Iterator[str]:
    """Heading, docstring and table of a section, then the sections below it."""
    yield f"## `{path}`\n" if path else "## Top level\n"
    yield f"{section['description']}\n"
    yield "| key | type | default | range | meaning |\n|---|---|---|---|---|"
    below: list[tuple[str, dict[str, Any]]] = []
    for key, field in section["properties"].items():
        target = _resolved(schema, field)
        # Pydantic leaves a description out where it is the one of the section.
        meaning = _escaped(field.get("description") or target["description"])
        if "properties" in target:
            name = f"{path}.{key}" if path else key
            below.append((name, target))
            yield f"| `{key}` | section |  |  | {meaning} See `{name}` below. |"
            continue
        cells = (_type(target), _default(field.get("default")), _range(target), meaning)
        yield f"| `{key}` | {' | '.join(cells)} |"
    yield ""
    for name, target in below:
        yield from _section(schema, target, name)


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with what lists and choices refer to written out, for their types."""
    definitions = schema["$defs"]

    def expand(node: Any) -> Any:
        if isinstance(node, list):
            return [expand(item) for item in node]
        if not isinstance(node, dict):
            return node
        found = {key: expand(value) for key, value in node.items()}
        for key in ("items", "anyOf"):
            choices = found.get(key, [])
            for choice in choices if isinstance(choices, list) else [choices]:
                if "$ref" in choice:
                    choice |= definitions[choice.pop("$ref").rsplit("/", 1)[1]]
        return found

    expanded: dict[str, Any] = expand(schema)
    return expanded


def _resolved(schema: dict[str, Any], field: dict[str, Any]) -> dict[str, Any]:
    reference = field.get("$ref")
    if reference is None:
        return field
    found: dict[str, Any] = schema["$defs"][reference.rsplit("/", 1)[1]]
    return found


def _type(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type(choice) for choice in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "properties" in field:
        return f"`{{{', '.join(field['properties'])}}}`"
    if field["type"] != "array":
        return str(field["type"])
    low, high = field.get("minItems", 0), field.get("maxItems")
    count = f" ({low})" if low == high else f" ({low} or more)" if low else ""
    return f"list of {_type(field['items'])}{count}"


def _range(field: dict[str, Any]) -> str:
    """Bounds of a number, in the notation of intervals, or what a string must match."""
    if "anyOf" in field:
        ranges = [_range(choice) for choice in field["anyOf"]]
        return next(filter(None, ranges), "")
    if field.get("type") == "array":
        return _range(field["items"])
    if "pattern" in field:
        return "`" + _escaped(field["pattern"]) + "`"
    low, high = "", ""
    for key, bracket in (("minimum", "["), ("exclusiveMinimum", "(")):
        if key in field:
            low = f"{bracket}{field[key]:g}" if isinstance(field[key], float) else ""
            low = low or f"{bracket}{field[key]}"
    for key, bracket in (("maximum", "]"), ("exclusiveMaximum", ")")):
        if key in field:
            high = f"{field[key]:g}{bracket}" if isinstance(field[key], float) else ""
            high = high or f"{field[key]}{bracket}"
    if not low and not high:
        return ""
    return f"{low or '(-inf'}, {high or 'inf)'}"


def _default(value: Any) -> str:
    return "none" if value is None else f"`{json.dumps(value)}`".replace('"', "")


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Write the page, or with `--check` say whether it is up to date."""
    text = render()
    if arguments == ["--check"]:
        if TARGET.is_file() and TARGET.read_text("utf-8") == text:
            return 0
        print(f"{TARGET.name} is stale: run python docs/make_configuration.py", file=sys.stderr)
        return 1
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
