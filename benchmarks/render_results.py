"""Put the figures of benchmarks/results/*.json into the tables of README.md and docs/results.md.

    python benchmarks/render_results.py            replace what is between the markers
    python benchmarks/render_results.py --check    exit 1 if a table is not what its file says

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; NAME is a file's stem. Several
names, separated by spaces, give one table with a first column `run`. What a file holds is known by
its keys: the report of `voxformer evaluate --json`, of `benchmarks/rtf.py --json`, results.json or
training.json of `voxformer quickstart`, a run of `benchmarks/decoder.py`, or a plain
`{"columns": [...], "rows": [[...], ...]}`. Of a run of decoder.py, `NAME` gives the claims,
`NAME:cells` the cells of one utterance length on one thread, `NAME:threads` those on several, and
`NAME:extras` those with a language model or hotwords. Of a report of parity.py, `NAME` gives the
numbers and `NAME:wer` the word error rates.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtf_report import batch_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/results.md")
RESULTS = "benchmarks/results"
MARKED = re.compile(r"(<!-- table: ([^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)

MODE_COLUMNS = (
    "mode",
    "WER",
    "95 % interval",
    "sub / del / ins",
    "words",
    "CER",
    "oracle WER",
    "reordered",
    "capped",
    "RTF",
    "RTFx",
)


class ResultError(ValueError):
    """A page or a result file that cannot be used; the message names it."""


@dataclass(frozen=True)
class Table:
    """Cells as text, and what they were measured on, if the file says."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    check = parser.parse_args(arguments).check
    stale = []
    try:
        for page in (root / name for name in PAGES):
            text = page.read_text("utf-8")
            rendered = render(text, root / RESULTS)
            if rendered != text:
                stale.append(page.name)
                if not check:
                    page.write_text(rendered, encoding="utf-8")
    except ResultError as error:
        print(f"render_results.py: {error}", file=sys.stderr)
        return 2
    if check and stale:
        print(
            f"stale: {', '.join(stale)}; run python benchmarks/render_results.py", file=sys.stderr
        )
        return 1
    return 0


def render(text: str, results: Path) -> str:
    """A page with every marked table made anew.

    Raises:
        ResultError: a marker without its end, or a result file that is of no known shape.
    """
    if text.count("<!-- table:") != len(MARKED.findall(text)):
        raise ResultError("a `<!-- table: NAME -->` has no `<!-- end -->` of its own")

    def replace(match: re.Match[str]) -> str:
        return match.group(1) + table(match.group(2).split(), results) + match.group(3)

    return MARKED.sub(replace, text)


def table(names: Sequence[str], results: Path) -> str:
    """One Markdown table of the named result files; those that are missing are named."""
    paths = {name: results / f"{name.partition(':')[0]}.json" for name in names}
    found = {name: path for name, path in paths.items() if path.is_file()}
    missing = dict.fromkeys(path.name for name, path in paths.items() if name not in found)
    parts = []
    if found:
        tables = {name: _read(path, name.partition(":")[2]) for name, path in found.items()}
        parts.append(_markdown(tables, len(names) > 1))
    if missing:
        files = ", ".join(f"`{RESULTS}/{name}`" for name in missing)
        parts.append(f"Not measured yet: {files}.\n")
    return "\n" + "\n".join(parts) + "\n"


def _markdown(tables: dict[str, Table], several: bool) -> str:
    columns = next(iter(tables.values())).columns
    lines = [columns, tuple("---" for _ in columns)]
    for name, content in tables.items():
        if content.columns != columns:
            raise ResultError(f"{name}.json has other columns than {next(iter(tables))}.json")
        lines += [(f"`{name}`", *row) if several else row for row in content.rows]
    if several:
        lines[:2] = [("run", *columns), ("---", *lines[1])]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    notes = dict.fromkeys(content.note for content in tables.values() if content.note)
    return text + "".join(f"\n{note}\n" for note in notes)


