"""Checks an installed wheel: run it with a Python that has the wheel and NumPy and no more."""

import platform
import sys
from importlib.metadata import distributions
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt

import voxformer
from voxformer.decoding import BeamOptions, CtcBeamDecoder

# The README's matrix, by hand: the alignments of "yes" are "yes yes", "yes <blank>", "<blank> yes",
# 0.16 + 0.2 + 0.2.
EXPECTED = (("yes", 0.56, (1,)), ("", 0.25, ()), ("no", 0.11, (1,)))


def main() -> None:
    """Run every check; an AssertionError says what does not hold."""
    # Three tokens, and so many that the vectorised scan of a row has whole blocks to read.
    check_scores(vocab_size=3, yes=1, no=2)
    check_scores(vocab_size=1000, yes=17, no=998)
    check_exceptions()
    check_surroundings()
    check_completeness()
    print(
        f"voxformer {voxformer.__version__}, Python {platform.python_version()}, "
        f"NumPy {np.__version__}, {platform.machine()}: all as it should be"
    )


def check_scores(vocab_size: int, yes: int, no: int) -> None:
    """Decode a matrix whose hypotheses are known."""
    decoder = CtcBeamDecoder(None, BeamOptions(beam_size=10, n_best=3))
    words = {yes: "yes", no: "no"}
    hypotheses = decoder.decode(log_probs(vocab_size, yes, no))[0]
    assert len(hypotheses) == len(EXPECTED), hypotheses
    for hypothesis, (text, probability, timesteps) in zip(hypotheses, EXPECTED, strict=True):
        assert " ".join(words[token] for token in hypothesis.token_ids) == text, hypothesis
        assert abs(hypothesis.score - np.log(probability)) < 1e-6, hypothesis
        assert hypothesis.timesteps == timesteps, hypothesis


def check_exceptions() -> None:
    """What C++ throws, also in a thread of its own, arrives as a ValueError with its message."""
    batch = np.repeat(log_probs(vocab_size=3, yes=1, no=2), 3, axis=0)
    batch[2, 1, 1] = np.nan
    message = "nothing was raised"
    try:
        CtcBeamDecoder(None, num_threads=3).decode(batch)
    except ValueError as error:
        message = str(error)
    assert "utterance 2, frame 1: log_probs is NaN for token 1" in message, message


def check_surroundings() -> None:
    """Nothing but NumPy is needed, and the package's own files are there."""
    installed = {distribution.metadata["Name"].lower() for distribution in distributions()}
    assert installed - {"pip", "setuptools", "wheel"} == {"numpy", "voxformer"}, installed
    assert not {"torch", "onnx", "onnxruntime"} & sys.modules.keys()
    package = files("voxformer")
    assert (package / "py.typed").is_file()
    assert (package / "configs" / "stage4_fixed.yaml").is_file()
    assert (package / "dashboard" / "static" / "uplot" / "uPlot.iife.min.js").is_file()


def check_completeness() -> None:
    """Every file of the checkout's packages is in the wheel."""
    root = Path(__file__).resolve().parents[1]
    package = Path(str(files("voxformer")))
    for source, target in (("voxformer", ""), ("export", "export"), ("configs", "configs")):
        for path in (root / source).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so":
                installed = package / target / path.relative_to(root / source)
                assert installed.is_file(), f"the wheel lacks {path.relative_to(root)}"


def log_probs(vocab_size: int, yes: int, no: int) -> npt.NDArray[np.float32]:
    """The README's matrix, float32 [1, 2, vocab_size]; all but three tokens are impossible."""
    matrix = np.full((1, 2, vocab_size), -np.inf, dtype=np.float32)
    matrix[:, :, [0, yes, no]] = np.log([0.5, 0.4, 0.1])
    return matrix


if __name__ == "__main__":
    main()
