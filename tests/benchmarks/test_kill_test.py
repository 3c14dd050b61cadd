"""The kill test itself: it kills, it finds its way back, and it says so when that fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "kill_test.py"


@pytest.mark.slow
def test_killed_runs_come_back_to_the_same_weights(tmp_path: Path) -> None:
    injected = 6 if shutil.which("strace") else 0
    arguments = ["--runs", "12", "--injected", str(injected), "--json", str(tmp_path / "x.json")]
    result = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    values = json.loads((tmp_path / "x.json").read_text())
    assert values["rows"][-1] == ["all", 12, injected, 12 + injected]
    assert values["failures"] == []


FORGETFUL = """
import sys
import kill_test
restore = kill_test.loop._Run._restore
def without_moments(self, state, path):
    restore(self, state, path)
    self.optimizer.members["adamw"].state.clear()
kill_test.loop._Run._restore = without_moments
sys.exit(kill_test.main(["--runs", "4", "--injected", "0"]))
"""


@pytest.mark.slow
def test_a_run_that_comes_back_to_other_weights_is_told() -> None:
    result = subprocess.run(
        [sys.executable, "-c", FORGETFUL], capture_output=True, text=True, cwd=SCRIPT.parent
    )
    assert result.returncode == 1, result.stderr
    assert "other weights than those of the run that was left alone" in result.stderr
