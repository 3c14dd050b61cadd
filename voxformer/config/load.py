"""From a YAML file and `--set` overrides to a validated `RunConfig`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from voxformer.config.locations import without_passwords
from voxformer.config.schema import RunConfig

Lines = dict[tuple[str, ...], str]

PACKAGED_CONFIGS = Path(__file__).resolve().parents[1] / "configs"
MAX_BYTES = 1 << 20
MAX_VALUES = 10_000


class ConfigError(ValueError):
    """A config that cannot be used; the message has one line per fault, and no password."""

    def __init__(self, message: str) -> None:
        super().__init__(without_passwords(message))


def find_config(name: str | Path) -> Path:
    """The file meant by `--config NAME`: the path, else in `configs/`, else a packaged config.

    The ending `.yaml` may be left out.

    Raises:
        ConfigError: no such file; the message lists where it was looked for.
    """
    path = Path(name)
    candidates = [path, Path(f"{path}.yaml")]
    if not path.is_absolute():
        source_configs = Path(__file__).resolve().parents[2] / "configs"
        for folder in (Path("configs"), PACKAGED_CONFIGS, source_configs):
            candidates += [folder / path, folder / f"{path}.yaml"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if path.is_dir():
        raise ConfigError(f"{name}: a folder, not a config; name the YAML file in it")
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
    lines: Lines = {}
    faults: list[str] = []
    values = _read(path, lines, faults)
    for override in overrides:
        _apply_override(values, override, lines, faults)
    config = _validate(values, lines, str(path), faults)
    if config is None or faults:
        raise ConfigError("\n".join(faults))
    return config, path


def validate_config(
    values: Mapping[str, Any], lines: Lines | None = None, source: str = "config"
) -> RunConfig:
    """Check plain values against the schema; `lines` says where each key stands."""
    faults: list[str] = []
    config = _validate(values, lines or {}, source, faults)
    if config is None:
        raise ConfigError("\n".join(faults))
    return config


def dump_config(config: RunConfig) -> str:
    """The resolved config as YAML, every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read(path: Path, lines: Lines, faults: list[str]) -> dict[str, Any]:
    """The file's values; faults of single keys are added, any other is raised."""
    try:
        # A checkpoint given for a config would take its time to be found not to be text.
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES >> 20} MiB, so it is not a config")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file (byte {error.start} is not UTF-8)") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            raise ConfigError(f"{path}: empty; a config has at least data.train_manifest")
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{path}: not a config: it has no sections such as `model:`")
        values: dict[str, Any] = _Plain(str(path), lines, faults).value(node, ())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not YAML: {_reason(error)}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply to be a config") from None
    return values


class _Plain:
    """YAML nodes to plain values, noting the line of every key and refusing duplicates."""

    def __init__(self, source: str, lines: Lines, faults: list[str]) -> None:
        self.source, self.lines, self.faults = source, lines, faults
        self.scalars = yaml.SafeLoader("")
        self.count = 0

    def value(self, node: yaml.Node, at: tuple[str, ...]) -> Any:
        """Value of the node at key `at`."""
        self.count += 1
        if self.count > MAX_VALUES:  # a few aliases of aliases make billions of values
            raise ConfigError(f"{self.source}: more than {MAX_VALUES} values: not a config")
        if isinstance(node, yaml.MappingNode):
            result: dict[str, Any] = {}
            for key_node, value_node in node.value:
                here = (*at, str(key_node.value))
                line = f"{self.source}:{key_node.start_mark.line + 1}"
                if here[-1] in result:
                    first = self.lines[here].rpartition(":")[2]
                    self.faults.append(f"{line}: {'.'.join(here)}: given twice; see line {first}")
                    self.value(value_node, ())
                    continue
                self.lines[here] = line
                result[here[-1]] = self.value(value_node, here)
            return result
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, at) for child in node.value]
        try:
            return self.scalars.construct_object(node)  # type: ignore[no-untyped-call]
        except (ValueError, AttributeError, TypeError):  # such as the date 2026-13-45
            kind = node.tag.rpartition(":")[2]
            raise yaml.MarkedYAMLError(
                problem=f"{node.value!r} is not a valid {kind}; quote it if it is text",
                problem_mark=node.start_mark,
            ) from None


