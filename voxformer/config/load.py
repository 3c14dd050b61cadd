"""From a YAML file and `--set` overrides to a validated `RunConfig`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from voxformer.config.schema import RunConfig

Lines = dict[tuple[str, ...], str]

PACKAGED_CONFIGS = Path(__file__).resolve().parents[1] / "configs"


class ConfigError(ValueError):
    """A config that cannot be used; the message has one line per fault."""


def find_config(name: str | Path) -> Path:
    """The file meant by `--config NAME`: the path, else in `configs/`, else a packaged config.

    Raises:
        ConfigError: no such file; the message lists where it was looked for.
    """
    path = Path(name)
    candidates = [path]
    if not path.is_absolute():
        source_configs = Path(__file__).resolve().parents[2] / "configs"
        for folder in (Path("configs"), PACKAGED_CONFIGS, source_configs):
            candidates += [folder / path, folder / f"{path}.yaml"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ConfigError(
        f"{name}: no such config (looked at it as a path, in configs/, in the package)"
    )


def load_config(name: str | Path, overrides: Iterable[str] = ()) -> tuple[RunConfig, Path]:
    """Read, override and validate a config.

    Args:
        name: a path, or the name of a config in `configs/` or in the package.
        overrides: `section.key=value` strings, the value read as YAML.

    Returns:
        The config, and the file that it came from.

    Raises:
        ConfigError: each fault on a line of its own, with file and line number.
    """
    path = find_config(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    lines: Lines = {}
    faults: list[str] = []
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = {} if node is None else _plain(node, (), lines, faults, str(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a config is a mapping of sections, not {type(values).__name__}")
    for override in overrides:
        _apply_override(values, override, lines)
    if faults:
        raise ConfigError("\n".join(faults))
    return validate_config(values, lines, str(path)), path


def validate_config(
    values: Mapping[str, Any], lines: Lines | None = None, source: str = "config"
) -> RunConfig:
    """Check plain values against the schema; `lines` says where each key stands."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        faults = []
        for fault in error.errors():
            location = tuple(str(part) for part in fault["loc"])
            faults.append(_describe(location, dict(fault), lines or {}, source))
        raise ConfigError("\n".join(dict.fromkeys(faults))) from None


def dump_config(config: RunConfig) -> str:
    """The resolved config as YAML, every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _plain(node: yaml.Node, at: tuple[str, ...], lines: Lines, faults: list[str], src: str) -> Any:
    """The value of a YAML node, recording the line of every key and refusing duplicates."""
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            here = (*at, key)
            line = f"{src}:{key_node.start_mark.line + 1}"
            if key in result:
                faults.append(f"{line}: {'.'.join(here)}: given twice")
            lines[here] = line
            result[key] = _plain(value_node, here, lines, faults, src)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, at, lines, faults, src) for child in node.value]
    loader = yaml.SafeLoader("")
    return loader.construct_object(node)  # type: ignore[no-untyped-call]


def _apply_override(values: dict[str, Any], override: str, lines: Lines) -> None:
    dotted, separator, text = override.partition("=")
    keys = tuple(part.strip() for part in dotted.split("."))
    if not separator or not all(keys):
        raise ConfigError(f"--set {override}: expected section.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"--set {override}: not YAML: {getattr(error, 'problem', error)}"
        ) from None
    target = values
    for depth, key in enumerate(keys[:-1]):
        lines.setdefault(keys[: depth + 1], f"--set {override}")
        child = target.setdefault(key, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override}: {'.'.join(keys[: depth + 1])} is not a section")
        target = child
    target[keys[-1]] = value
    lines[keys] = f"--set {override}"


def _describe(location: tuple[str, ...], fault: dict[str, Any], lines: Lines, source: str) -> str:
    """One line for one fault: where, which key, what is wrong, and the nearest valid key."""
    known = location
    while known and known not in lines:
        known = known[:-1]
    where = lines.get(known, source)
    dotted = ".".join(known or location)
    if fault["type"] == "extra_forbidden":
        section = _section_at(location[:-1])
        valid = list(section.model_fields) if section else []
        near = difflib.get_close_matches(location[-1], valid, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else f"; valid: {', '.join(valid)}"
        return f"{where}: {dotted}: unknown key{hint}"
    message = fault["msg"].removeprefix("Value error, ")
    given = fault.get("input")
    shown = "" if isinstance(given, (dict, BaseModel)) else f" (got {given!r})"
    return f"{where}: {dotted}: {message[0].lower()}{message[1:]}{shown}"


def _section_at(location: tuple[str, ...]) -> type[BaseModel] | None:
    section: type[BaseModel] = RunConfig
    for key in location:
        field = section.model_fields.get(key)
        kind = field.annotation if field else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return None
        section = kind
    return section
