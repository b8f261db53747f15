"""SNAC codes as text: the name of their format, and the strings of VoiceAssistant-400K. No model is loaded."""

from __future__ import annotations

import numpy as np

from anytalk.errors import DataError

CODES_PER_FRAME = 7
CODEBOOK_SIZE = 4096


def snac_token_format(sample_rate_hz: int, num_streams: int, codebook_size: int) -> str:
    """``Codec.token_format`` of a SNAC model, whatever the class that wraps it."""
    return f"snac/{sample_rate_hz}/{num_streams}x{codebook_size}"


SNAC_24KHZ = snac_token_format(24_000, CODES_PER_FRAME, CODEBOOK_SIZE)
"""hubertsiuzdak/snac_24khz, the codec of Mini-Omni."""


def parse_snac(text: str, where: str) -> np.ndarray:
    """``"# t0 .. t6 # t0 .. t6"`` -> (7,F) int64, streams in the order of :mod:`anytalk_adapters.snac_order`.

    The format of VoiceAssistant-400K (column ``answer_snac``; explained in SLAM-LLM issue 217): a ``#`` opens each
    frame of seven codes, which are not shifted.

    Raises:
        DataError: text of another form; it names the frame.
    """
    hint = "expected '# t0 t1 t2 t3 t4 t5 t6 # ...' with codes of 0 to 4095"
    head, *frames = text.split("#")
    if head.strip() or not frames:
        raise DataError(f"{where}: the codes don't begin with '#' but with '{text.strip()[:20]}'", hint)
    rows = []
    for number, frame in enumerate(frames):
        here = f"{where}: frame {number} of the codes"
        codes = frame.split()
        if len(codes) != CODES_PER_FRAME:
            raise DataError(f"{here} has {len(codes)} codes; {CODES_PER_FRAME} are expected", hint)
        for code in codes:
            if not (code.isascii() and code.isdigit()):
                raise DataError(f"{here} holds '{code[:20]}', which is no number", hint)
            if int(code) >= CODEBOOK_SIZE:
                raise DataError(f"{here} holds {code}, which is outside 0 to {CODEBOOK_SIZE - 1}", hint)
        rows.append([int(code) for code in codes])
    return np.ascontiguousarray(np.array(rows, dtype=np.int64).T)
