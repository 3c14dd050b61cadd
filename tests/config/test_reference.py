"""docs/configuration.md says what voxformer/config/schema.py says."""

import importlib.util
from pathlib import Path

import pytest

from voxformer.config import RunConfig

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "make_configuration.py"


@pytest.fixture
def reference():
    spec = importlib.util.spec_from_file_location("make_configuration", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leaves(section, path=()):
    for key, field in section.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            yield from leaves(field.annotation, (*path, key))
        else:
            yield path, key, field


def test_reference_is_up_to_date(reference):
    assert reference.main(["--check"]) == 0


def test_stale_reference_fails_the_check(reference, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reference, "TARGET", tmp_path / "configuration.md")
    assert reference.main(["--check"]) == 1
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0
    reference.TARGET.write_text(reference.TARGET.read_text("utf-8") + "\n", encoding="utf-8")
    assert reference.main(["--check"]) == 1
    assert "configuration.md is stale" in capsys.readouterr().err


def test_every_field_is_in_its_section_with_its_meaning(reference):
    sections = dict(
        part.split("\n", 1) for part in reference.render().split("\n## ") if "\n| key" in part
    )
    for path, key, field in leaves(RunConfig):
        assert field.description, f"{'.'.join((*path, key))} has no docstring"
        heading = f"`{'.'.join(path)}`" if path else "Top level"
        [row] = [r for r in sections[heading].splitlines() if r.startswith(f"| `{key}` |")]
        assert " ".join(field.description.split()).replace("|", "\\|") in row
