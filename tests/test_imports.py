"""What an import may pull in."""

import subprocess
import sys

import pytest

CHECK = """
import sys
before = set(sys.modules)
{statement}
heavy = {{"torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "sentencepiece"}}
found = heavy & {{name.partition(".")[0] for name in set(sys.modules) - before}}
sys.exit(f"imported {{sorted(found)}}" if found else 0)
"""


@pytest.mark.parametrize(
    "statement",
    [
        "import voxformer",
        "import voxformer.decoding",
        "import voxformer.runtime",
        "from voxformer import Recognizer",
    ],
)
def test_deployers_imports_pull_in_neither_torch_nor_onnx(statement):
    result = subprocess.run(
        [sys.executable, "-c", CHECK.format(statement=statement)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
