"""How many bytes the header of an audio file promises, to tell one that was cut short.

libsndfile reads what is there of a file whose end is missing, in silence; FLAC and CAF it refuses.
"""

from __future__ import annotations

from typing import BinaryIO

# Writers that cannot go back to the header, as into a pipe, leave a size near 2^31 or 2^32 in it.
_WAV_SIZE_IS_UNKNOWN = 0x7FFF0000
_AIFF_SIZE_IS_UNKNOWN = 0x7F000000
_AU_SIZE_IS_UNKNOWN = 0xFFFFFFFF
_SIZE_64_IS_UNKNOWN = 1 << 63

_MP3_TOLERANCE = 0.01
"""Of the bytes that a Xing header promises: encoders do not agree on what they count."""


def promised_size(file: BinaryIO, size: int) -> int:
    """Bytes that an audio file should have at least; 0 where its header does not say.

    Args:
        file: opened for reading bytes, at any position.
        size: bytes that it has.
    """
    file.seek(0)
    head = file.read(64)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return _wav(file, size)
    if head[:4] == b"RF64":
        return _known(8, _little(head[20:28]), _SIZE_64_IS_UNKNOWN, padding=1)
    if head[:4] == b"FORM":
        return _known(8, _big(head[4:8]), _AIFF_SIZE_IS_UNKNOWN, padding=1)
    if head[:4] == b"riff":  # of W64
        return _known(0, _little(head[16:24]), _SIZE_64_IS_UNKNOWN, padding=7)
    if head[:4] == b".snd":
        return _known(_big(head[4:8]), _big(head[8:12]), _AU_SIZE_IS_UNKNOWN)
    if head[:4] == b"dns.":
        return _known(_little(head[4:8]), _little(head[8:12]), _AU_SIZE_IS_UNKNOWN)
    if head[:4] == b"OggS":
        return _ogg(file, size)
    return _mp3(file, size, head)


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _known(before: int, length: int, unknown_from: int, padding: int = 0) -> int:
    """Bytes before what the length counts, and so many, less the `padding` that may follow the last
    chunk and is not missed; 0 where the length says nothing."""
    return before + length - padding if 0 < length < unknown_from else 0


def _wav(file: BinaryIO, size: int) -> int:
    """Up to the end of the data chunk."""
    position = 12
    while position + 8 <= size:
        file.seek(position)
        header = file.read(8)
        length = _little(header[4:8])
        if header[:4] == b"data":
            return 0 if length >= _WAV_SIZE_IS_UNKNOWN else position + 8 + length
        position += 8 + length + (length & 1)
    return position


def _ogg(file: BinaryIO, size: int) -> int:
    """Up to the end of the last page that begins in the file (RFC 3533, section 6)."""
    tail = min(size, 1 << 17)  # a page has at most 65,307 bytes
    file.seek(size - tail)
    data = file.read(tail)
    page = data.rfind(b"OggS\0")
    if page < 0 or page + 27 > len(data):
        return size + 1
    segments = data[page + 26]
    table = data[page + 27 : page + 27 + segments]
    return size - tail + page + 27 + segments + sum(table) + (segments - len(table))


def _mp3(file: BinaryIO, size: int, head: bytes) -> int:
    """By the Xing header in the first frame, which LAME and most others write."""
    start = 0
    if head[:3] == b"ID3":  # its size has 7 bits a byte (ID3 v2.4, section 3.1)
        for byte in head[6:10]:
            start = start << 7 | byte & 0x7F
        start += 10
    file.seek(start)
    frame = file.read(64)
    marks = [frame.find(mark, 4) for mark in (b"Xing", b"Info")]
    mark = max(marks)
    if frame[:1] != b"\xff" or mark < 0 or not frame[mark + 7] & 2:
        return 0
    counted = mark + (12 if frame[mark + 7] & 1 else 8)
    promised = start + _big(frame[counted : counted + 4])
    return promised if size < promised * (1 - _MP3_TOLERANCE) else 0
