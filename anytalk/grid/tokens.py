"""Defines the token grid: its special tokens, vocabulary sizes and row numbers, all in one place.

A grid is an int64 array (S,T): rows 0 .. K-1 are audio streams, row K is text; columns are steps. Ids are local to
their row. Special tokens come after the codes (audio) or after the backbone's vocabulary (text), in the order of the
original (Mini-Omni: eot, pad_t, input_t, answer_t, asr; eoa, pad_a, input_a, answer_a). Their embeddings are small
separate tables, never rows of the backbone's matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

TEXT_SPECIALS = ("eot", "pad_t", "input_t", "answer_t", "asr")
AUDIO_SPECIALS = ("eoa", "pad_a", "input_a", "answer_a")


@dataclass(frozen=True, kw_only=True)
class StreamLayout:
    """Holds the sizes of a grid and computes its rows and special ids."""

    num_audio_streams: int  # K
    codebook_size: int  # C, codes of one audio stream
    text_vocab_size: int  # V, the backbone's own vocabulary
    # The id that ends a text answer: the backbone's own end token (default of `attach`, so that the text path stays the
    # base model's), or `eot` (the original).
    end_of_text_id: int
    text_special_slots: int = len(TEXT_SPECIALS)  # rows of the text special table; the original reserves 64
    audio_special_slots: int = len(AUDIO_SPECIALS)  # rows of each stream's special table; the original reserves 64

    @property
    def num_streams(self) -> int:
        return self.num_audio_streams + 1

    @property
    def text_row(self) -> int:
        return self.num_audio_streams

    @property
    def stream_vocab_size(self) -> int:
        """Return the number of codes plus special slots of one audio stream, the width of one head."""
        return self.codebook_size + self.audio_special_slots

    @property
    def eot(self) -> int:
        """Return the id that ends a text."""
        return self.text_vocab_size

    @property
    def pad_t(self) -> int:
        return self.text_vocab_size + 1

    @property
    def input_t(self) -> int:
        """Return the id that begins a prompt in the raw style."""
        return self.text_vocab_size + 2

    @property
    def answer_t(self) -> int:
        """Return the id in the last column of a raw prompt if an answer follows."""
        return self.text_vocab_size + 3

    @property
    def asr(self) -> int:
        """Return the id in the last column of a raw prompt if a transcript follows."""
        return self.text_vocab_size + 4

    @property
    def eoa(self) -> int:
        """Return the id that ends an audio stream."""
        return self.codebook_size

    @property
    def pad_a(self) -> int:
        """Return an audio row's id where there is no audio (Mini-Omni's code calls it end_of_audio)."""
        return self.codebook_size + 1

    @property
    def input_a(self) -> int:
        """Return the audio rows' id before the speech columns."""
        return self.codebook_size + 2

    @property
    def answer_a(self) -> int:
        """Return the audio rows' id in the last prompt column of a task that speaks."""
        return self.codebook_size + 3

    def name(self, row: int, token: int) -> str | None:
        """Return the name of a special token, or None for codes and the backbone's own ids."""
        first, names = (
            (self.text_vocab_size, TEXT_SPECIALS) if row == self.text_row else (self.codebook_size, AUDIO_SPECIALS)
        )
        if token < first:
            return None
        # Imported checkpoints have more slots than names.
        return names[token - first] if token - first < len(names) else f"spare{token - first}"
