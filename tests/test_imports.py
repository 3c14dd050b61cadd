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
        *(
            f"import voxformer.cli; voxformer.cli.main(['checkpoints', '{action}', '/'])"
            for action in ("list", "verify", "prune")
        ),
        "import voxformer.training.space",
    ],
)
def test_what_needs_neither_torch_nor_onnx_imports_neither(statement):
    result = subprocess.run(
        [sys.executable, "-c", CHECK.format(statement=statement)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
