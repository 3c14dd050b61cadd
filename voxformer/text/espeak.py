"""eSpeak NG through its C interface (speak_lib.h): speech, and text as phones."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import Any


class EspeakError(ValueError):
    """eSpeak NG is missing or cannot do what is asked; the message is one line."""


@functools.cache
def espeak() -> Espeak:
    """The process's one: the library has one state, and calls back whoever set it up last.

    Raises:
        EspeakError: eSpeak NG is not installed, does not load or does not find its data.
    """
    return Espeak()


class Espeak:
    """The library; made by `espeak`."""

    _SYNCHRONOUS, _NO_EXIT, _UTF8, _RATE, _IPA = 2, 0x8000, 1, 1, 2

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise EspeakError(
                f"eSpeak NG is missing: pip install 'voxformer[phones]' ({error})"
            ) from None
        path = str(espeakng_loader.get_library_path())
        try:
            library: Any = ctypes.CDLL(path)
        except OSError as error:
            raise EspeakError(f"eSpeak NG does not load: {error}") from None
        data = Path(espeakng_loader.get_data_path())
        self.sample_rate: int = library.espeak_Initialize(
            self._SYNCHRONOUS, 0, os.fsencode(data.parent), self._NO_EXIT
        )
        if self.sample_rate <= 0:
            raise EspeakError(f"eSpeak NG does not find its data in {data}")
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        self._library = library
        self._chunks: list[bytes] = []
        prototype = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
        )
        # The library keeps the pointer, so the object must live as long.
        self._callback = prototype(self._receive)
        library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: Any, count: int, events: int | None) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    def speak(self, voice: str, text: str, rate: float) -> bytes:
        """16-bit samples; changes the library's state.

        Args:
            voice: its name in eSpeak NG.
            text: what to say.
            rate: factor on the usual tempo.
        """
        self._set_voice(voice)
        self._library.espeak_SetParameter(self._RATE, round(175 * rate), 0)
        self._chunks.clear()
        data = text.encode()
        size = ctypes.c_size_t(len(data) + 1)
        if self._library.espeak_Synth(data, size, 0, 1, 0, self._UTF8, None, None) != 0:
            raise EspeakError(f"eSpeak NG cannot speak {text!r}")
        return b"".join(self._chunks)

    def phonemes(self, text: str, voice: str = "en-us") -> bytes:
        """IPA of the text in UTF-8; changes the library's state."""
        self._set_voice(voice)
        rest = ctypes.c_char_p(text.encode())
        parts: list[bytes] = []
        while rest.value is not None:
            parts.append(
                self._library.espeak_TextToPhonemes(ctypes.byref(rest), self._UTF8, self._IPA)
            )
        return b" ".join(parts)

    def _set_voice(self, voice: str) -> None:
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise EspeakError(f"eSpeak NG has no voice {voice!r}")
