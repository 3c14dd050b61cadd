"""The command line: parse, call one function, print. Heavy imports wait inside the commands."""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

COMMANDS = {
    "quickstart": "make data, train four small stages, evaluate, export, decode, measure RTF",
    "recipe": "train, choose, export and report on several sets, within minutes of a device",
    "prepare": "turn a corpus into manifests",
    "tokenizer": "train a SentencePiece tokenizer from a manifest",
    "lm": "make an n-gram language model from text",
    "lexicon": "pronounce the words of texts, for a model of phones",
    "train": "train one stage",
    "evaluate": "word error rate of a checkpoint or a bundle",
    "export": "write an ONNX bundle from a checkpoint",
    "transcribe": "transcribe audio with a bundle",
    "checkpoints": "list, verify, prune, mirror or pull a run's checkpoints",
    "dashboard": "a live page over run folders, read only",
    "doctor": "what is installed, which engines can run here",
}

INSTALL_HINTS = {
    "torch": "train",
    "torchaudio": "torchaudio",
    "fsspec": "mirror",
    "paramiko": "mirror",
    "pydantic": "train",
    "yaml": "train",
    "rich": "train",
    "tensorboard": "train",
    "sentencepiece": "train",
    "jiwer": "train",
    "soundfile": "onnx-cpu",
    "soxr": "onnx-cpu",
    "onnxruntime": "onnx-cpu",
    "onnx": "export",
    "onnxscript": "export",
    "starlette": "dashboard",
    "uvicorn": "dashboard",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; user errors are one clear line (or one a fault) and exit code 2."""
    _open_standard_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser(arguments)
    args = parser.parse_args(arguments)
    if args.command is None:
        parser.print_help()
        return 2
    module = importlib.import_module(f"voxformer.cli.{args.command}")
    try:
        code = int(module.run(args))
        sys.stdout.flush()
        return code
    except ModuleNotFoundError as error:
        extra = INSTALL_HINTS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        return _fail(args.command, f"needs {error.name}: pip install 'voxformer[{extra}]'")
    except ImportError as error:
        if not type(error).__module__.startswith("voxformer."):
            raise
        return _fail(args.command, str(error))
    except BrokenPipeError:
        # What is still buffered would complain again when the interpreter leaves.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.strerror is None:
            raise
        name = error.filename2 or error.filename  # of a rename, the name that was meant
        where = f"{name}: " if name else ""
        full = error.errno == errno.ENOSPC
        hint = "; make space and run it again" if full else ""
        _fail(args.command, f"{where}{error.strerror.lower()}{hint}")
        return 3 if full else 2
    except UnicodeEncodeError as error:
        if error.encoding == "utf-8":  # then it is not of standard output
            raise
        letter = error.object[error.start]
        fix = "set PYTHONIOENCODING=utf-8"
        encoding = sys.stdout.encoding
        return _fail(args.command, f"standard output is {encoding}, without {letter!a}; {fix}")
    except ValueError as error:
        if not type(error).__module__.startswith("voxformer."):  # a bug should show where it is
            raise
        return _fail(args.command, str(error))
    except KeyboardInterrupt:
        return 130


class _Parser(argparse.ArgumentParser):
    """Says what is wrong on one line; the usage is a `--help` away."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _open_standard_streams() -> None:
    """Stand in for those that the caller has closed (`>&-`), which Python has as None."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # The lowest number that is free is this one's: no other file will be taken for it.
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files may have any bytes


def _fail(command: str, message: str) -> int:
    for line in message.splitlines():
        print(f"voxformer {command}: {line}", file=sys.stderr)
    return 2


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    from voxformer import __version__

    parser = _Parser(
        prog="voxformer",
        description="Train, export and run hybrid CTC-attention speech recognition.",
    )
    parser.add_argument("--version", action="version", version=f"voxformer {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, summary in COMMANDS.items():
        # Only the chosen command's module is imported: `voxformer --help` must be quick.
        if name in arguments:
            module = importlib.import_module(f"voxformer.cli.{name}")
            child = commands.add_parser(
                name,
                help=summary,
                description=f"{summary[0].upper()}{summary[1:]}.",
                epilog=f"example:\n  {module.EXAMPLE}",
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            module.add_arguments(child)
        else:
            commands.add_parser(name, help=summary, add_help=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
