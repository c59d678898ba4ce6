"""Sketches of texts: what a search for near copies needs to know of each, small and made where the texts are.

A sketch has the hash of the whole text, its length, how often it has each of 32 groups of bytes, and *keys*: hashes of
runs of its bytes (n-grams). Which runs are taken follows from their content alone (those with the smallest hashes), so
that a copy with some edits takes mostly the same ones. Long runs tell more, short ones survive more edits; so each text
has keys of two or three lengths, which depend on its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from s3ray.config.job import RunConfig
from s3ray.text import normalise

Words = npt.NDArray[np.uint32]
_Longs = npt.NDArray[np.uint64]
_Ints = npt.NDArray[np.int64]

HEADER_WORDS = 12
"""Words of 32 bits before the keys: hash of the text (2), number of characters, number of keys to remember it by (and
``IS_WIDE``), bytes by group (8)."""
IS_WIDE = 1 << 16
"""Added for a text that has characters of several bytes."""
NUM_GROUPS = 32
_LENGTHS = (8, 12, 16, 24)
"""Bytes of the runs that become keys."""
_CLASSES = ((0, (8, 12, 0)), (40, (12, 16, 24)), (160, (16, 24, 0)))
"""From a number of bytes on: the lengths of runs by which a text is remembered, in order of preference (0: none)."""
_TAKEN = (30, 16, 16)
"""How many runs of each of these lengths are taken, on average, of texts that are long enough."""
_REMEMBERED = (24, 12, 12)
"""How many of them may be remembered. The rest makes up for an original that is a little shorter."""
_NEAR = 0.93  # two texts whose lengths differ more are no near copies
_BLOCK_BYTES = 1 << 15  # at once: intermediate arrays stay in the processor's cache
_MOST_EXACT = 20_000  # rows
_LEAST_SIMILARITY = 0.9
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_ROW_BITS, _RUN_BITS = 16, 48


def uses_sketches(config: RunConfig) -> bool:
    """Whether a run looks for copies by sketches; this follows from its settings alone (``curation.search``)."""
    curation, strategy = config.curation, config.strategy
    is_large = (strategy.rows or strategy.seed_examples) > _MOST_EXACT
    is_close = curation.near_duplicate is None or curation.near_duplicate >= _LEAST_SIMILARITY
    return curation.search == "sketch" or (curation.search == "auto" and is_large and is_close)


def _table(name: str) -> _Longs:
    return np.array([xxhash.xxh3_64_intdigest(f"{name} {byte}".encode()) for byte in range(256)], np.uint64)


_BYTES = _table("byte")
_GROUPS = np.arange(256) % NUM_GROUPS  # each of the letters a to z and the blank has its own


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    """Keys of one length: whose they are, their rank in their text, and their place among its keys."""

    rows: _Ints
    slots: _Ints
    ranks: _Ints
    keys: Words


def sketches(texts: Sequence[str]) -> list[bytes]:
    """The sketch of each text, as bytes; texts that differ in what ``normalise`` removes have the same."""
    normals = [normalise(text).encode("utf-8", "surrogatepass") for text in texts]
    made: list[bytes] = []
    for block in _blocks(normals):
        made += _sketch_block(block)
    return made


def _blocks(normals: Sequence[bytes]) -> Iterator[list[bytes]]:
    block: list[bytes] = []
    num_bytes = 0
    for normal in normals:
        block.append(normal)
        num_bytes += len(normal)
        if num_bytes >= _BLOCK_BYTES or len(block) >= 1 << (_ROW_BITS - 1):
            yield block
            block, num_bytes = [], 0
    if block:
        yield block


def _sketch_block(normals: Sequence[bytes]) -> list[bytes]:
    sizes = np.array([len(normal) for normal in normals], np.int64)
    text = np.frombuffer(b"".join(normals), np.uint8)
    rows = np.repeat(np.arange(len(normals)), sizes)
    left = np.repeat(np.cumsum(sizes), sizes) - np.arange(len(text))  # bytes from each place to the end of its text
    taken = [_take(runs, length, sizes, rows, left) for length, runs in _runs(text) if runs is not None]
    num_slots = 2 * len(_LENGTHS)
    counts = np.zeros(len(normals) * num_slots, np.int64)
    for part in taken:
        counts += np.bincount(part.rows * num_slots + part.slots, minlength=len(counts))
    by_row = counts.reshape(-1, num_slots)
    starts = np.cumsum(by_row.sum(1) + HEADER_WORDS)
    words = np.zeros(int(starts[-1]), np.uint32)
    ends, starts = starts, np.concatenate([[0], starts[:-1]])
    places = (starts + HEADER_WORDS)[:, None] + np.cumsum(by_row, 1) - by_row
    for part in taken:
        words[places[part.rows, part.slots] + part.ranks] = part.keys
    hashes = np.array([xxhash.xxh3_64_intdigest(normal) for normal in normals], np.uint64)
    words[starts], words[starts + 1] = hashes & np.uint64(0xFFFFFFFF), hashes >> np.uint64(32)
    num_chars = sizes - np.bincount(rows[(text & 0xC0) == 0x80], minlength=len(normals))
    words[starts + 2] = num_chars
    words[starts + 3] = by_row[:, : len(_LENGTHS)].sum(1) + np.where(num_chars < sizes, IS_WIDE, 0)
    groups = np.bincount(rows * NUM_GROUPS + _GROUPS[text], minlength=len(normals) * NUM_GROUPS)
    packed = np.minimum(groups, 255).astype(np.uint8).view(np.uint32).reshape(len(normals), -1)
    words[starts[:, None] + np.arange(4, HEADER_WORDS)] = packed
    content = words.tobytes()
    return [content[4 * start : 4 * end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def _runs(text: npt.NDArray[np.uint8]) -> Iterator[tuple[int, _Longs | None]]:
    """By length: a hash of the run of bytes that begins at each place."""

    def joined(first: _Longs, second: _Longs, distance: int, length: int) -> _Longs:
        num = len(text) - length + 1
        return first[:num] * (_GOLDEN + np.uint64(2 * length)) + second[distance : distance + num]

    hashes = {1: _BYTES[text]}
    for length, first, second in ((2, 1, 1), (4, 2, 2), (8, 4, 4), (12, 8, 4), (16, 8, 8), (24, 16, 8)):
        if len(text) >= length:
            hashes[length] = joined(hashes[first], hashes[second], first, length)
    for length in _LENGTHS:
        yield length, hashes.get(length)


def _take(runs: _Longs, length: int, sizes: _Ints, rows: _Ints, left: _Ints) -> _Taken:
    """Of each text, the runs of a length with the smallest hashes."""
    place, wanted, remembered = _plan(length, sizes)
    share = np.minimum(wanted / np.maximum(sizes - length + 1, 1), 1.0)
    limits = (share * (1 << _RUN_BITS)).astype(np.uint64)
    num = len(runs)
    mixed = (runs ^ (runs >> np.uint64(32))) * _MIX >> np.uint64(64 - _RUN_BITS)
    found = np.flatnonzero((mixed < limits[rows[:num]]) & (left[:num] >= length))
    ordered = np.sort((rows[found].astype(np.uint64) << np.uint64(_RUN_BITS)) | mixed[found])
    ordered = ordered[np.diff(ordered, prepend=np.uint64(2**64 - 1)) != 0]
    whose = (ordered >> np.uint64(_RUN_BITS)).astype(np.int64)
    per_text = np.bincount(whose, minlength=len(sizes))
    ranks = np.arange(len(whose)) - np.repeat(np.cumsum(per_text) - per_text, per_text)
    is_more = ranks >= remembered[whose]
    keys = ((ordered << np.uint64(_ROW_BITS)) * _GOLDEN >> np.uint64(32)).astype(np.uint32)
    return _Taken(
        rows=whose,
        slots=np.where(is_more, len(_LENGTHS) + _LENGTHS.index(length), place[whose]),
        ranks=ranks - np.where(is_more, remembered[whose], 0),
        keys=keys,
    )


def _plan(length: int, sizes: _Ints) -> tuple[_Ints, _Ints, _Ints]:
    """For texts of these sizes: the place of a length in their order, how many runs are taken, and remembered.

    A text near the border of two classes also takes, without remembering, what a text of the other class remembers.
    """
    place = np.zeros(len(sizes), np.int64)
    wanted = np.zeros(len(sizes), np.int64)
    remembered = np.zeros(len(sizes), np.int64)
    ends = [start for start, _ in _CLASSES[1:]] + [1 << 62]
    for (start, lengths), end in zip(_CLASSES, ends, strict=True):
        if length in lengths:
            order = lengths.index(length)
            near = (sizes >= start * _NEAR) & (sizes < end / _NEAR)
            own = (sizes >= start) & (sizes < end)
            wanted[near] = np.maximum(wanted[near], _TAKEN[order])
            place[own], remembered[own] = order, _REMEMBERED[order]
    return place, wanted, remembered
