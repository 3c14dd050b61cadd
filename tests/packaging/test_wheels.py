"""The versions of Python that wheels are built for."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WHEELS = ROOT / "packaging" / "wheels.py"


@pytest.fixture(scope="module")
def wheels():
    spec = importlib.util.spec_from_file_location("wheels", WHEELS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_make_wheels_cibuildwheel_and_the_classifiers_name_the_same_pythons(wheels):
    tomllib = pytest.importorskip("tomllib")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    classifiers = "\n".join(settings["project"]["classifiers"])
    assert list(wheels.PYTHONS) == re.findall(r"Python :: (3\.\d+)$", classifiers, re.MULTILINE)
    builds = [f"cp{version.replace('.', '')}-*" for version in wheels.PYTHONS]
    assert builds == settings["tool"]["cibuildwheel"]["build"]
    assert settings["project"]["requires-python"] == f">={wheels.PYTHONS[0]}"


def test_pythons_that_are_missing_are_all_named(wheels, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(wheels.WheelError, match=r"no python3\.10, python3\.13 on PATH"):
        wheels.find_interpreters(["3.10", "3.13"])