def _read(path: Path, part: str = "") -> Table:
    try:
        values = json.loads(path.read_text("utf-8"))
        circumstances = _circumstances(values) if "machine" in values else ""
        if "cells" in values:
            return _decoder_table(values, part)
        if "columns" in values:
            rows = [tuple(str(cell) for cell in row) for row in values["rows"]]
            notes = filter(None, (values.get("note"), circumstances))
            return Table(tuple(values["columns"]), rows, " ".join(notes))
        if "total_seconds" in values:
            seconds = {**values["seconds"], "all": values["total_seconds"]}
            cells = [(name, f"{s:.0f}", f"{s / 60:.1f}") for name, s in seconds.items()]
            return Table(("stage", "seconds of training", "minutes"), cells)
        if "sets" in values:
            rows = [
                (name, *row)
                for name, engines in values["sets"].items()
                for evaluation in engines.values()
                for row in _engine_rows(evaluation)
            ]
            return Table(("test set", "engine", *MODE_COLUMNS), rows, circumstances)
        if "parity" in values:
            return _parity_wer(values) if part == "wer" else _parity_numbers(values)
        if "passes" in values:
            return _rtf_table(values)
        return Table(("engine", *MODE_COLUMNS), _engine_rows(values), circumstances)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ResultError(f"{path.name}: not a result of a known shape: {error!r}") from None


def _engine_rows(evaluation: dict[str, Any]) -> list[tuple[str, ...]]:
    engine = f"{evaluation['engine']}, {evaluation['threads']} threads"
    return [(engine, *_mode_row(mode, found)) for mode, found in evaluation["modes"].items()]


def _mode_row(mode: str, found: dict[str, Any]) -> tuple[str, ...]:
    low, high = found["wer_interval_95"]
    words = found["words"]
    return (
        mode,
        f"{found['wer']:.2%}",
        f"{low:.2%} - {high:.2%}",
        f"{words['substitutions']} / {words['deletions']} / {words['insertions']}",
        str(words["reference_words"]),
        f"{found['cer']:.2%}",
        f"{found['oracle_wer']:.2%}",
        str(found.get("reordered", "")),
        str(found["capped"]),
        f"{found['rtf']:.4f}",
        f"{found['rtfx']:.1f}",
    )


def _parity_numbers(values: dict[str, Any]) -> Table:
    cases = list(values["parity"][0]["graphs"]["encoder"]["cases"])
    rows = []
    for bundle in values["parity"]:
        limit = f"{bundle['tolerance']:g}"
        if bundle["least_probability"] > 0:
            limit += f" (p ≥ {bundle['least_probability']:g})"
        for graph, numbers in bundle["graphs"].items():
            differences = [f"{numbers['cases'][case]:.1e}" for case in cases]
            remark = ""
            if numbers["matrices_kept_fp32"] is not None:
                remark = f"{numbers['matrices_kept_fp32']} products in fp32"
            elif numbers["largest_half"] is not None:
                remark = f"largest half {numbers['largest_half']:g}"
            rows.append(
                (bundle["precision"], graph, limit, f"{numbers['worst']:.1e}", *differences, remark)
            )
    columns = ("precision", "graph", "limit, nats", "worst", *cases, "")
    return Table(columns, rows, _circumstances(values))


def _parity_wer(values: dict[str, Any]) -> Table:
    rows = [
        (
            bundle["precision"],
            f"{bundle['bytes'] / 1e6:.1f}",
            mode,
            f"{rates['torch']:.2%}",
            f"{rates['graphs']:.2%}",
            str(rates["errors_apart"]),
        )
        for bundle in values["parity"]
        for mode, rates in bundle["wer"].items()
    ]
    words = next(iter(values["parity"][0]["wer"].values()))["reference_words"]
    note = f"{values['utterances']} utterances, {words} words."
    return Table(("precision", "MB", "mode", "PyTorch", "graphs", "errors apart"), rows, note)


RTF_COLUMNS = (
    *("engine", "precision", "batch", "mode", "WER", "RTFx", "RTFx pipelined"),
    *("encoder / search / rescoring / other", "an utterance, ms: p50 / p90 / p99"),
)


