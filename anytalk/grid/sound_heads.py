"""Reads the headers of sound files, and corrects wrong lengths in them before the sound is decoded."""

from __future__ import annotations

MOST_LINKS = 1_000
"""The most streams in one Ogg file that are separated."""
_PAGE = 27
"""Size in bytes of an Ogg page's header before its list of segments."""
_SPARE = 1024
"""How many bytes after the frames of an mp3 may be tags."""


def sound_kind(head: bytes) -> str | None:
    """Recognise a file by its first bytes as wav, flac, ogg, mp3, webm or mp4 (which m4a is); None for others."""
    if head[:4] in (b"RIFF", b"RF64", b"RIFX") and head[8:12] == b"WAVE":
        return "wav"
    if head[4:8] == b"ftyp":
        return "mp4"
    marks = {b"fLaC": "flac", b"OggS": "ogg", b"\x1aE\xdf\xa3": "webm"}
    return "mp3" if is_mp3(head) else marks.get(head[:4])


def is_mp3(head: bytes) -> bool:
    """Return whether a file begins with a tag of mp3s, or with a frame of MPEG audio."""
    return head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 in (0xE2, 0xE4, 0xE6))


def without_tags(data: bytes) -> bytes:
    """Remove ID3 tags before the sound, because libsndfile looks for a frame only in the first bytes of a pipe."""
    place = 0
    while data[place : place + 3] == b"ID3" and len(data) >= place + 10:
        size = 0
        for byte in data[place + 6 : place + 10]:
            size = size << 7 | byte & 0x7F
        place += 10 + size + (10 if data[place + 5] & 0x10 else 0)
    return data[place:] if place < len(data) else data


def mp3_length(head: bytes) -> tuple[int, int] | None:
    """Return the number of frames and bytes in an mp3's header; None without one, 0 bytes if only frames are given."""
    for mark in (b"Xing", b"Info"):
        place = head.find(mark)
        if place >= 0:
            flags, frames, size = (int.from_bytes(head[place + i : place + i + 4], "big") for i in (4, 8, 12))
            return (frames, size if flags & 2 else 0) if flags & 1 and frames > 0 else None
    return (1, 0) if b"VBRI" in head else None


def is_longer_than_told(head: bytes, size: int) -> bool:
    """Return whether an mp3 of `size` bytes is longer than its header says, because several files were joined."""
    told = mp3_length(head)
    return told is not None and 0 < told[1] + told[1] // 50 + _SPARE < size


def is_shorter_than_told(head: bytes, size: int) -> bool:
    """Return whether an mp3 of `size` bytes is shorter than its header says, because it was cut off."""
    told = mp3_length(head)
    return told is not None and size < told[1] - _SPARE


def without_count(data: bytes) -> bytes:
    """Remove the frame count from an mp3's header, because libsndfile would stop there."""
    for mark in (b"Xing", b"Info"):
        place = data.find(mark)
        if place >= 0:
            return data[:place] + bytes(4) + data[place + 4 :]
    return data


def empty_data(head: bytes) -> int | None:
    """Return the offset of a wav's data size if the size is zero, as in files written to a pipe; None otherwise.

    The size takes eight bytes in RF64, the format for more than 4 GB, and four bytes otherwise.
    """
    if head[:4] not in (b"RIFF", b"RF64") or head[8:12] != b"WAVE":
        return None
    is_long, place, sizes = head[:4] == b"RF64", 12, -1
    ends_unknown = head[4:8] in (bytes(4), b"\xff" * 4)
    while place + 8 <= len(head):
        name, size = head[place : place + 4], int.from_bytes(head[place + 4 : place + 8], "little")
        if name == b"ds64":
            sizes = place + 16
        if name == b"data" and is_long:
            return sizes if sizes > 0 and not any(head[sizes : sizes + 8]) else None
        if name == b"data":
            return place + 4 if size == 0 and (ends_unknown or not _is_chunk(head[place + 8 :])) else None
        place += 8 + size + size % 2
    return None


def with_true_size(data: bytes, place: int) -> bytes:
    """Write the true data size of a wav at the offset that :func:`empty_data` found."""
    width = 8 if data[:4] == b"RF64" else 4
    left = len(data) - data.find(b"data", place - 4) - 8
    return data[:place] + left.to_bytes(width, "little") + data[place + width :]


def _is_chunk(data: bytes) -> bool:
    name, size = data[:4], int.from_bytes(data[4:8], "little")
    return len(data) >= 8 and name.isascii() and name.decode().isprintable() and size <= len(data) - 8


def ogg_links(data: bytes) -> list[bytes]:
    """Split an Ogg file into its streams, because libsndfile reads only the first one.

    Returns:
        One piece per stream; the last of :data:`MOST_LINKS` + 1 pieces holds all that follow.
    """
    starts, place, was_first = [0], 0, True
    while (place := data.find(b"OggS", place)) >= 0 and place + _PAGE <= len(data) and len(starts) <= MOST_LINKS:
        is_first = bool(data[place + 5] & 2)
        if is_first and not was_first:
            starts.append(place)
        was_first = is_first
        segments = data[place + _PAGE - 1]
        place += _PAGE + segments + sum(data[place + _PAGE : place + _PAGE + segments])
    return [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]
