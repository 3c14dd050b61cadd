"""How a benchmark ends: with an exit code, and one line for whatever was wrong with its input."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path


def leave(main: Callable[[], int | None]) -> None:
    """Run a script's `main` and exit: with what it returns, or with 2 and the error's message, or 3
    where a disk is full.

    A plain ValueError is a bug and keeps its traceback; those of VoxFormer have classes of their
    own.
    """
    try:
        code = main() or 0
        sys.stdout.flush()
    except BrokenPipeError:  # a reader that left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except KeyboardInterrupt:
        code = 130
    except (ValueError, OSError) as error:
        if type(error) is ValueError:
            raise
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        code = 3 if isinstance(error, OSError) and error.errno == errno.ENOSPC else 2
    sys.exit(code)