def _rtf_table(values: dict[str, Any]) -> Table:
    rows = []
    for row in values["passes"]:
        shares = [f"{share:.0%}" for share in row["shares"].values()]
        times = [f"{1e3 * seconds:.0f}" for seconds in row.get("latency_s", {}).values()]
        pipelined = row.get("rtfx_pipelined")
        rows.append(
            (
                f"{row['engine']}, {row['threads']} threads",
                row["precision"],
                batch_of(row),
                row["mode"],
                f"{row['wer']:.2%}",
                f"{row['rtfx']:.1f}",
                "" if pipelined is None else f"{pipelined:.1f}",
                " / ".join(shares),
                " / ".join(times),
            )
        )
    decoding, machine = values["decoding"], values["machine"]
    note = (
        f"{values['utterances']} utterances, {values['audio_seconds']:.0f} s; beam "
        f"{decoding['beam_size']}, n-best {decoding['n_best']}; medians of {values['rounds']} "
        f"rounds; load average at the end {machine['load_at_end']:.1f}."
    )
    if any(model["random_weights"] for model in values["models"]):
        note += " Random weights: the WER means nothing."
    for gpu in machine.get("gpus", []):
        limit = gpu["power_limit_w"]
        watts = "power limit unknown" if limit is None else f"{limit:.0f} W"
        note += f" {gpu['name']}, {watts}, driver {gpu['driver']}."
    return Table(RTF_COLUMNS, rows, f"{note} {_circumstances(values)}")


def _decoder_table(values: dict[str, Any], part: str) -> Table:
    cells = values["cells"]
    if part == "":
        columns = ("claim", "aim", "least", "holds", "where it is least", "figures")
        measured = [claim for claim in values["claims"] if claim["least"] is not None]
        return Table(columns, [_claim_row(c) for c in measured], _circumstances(values))
    plain = [cell for cell in cells if cell["extra"] == "none"]
    if part == "extras":
        chosen = [cell for cell in cells if cell["extra"] != "none"]
    elif part == "threads":
        chosen = [cell for cell in plain if cell["threads"] > 1]
    elif part == "cells":
        chosen = [cell for cell in plain if cell["threads"] == 1]
    else:
        raise ValueError(f"{part!r} is no part of a run of decoder.py")
    if part != "extras" and chosen:
        seconds = statistics.median_high(cell["seconds"] for cell in chosen)
        chosen = [cell for cell in chosen if cell["seconds"] == seconds]
    names = list(values["configurations"])
    columns = ("log-probs", "tokens", "s", "beam", "threads", "with", *names)
    return Table(columns, [_cell_row(cell, names) for cell in chosen])


def _claim_row(claim: dict[str, Any]) -> tuple[str, ...]:
    aim = "" if claim["aim"] is None else f"{claim['aim']:g}"
    holds = {True: "yes", False: "no", None: ""}[claim["pass"]]
    least = f"{claim['least']:.2f}"
    where = claim["cell"] or ""
    return (claim["claim"], aim, least, holds, where, str(claim["cells"]))


def _cell_row(cell: dict[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    """A cell's decoders: milliseconds, nats lost and, with threads, the speed-up."""
    row = [cell["kind"], str(cell["vocab"]), f"{cell['seconds']:g}", str(cell["beam"])]
    row += [str(cell["threads"]), "" if cell["extra"] == "none" else cell["extra"]]
    for name in names:
        found = cell["decoders"].get(name, {"status": "skipped: not asked for"})
        if "cpu_s" not in found:
            # Why is in the file; a cell has room for what kind of reason it is.
            slow = found["status"].startswith("skipped: too")
            row.append("too slow" if slow else "-")
            continue
        seconds = found["cpu_s"] if cell["threads"] == 1 else found["wall_s"]
        text = f"{seconds * 1e3:.3g} ms"
        if found["lost_nats"] is not None:
            text += f", {found['lost_nats']:.2f}"
        if "speed_up" in found:
            text += f", {found['speed_up']:.2f}x"
        row.append(text)
    return tuple(row)


def _circumstances(values: dict[str, Any]) -> str:
    machine, versions = values["machine"], values["versions"]
    named = ", ".join(f"{package} {number}" for package, number in versions.items())
    commit = f", commit {values['commit']}" if values.get("commit") else ""
    return f"{machine['cpu']}, {machine['cores']} cores; {named}{commit}."


if __name__ == "__main__":
    sys.exit(main())
