"""`training.compile`: the layers as fused kernels, by torch.compile.

Layers are compiled one by one and not the network as a whole: equal layers share what is compiled,
so that it takes a minute or two, and names in checkpoints stay as they are. Sizes are dynamic. What
is made of a layer may depend on the sizes that come first, and a resumed run begins with other
batches; so a made-up batch comes first in every run.

Depthwise convolutions stay as they are, since their backward pass would be compiled anew for every
length, and so do batches of one utterance, for which a compiler makes kernels of their own.
"""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from typing import Any

import torch

from voxformer.model.bestrq import BestRq
from voxformer.model.conformer import ConformerLayer, ConvolutionModule
from voxformer.model.decoder import DecoderLayer
from voxformer.training.batch_size import Trial, made_up_batch, make_step
from voxformer.training.setup import RunError

logger = logging.getLogger("voxformer.training")

UTTERANCES, SECONDS, TOKENS = 2, 2.0, 6
"""The made-up batch."""


def compile_layers(trial: Trial) -> None:
    """Compile a network's layers; nothing that a run saves is changed.

    Raises:
        RunError: it cannot be done here, such as without a C++ compiler.
    """
    began = time.monotonic()
    for layer in trial.module.modules():
        if isinstance(layer, ConvolutionModule):
            own = layer.depthwise
            own.forward = torch.compiler.disable(own.forward)  # type: ignore[method-assign]
        elif isinstance(layer, ConformerLayer):
            layer.compile(dynamic=True)
        elif isinstance(layer, DecoderLayer):
            for part in layer.children():
                part.compile(dynamic=True)
    tokens = 0 if isinstance(trial.module, BestRq) else TOKENS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compilers warn of their own internals
            make_step(trial, made_up_batch(trial.config, UTTERANCES, SECONDS, tokens))
    except Exception as error:  # the compilers of torch raise what they like
        reason = " ".join(str(error).split())[:200]
        raise RunError(
            "training.compile: needs a C++ compiler on a CPU and Triton on a GPU; install it, or "
            f"set compile: false: {reason}"
        ) from None
    logger.info("compiled the layers in %.0f s", time.monotonic() - began)


def as_written(apply: bool = True) -> contextlib.AbstractContextManager[Any]:
    """Where compiled layers run uncompiled, if `apply`: sizes and modes that were not made up."""
    if not apply:
        return contextlib.nullcontext()
    return torch.compiler.set_stance("force_eager")  # type: ignore[no-untyped-call,no-any-return]