def _reason(error: yaml.YAMLError) -> str:
    """The parser's complaint on one line."""
    problem = getattr(error, "problem", None) or str(error)
    hint = "; indent with spaces" if "'\\t'" in problem else ""
    return " ".join(problem.split()) + hint


def _apply_override(values: dict[str, Any], override: str, lines: Lines, faults: list[str]) -> None:
    dotted, separator, text = override.partition("=")
    keys = tuple(part.strip() for part in dotted.split("."))
    where = f"--set {override}"
    if not separator or not all(keys):
        faults.append(f"{where}: expected section.key=value")
        return
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = _reason(error) if isinstance(error, yaml.YAMLError) else str(error)
        faults.append(f"{where}: not YAML: {reason}")
        return
    target = values
    for depth, key in enumerate(keys[:-1], start=1):
        lines.setdefault(keys[:depth], where)
        child = target.setdefault(key, {})
        if not isinstance(child, dict):
            faults.append(f"{where}: {'.'.join(keys[:depth])} is not a section")
            return
        target = child
    target[keys[-1]] = value
    lines[keys] = where


def _validate(
    values: Mapping[str, Any], lines: Lines, source: str, faults: list[str]
) -> RunConfig | None:
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        found = error.errors()
    reasons: dict[tuple[str, ...], list[str]] = {}
    given: dict[tuple[str, ...], Any] = {}
    for fault in found:
        location = tuple(str(part) for part in fault["loc"])
        key = location if fault["type"] == "extra_forbidden" else _key_at(location)
        given[key] = fault["input"] if key == location else _value_at(values, key)
        reasons.setdefault(key, []).extend(_reasons(key, dict(fault)))
    for key, messages in reasons.items():
        unique = list(dict.fromkeys(messages))
        if isinstance(given[key], (dict, BaseModel)):  # a section whose keys do not go together
            faults += [f"{_where(lines, source, key, m)}: {'.'.join(key)}: {m}" for m in unique]
            continue
        # Several messages are the branches of a choice, or several items of a list.
        message = " or ".join([unique[0], *(m.removeprefix("should be ") for m in unique[1:])])
        unknown = message.startswith("unknown key")
        value = without_passwords(str(given[key]))[:80]
        shown = "" if unknown else f" (got {value!r})"
        if not unknown and not isinstance(given[key], str):
            shown = f" (got {value})"
        faults.append(f"{_where(lines, source, key)}: {'.'.join(key)}: {message}{shown}")
    return None


def _where(lines: Lines, source: str, key: tuple[str, ...], message: str = "") -> str:
    """Where the key stands; for a section, the first of its keys that the message names."""
    for word in message.split():
        named = (*key, word)
        if named in lines:
            return lines[named]
    while key and key not in lines:
        key = key[:-1]
    return lines.get(key, source)


def _reasons(key: tuple[str, ...], fault: dict[str, Any]) -> list[str]:
    if fault["type"] == "extra_forbidden":
        return [f"unknown key{_hint(key)}"]
    if fault["type"] in ("model_type", "dict_type"):
        return ["is a section: give it keys, or leave it out"]
    message = str(fault["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return [line[0].lower() + line[1:] for line in message.splitlines()]


def _hint(key: tuple[str, ...]) -> str:
    """The nearest valid key, or the section where the key belongs, or all that is valid."""
    section = _section_at(key[:-1])
    valid = list(section.model_fields) if section else []
    name = key[-1].lower()
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.75)
    homes = [
        home
        for home in RunConfig.model_fields
        if name in getattr(_section_at((home,)), "model_fields", ())
    ]
    if not near and homes:
        return f"; did you mean {homes[0]}.{name}?"
    near = near or difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; valid: {', '.join(valid)}"


def _key_at(location: tuple[str, ...]) -> tuple[str, ...]:
    """The part of an error's location that is a key; the rest is an index or a type's name."""
    for depth in range(len(location)):
        section = _section_at(location[:depth])
        if section is None or location[depth] not in section.model_fields:
            return location[:depth]
    return location


def _value_at(values: Any, key: tuple[str, ...]) -> Any:
    for part in key:
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _section_at(location: tuple[str, ...]) -> type[BaseModel] | None:
    section: type[BaseModel] = RunConfig
    for key in location:
        field = section.model_fields.get(key)
        kind = field.annotation if field else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return None
        section = kind
    return section
