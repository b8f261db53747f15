"""Names the format of SNAC codes and parses the strings of VoiceAssistant-400K, without a model."""

from __future__ import annotations

import numpy as np

from anytalk.errors import DataError

CODES_PER_FRAME = 7
CODEBOOK_SIZE = 4096


def snac_token_format(sample_rate_hz: int, num_streams: int, codebook_size: int) -> str:
    """Return ``Codec.token_format`` of a SNAC model, which is the same for every class that wraps the model."""
    return f"snac/{sample_rate_hz}/{num_streams}x{codebook_size}"


SNAC_24KHZ = snac_token_format(24_000, CODES_PER_FRAME, CODEBOOK_SIZE)
"""The format of hubertsiuzdak/snac_24khz, Mini-Omni's codec."""


def parse_snac(text: str, where: str) -> np.ndarray:
    """Parse ``"# t0 .. t6 # t0 .. t6"`` into (7,F) int64, in the order of :mod:`anytalk_adapters.snac_order`.

    This is the format of VoiceAssistant-400K (column ``answer_snac``; explained in SLAM-LLM issue 217): each frame
    begins with ``#`` and has seven codes, which are not shifted.

    Raises:
        DataError: The text has another form; the message names the frame.
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
                raise DataError(f"{here} holds '{code[:20]}', which is not a number", hint)
            if int(code) >= CODEBOOK_SIZE:
                raise DataError(f"{here} holds {code}, which is outside 0 to {CODEBOOK_SIZE - 1}", hint)
        rows.append([int(code) for code in codes])
    return np.ascontiguousarray(np.array(rows, dtype=np.int64).T)
