"""What `--model` may name: a checkpoint for PyTorch, or a bundle for ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from voxformer.runtime import (
    Bundle,
    DecodingOptions,
    Engine,
    EngineError,
    Mode,
    Vocabulary,
    read_bundle,
)
from voxformer.runtime.options import trained_modes

RUNS = "checkpoints"
BUNDLE_FOLDERS = ("bundles", "exports")


class ModelError(ValueError):
    """There is no model where one was looked for."""


@dataclass(frozen=True)
class OpenModel:
    """A model that is ready to be evaluated, with its own default options."""

    path: Path
    engine: Engine
    vocabulary: Vocabulary
    options: DecodingOptions
    modes: tuple[Mode, ...]
    pronunciation: str | None = None
    """Voice whose phones a checkpoint writes; a bundle of such a model has a lexicon."""
    random_field: bool = False
    """Of a checkpoint: trained with CTC-CRF, whose scores want a language model."""

    def check_writes_words(self, options: DecodingOptions) -> None:
        """Refuse to compare phones with words.

        Raises:
            ModelError: the model writes phones, and the options have no lexicon.
        """
        if self.pronunciation is not None and options.lexicon is None:
            raise ModelError(
                f"{self.path}: writes phones ({self.pronunciation}); name a lexicon for its words "
                f"with --lexicon (`voxformer lexicon --voice {self.pronunciation}` makes one)"
            )


def open_model(path: str | Path, provider: str = "cpu", threads: int = 0) -> OpenModel:
    """Open a bundle directory or a checkpoint file.

    Args:
        path: of either.
        provider: `cpu` or `cuda`; for a bundle also the full name of an execution provider.
        threads: CPU threads for arithmetic and searches; 0 leaves the libraries' choice.

    Raises:
        ModelError: there is nothing at `path`.
        BundleError, CheckpointError, EngineError: it cannot be used.
    """
    path = Path(path)
    if path.is_dir():
        return open_bundle(read_bundle(path), provider, threads)
    if not path.is_file():
        raise ModelError(f"{path}: no such checkpoint or bundle")
    return open_checkpoint(path, provider, threads)


def open_bundle(bundle: Bundle, provider: str = "cpu", threads: int = 0) -> OpenModel:
    """A bundle with ONNX Runtime."""
    from voxformer.runtime.onnx_engine import OnnxEngine

    return OpenModel(
        bundle.path,
        OnnxEngine.from_bundle(bundle, provider, threads),
        bundle.vocabulary,
        replace(bundle.decoding, num_threads=threads),
        bundle.modes,
    )


def open_checkpoint(path: Path, provider: str = "cpu", threads: int = 0) -> OpenModel:
    """A checkpoint with PyTorch, on `cpu` or `cuda`."""
    import torch

    from voxformer.runtime.torch_engine import TorchEngine
    from voxformer.training.checkpoint import load_model_checkpoint

    if provider not in ("cpu", "cuda"):
        raise EngineError(f"PyTorch runs a checkpoint on cpu or cuda, not on {provider}")
    if provider == "cuda" and not torch.cuda.is_available():
        raise EngineError(
            "this PyTorch finds no CUDA device; install a CUDA build and its driver, or ask for cpu"
        )
    if threads:
        torch.set_num_threads(threads)
    loaded = load_model_checkpoint(path)
    values = loaded.config.decoding.model_dump(mode="json")
    if values["max_tokens_per_second"] is None:
        values["max_tokens_per_second"] = loaded.metadata["max_tokens_per_second"]
    options = replace(DecodingOptions.from_mapping(values), num_threads=threads)
    vocabulary = Vocabulary.from_tokens(loaded.tokens)
    modes = trained_modes(loaded.metadata["stage"])
    return OpenModel(
        path,
        TorchEngine(loaded.model.to(provider)),
        vocabulary,
        options,
        modes,
        loaded.config.data.pronunciation,
        loaded.config.training.crf_weight > 0.0,
    )


def newest_checkpoint(folder: str | Path = RUNS) -> Path:
    """`best.pt` of the run that wrote one last.

    Raises:
        ModelError: no run has one.
    """
    found = sorted(Path(folder).glob("*/best.pt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ModelError(f"no run under {folder}/ has a best.pt; name one with --checkpoint")
    return found[-1]


def newest_bundle() -> Path:
    """The bundle that was written last, under `bundles/` or `exports/`.

    Raises:
        ModelError: there is none.
    """
    found = [path for folder in BUNDLE_FOLDERS for path in Path(folder).glob("*/bundle.json")]
    if not found:
        raise ModelError(
            f"no bundle under {' or '.join(f'{folder}/' for folder in BUNDLE_FOLDERS)}; "
            "`voxformer export` makes one, or name one with --model"
        )
    return max(found, key=lambda path: path.stat().st_mtime).parent
