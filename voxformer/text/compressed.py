"""Text files that gzip may have compressed."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

_GZIP_MAGIC = b"\x1f\x8b"


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file, without a byte order mark; what kind it is, its first bytes say.

    Raises:
        ValueError: damaged, or not text; the message names the file.
        OSError: it cannot be read.
    """
    data = Path(path).read_bytes()
    try:
        if data.startswith(_GZIP_MAGIC):
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged or truncated gzip data ({error})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text: {error.reason}") from None
