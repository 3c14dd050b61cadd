"""Speech-to-text with a CTC-attention model: training, ONNX export and a C++ decoder.

Importing this package imports neither PyTorch nor ONNX Runtime: `Recognizer` is loaded when it is
first asked for.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .runtime import Recognizer

__all__ = ["Recognizer", "__version__"]

# The one place that has the version; the build reads it from here.
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "Recognizer":
        from .runtime import Recognizer

        return Recognizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
