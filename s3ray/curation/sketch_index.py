"""Finding copies and near copies among millions of texts, in little memory, by their sketches.

The texts themselves lie in a temporary file. In memory there are 170 bytes for each, or up to twice that, as the tables
double when they are full: where it lies, how long it is, how often it has which bytes, and some of its keys
(``sketch``). A text is compared with the few that have a key of it and nearly its bytes: these are read again and
aligned, so that whatever is called a near copy is one. What is missed are near copies all of whose remembered keys were
changed; ``benchmarks/curation.py`` measures how many these are.

What is found depends on the texts that were added and on their order, never on how they came in batches.
"""

import os
import tempfile
import weakref
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import numpy.typing as npt
import xxhash
from rapidfuzz.distance import Indel, Levenshtein

from s3ray.curation.duplicates import NewText
from s3ray.curation.sketch import HEADER_WORDS, IS_WIDE, NUM_GROUPS, Words, sketches
from s3ray.curation.sketch_tables import WAYS, Ints, Longs, Tables
from s3ray.errors import StoreError
from s3ray.text import normalise, units_of
from s3ray.types import RejectionReason

_BLOCK = 1024  # texts that are entered into the tables at once; until then, they are compared with each other
_NUM_KEYS = 12  # with more, buckets are fuller when the tables are, and texts get keys of runs that more edits change
_NUM_NEW_KEYS = 24  # of a text that is in no table yet, of which near copies share several
_FEWEST_SHARED = 2
_MOST_COMPARED = 8
_MOST_BYTES = 4  # of a character
_MOST_PAIRS = 1 << 18  # at once
_FILTER_BITS = 20
_FILTER_SHIFT = np.uint64(64 - _FILTER_BITS)
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_NO_INTS = np.zeros(0, np.int64)
_NO_WORDS = np.zeros(0, np.uint32)
_NO_GROUPS = np.zeros((0, NUM_GROUPS), np.uint8)
_ROUNDING = 1e-6  # similarities are floats: without slack a text exactly at the threshold is sometimes missed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """What is known of some texts, and the keys to remember them by, one text after the other."""

    num_chars: Ints
    num_bytes_a_char: Ints
    groups: npt.NDArray[np.uint8]
    num_keys: Ints
    keys: Words


class _Batch:
    """Texts that were announced, in the order in which they will be asked for; what their sketches say, as columns."""

    def __init__(self, texts: Sequence[NewText]) -> None:
        made = iter(sketches([new.text for new in texts if not new.sketch]))
        parts = [new.sketch or next(made) for new in texts]
        sizes = np.array([len(part) // 4 for part in parts], np.int64)
        words = np.frombuffer(b"".join(parts), np.uint32)
        head_places = (np.cumsum(sizes) - sizes)[:, None] + np.arange(HEADER_WORDS)
        head = words[head_places]
        is_key = np.ones(len(words), bool)
        is_key[head_places.ravel()] = False
        scopes = np.array(
            [xxhash.xxh3_64_intdigest(new.scope.encode()) if new.scope else 0 for new in texts], np.uint64
        )
        self._places: dict[tuple[str, str], list[int]] = {}
        for place, new in enumerate(texts):
            self._places.setdefault((new.scope, new.text), []).append(place)
        self.hashes: Longs = (head[:, 0] | (head[:, 1].astype(np.uint64) << _HALF)) ^ scopes
        self.hashes += self.hashes == 0  # 0 marks an empty slot of a table
        self.hash_of: list[int] = self.hashes.tolist()
        self._num_bytes_a_char = np.where(head[:, 3] >= IS_WIDE, _MOST_BYTES, 1)
        self._num_chars = head[:, 2].astype(np.int64)
        self._num_remembered = head[:, 3].astype(np.int64) % IS_WIDE
        self._groups = np.ascontiguousarray(head[:, 4:]).view(np.uint8)
        self._num_keys = sizes - HEADER_WORDS
        self._starts = np.cumsum(self._num_keys) - self._num_keys
        self._keys: Words = words[is_key] ^ np.repeat(scopes, self._num_keys).astype(np.uint32)

    def __len__(self) -> int:
        return len(self.hash_of)

    def place(self, text: str, scope: str, first: int) -> int | None:
        """Where a text was announced, at ``first`` or later if that can be; None if it was not."""
        places = self._places.get((scope, text))
        if places is None:
            return None
        return places[0] if len(places) == 1 else places[bisect_left(places, first) % len(places)]

    def all_keys(self, places: range) -> tuple[Words, Ints]:
        """All keys of some texts, and the place of the text that has each."""
        whose = np.repeat(np.arange(places.start, places.stop), self._num_keys[places.start : places.stop])
        start = int(self._starts[places.start])
        return self._keys[start : start + len(whose)], whose

    def columns(self, places: Sequence[int]) -> _Columns:
        """Some texts, with those of their keys that they are remembered by."""
        rows = np.array(places, np.int64)
        num_keys = self._num_remembered[rows]
        keys = self._keys[np.repeat(self._starts[rows], num_keys) + _ranks(num_keys)]
        return _Columns(
            num_chars=self._num_chars[rows],
            num_bytes_a_char=self._num_bytes_a_char[rows],
            groups=self._groups[rows],
            num_keys=num_keys,
            keys=keys,
        )


class _Pending:
    """Texts that were added and are in no table yet, fewer than a block of them."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.texts: list[tuple[str, str]] = []
        self.hashes: dict[int, int] = {}
        self._parts: list[tuple[_Batch, list[int]]] = []

    def add(self, batch: _Batch, place: int, id: str, text: str) -> int:
        """Remember a text of a batch; the number that it gets."""
        number = self.first + len(self.texts)
        self.hashes[batch.hash_of[place]] = number
        self.texts.append((id, text))
        if not self._parts or self._parts[-1][0] is not batch:
            self._parts.append((batch, []))
        self._parts[-1][1].append(place)
        return number

    def columns(self) -> _Columns:
        """What is known of them."""
        return _joined([batch.columns(places) for batch, places in self._parts])


class _Found:
    """What was found for the next texts of a batch."""

    def __init__(self, places: range) -> None:
        self.places = places
        self.copies: dict[int, int] = {}
        self.alike: dict[int, list[int]] = {}
        self.new: dict[int, list[int]] = {}
        """By place: the places of texts in no table yet, most alike first. Those that were added earlier have places
        before the others."""
        self.numbers: dict[int, int] = {}
        """By place: the numbers of these texts, once they were added."""

    def to_compare(self, place: int) -> list[int]:
        """The texts that a text is to be compared with, in their order."""
        new = (self.numbers[other] for other in self.new.get(place, ()) if other in self.numbers)
        return sorted([*self.alike.get(place, ()), *islice(new, _MOST_COMPARED)])


class SketchIndex:
    """Texts seen so far, each within a scope, like ``DuplicateIndex``; it may miss a few near copies.

    Texts that were announced by ``expect`` are looked up many at once, others one by one, which is slow.
    """

    def __init__(
        self,
        threshold: float | None,
        rouge_l: float | None = None,
        *,
        num_texts: int = _BLOCK,
        num_keys: int = _NUM_KEYS,
    ) -> None:
        """``num_texts`` is how many there will be, if that is known; each is remembered by ``num_keys`` keys."""
        self._threshold, self._rouge_l = threshold, rouge_l
        # Alike words may differ in any number of letters.
        self._bound = threshold if rouge_l is None else None
        self._tables = Tables(num_texts, num_keys)
        self._file = tempfile.TemporaryFile(prefix="s3ray-texts-")  # noqa: SIM115 (closed with the index)
        weakref.finalize(self, self._file.close)
        self._pending = _Pending(0)
        self._is_growing = True
        self._batch = _Batch(())
        self._place_asked_for = 0
        self._found = _Found(range(0))

    def expect(self, texts: Sequence[NewText]) -> None:
        """Announce the texts that will be asked for or added next, roughly in their order."""
        self._batch, self._place_asked_for, self._found = _Batch(texts), 0, _Found(range(0))

    def find(self, text: str, scope: str = "") -> tuple[RejectionReason, str] | None:
        """As ``DuplicateIndex.find``.

        Raises:
            StoreError: the temporary file cannot be read.
        """
        place = self._place(text, scope)
        original = self._copy(place)
        if original is not None:
            return RejectionReason.DUPLICATE, self._read(original)[0]
        if self._threshold is None and self._rouge_l is None:
            return None
        others = self._found.to_compare(place)
        found = self._most_similar(text, others) if others else None
        return None if found is None else (RejectionReason.NEAR_DUPLICATE, found)

    def add(self, id: str, text: str, scope: str = "") -> None:
        """As ``DuplicateIndex.add``.

        Raises:
            StoreError: the temporary file cannot be written.
        """
        if not self._is_growing:
            self._is_growing, self._found = True, _Found(range(0))
        place = self._place(text, scope)
        if self._copy(place) is not None:
            return
        self._found.numbers[place] = self._pending.add(self._batch, place, id, text)
        if len(self._pending.texts) == _BLOCK:
            self._enter()

    def flush(self) -> None:
        """Move all texts that were added into the tables now, for an index that is mostly searched from here on.

        Raises:
            StoreError: the temporary file cannot be written.
        """
        self._enter()
        self._is_growing = False

    def _enter(self) -> None:
        pending, num = self._pending, len(self._pending.texts)
        if not num:
            return
        tables, columns = self._tables, pending.columns()
        texts = tables.make_room(num)
        tables.num_chars[texts] = columns.num_chars
        tables.groups[texts] = columns.groups
        tables.add_hashes(np.array(list(pending.hashes), np.uint64), texts)
        tables.add_keys(columns.keys, np.repeat(texts, columns.num_keys), _ranks(columns.num_keys))
        records = [f"{id}\0{text}".encode("utf-8", "surrogatepass") for id, text in pending.texts]
        tables.places[texts + 1] = tables.places[texts[0]] + np.cumsum([len(record) for record in records])
        self._write(b"".join(records))
        self._pending, self._found = _Pending(pending.first + num), _Found(range(0))

    # -- looking up ------------------------------------------------------------------------------------------------

    def _place(self, text: str, scope: str) -> int:
        """The place of a text in the batch, which is looked up."""
        place = self._batch.place(text, scope, self._place_asked_for)
        if place is None:
            self.expect([NewText(text, scope)])
            place = 0
        # What was added since stands after an earlier place.
        if place not in self._found.places or place < self._place_asked_for:
            # No more than may be added before the tables change.
            num = _BLOCK - len(self._pending.texts)
            self._look_up(range(place, min(place + num, len(self._batch))))
        self._place_asked_for = place
        return place

    def _copy(self, place: int) -> int | None:
        """The exact copy of a text of the batch."""
        return self._pending.hashes.get(self._batch.hash_of[place], self._found.copies.get(place))

    def _look_up(self, places: range) -> None:
        """Find exact copies in the tables, and the texts to compare with."""
        batch = self._batch
        self._found = found = _Found(places)
        originals = self._tables.with_hashes(batch.hashes[places.start : places.stop])
        for place in np.flatnonzero(originals >= 0).tolist():
            found.copies[places.start + place] = int(originals[place])
        if self._threshold is None and self._rouge_l is None:
            return
        own = batch.columns(places)
        keys, whose = batch.all_keys(places)
        # Sorted, so that the tables are read in the order in which they lie in memory.
        keyed = np.sort((keys.astype(np.uint64) << _HALF) | (whose - places.start).astype(np.uint64))
        found.alike, is_common = self._old(own, keyed, places.start)
        keyed = keyed[~is_common]
        if self._is_growing:
            num_before = len(self._pending.texts)
            found.new, num = self._new(own, keyed, places.start - num_before)
            found.places = places[:num]
            found.numbers = dict(zip(range(places.start - num_before, places.start), count(self._pending.first)))

    def _old(self, own: _Columns, keyed: Longs, start: int) -> tuple[dict[int, list[int]], npt.NDArray[np.bool_]]:
        """As ``_Found.alike``, and which keys have so many texts that they tell little."""
        places, others = self._tables.with_keys((keyed >> _HALF).astype(np.uint32))
        is_common = np.bincount(places, minlength=len(keyed)) >= WAYS
        texts = (keyed[places] & _LOW).astype(np.int64)
        may_be = self._may_be_near(own, texts, self._tables, others)
        return _most_alike((texts[may_be] << 32) | others[may_be], start), is_common

    def _new(self, own: _Columns, keyed: Longs, start: int) -> tuple[dict[int, list[int]], int]:
        """As ``_Found.new``, for a number of texts of the batch that follows: as many as do not take too much memory.

        ``start`` is the place of the first text that is in no table yet.
        """
        before = self._pending.columns()
        columns, num_before = _joined([before, own]), len(before.num_keys)
        is_early = _ranks(columns.num_keys) < _NUM_NEW_KEYS
        owners = np.repeat(np.arange(len(columns.num_keys)), columns.num_keys)[is_early]
        owned = np.sort((columns.keys[is_early].astype(np.uint64) << _HALF) | owners.astype(np.uint64))
        texts, others, counts, end = _sharing(owned, keyed + np.uint64(num_before), len(columns.num_keys))
        if self._bound is not None:
            may_be = (counts >= _FEWEST_SHARED) | (columns.num_keys[others] < _NUM_NEW_KEYS)
            texts, others, counts = texts[may_be], others[may_be], counts[may_be]
        order = np.flatnonzero(self._may_be_near(columns, texts, columns, others))
        order = order[np.lexsort((others[order], -counts[order], texts[order]))]
        found: dict[int, list[int]] = {}
        for text, other in zip((texts[order] + start).tolist(), (others[order] + start).tolist(), strict=True):
            found.setdefault(text, []).append(other)
        return found, end - num_before

    def _may_be_near(self, own: _Columns, texts: Ints, other: Tables | _Columns, others: Ints) -> npt.NDArray[np.bool_]:
        """Which texts, by length and bytes, can reach the threshold of edit similarity with the other of each pair."""
        if self._bound is None:
            return np.ones(len(texts), bool)
        num_chars, num_other_chars = own.num_chars[texts], other.num_chars[others]
        num_edits = (np.maximum(num_chars, num_other_chars) * (1 - self._bound) + _ROUNDING).astype(np.int64)
        may_be: npt.NDArray[np.bool_] = np.abs(num_chars - num_other_chars) <= num_edits
        left = np.flatnonzero(may_be)
        texts, others = texts[left], others[left]
        # Bytes that only one of them has were put in by edits (bag distance).
        surplus = own.groups[texts].astype(np.int16) - other.groups[others]
        may_be[left] = np.maximum(surplus, 0).sum(1) <= num_edits[left] * own.num_bytes_a_char[texts]
        return may_be

    def _most_similar(self, text: str, others: Iterable[int]) -> str | None:
        """The id of the most similar of some texts, the earliest of equals; None if none reaches a threshold."""
        normal = normalise(text)
        known = [(id, normalise(other)) for id, other in map(self._read, others)]
        best: str | None = None
        if self._threshold is not None:
            least = self._threshold - _ROUNDING
            for id, other in known:
                similarity = Levenshtein.normalized_similarity(normal, other, score_cutoff=least)
                if similarity >= least and (best is None or similarity > least):
                    best, least = id, similarity
        if best is None and self._rouge_l is not None:
            least, units = self._rouge_l - _ROUNDING, units_of(normal)
            for id, other in known:
                similarity = Indel.normalized_similarity(units, units_of(other), score_cutoff=least)
                if similarity >= least and (best is None or similarity > least):
                    best, least = id, similarity
        return best

    # -- the texts -------------------------------------------------------------------------------------------------

    def _write(self, content: bytes) -> None:
        try:
            self._file.write(content)
            self._file.flush()
        except OSError as error:
            raise _no_file(error) from error

    def _read(self, number: int) -> tuple[str, str]:
        """The id of a text that was added, and the text."""
        if number >= self._pending.first:
            return self._pending.texts[number - self._pending.first]
        start, end = self._tables.places[number : number + 2].tolist()
        try:
            record = os.pread(self._file.fileno(), end - start, start)
        except OSError as error:
            raise _no_file(error) from error
        id, _, text = record.decode("utf-8", "surrogatepass").partition("\0")
        return id, text


def _most_alike(pairs: Ints, start: int) -> dict[int, list[int]]:
    """By text of the batch, the first of which has the place ``start``: the texts that share most keys with it."""
    pairs, counts = np.unique(pairs, return_counts=True)
    texts = pairs >> 32
    order = np.lexsort((pairs, -counts, texts))
    texts, others = texts[order] + start, (pairs & 0xFFFFFFFF)[order]
    firsts = np.flatnonzero(np.diff(texts, prepend=-1))
    return {
        int(texts[first]): others[first : min(end, first + _MOST_COMPARED)].tolist()
        for first, end in zip(firsts, [*firsts[1:], len(texts)], strict=False)
    }


def _sharing(owned: Longs, keyed: Longs, num_texts: int) -> tuple[Ints, Ints, Ints, int]:
    """Pairs of texts, the second of which is the earlier one, and how many keys they share.

    ``owned`` are the keys by which texts are found, ``keyed`` those that are looked for; both are sorted, with the text
    in the lower half. The last number is that of the first text that was left out, as there were too many pairs.
    """
    is_owned = np.zeros(1 << _FILTER_BITS, bool)
    is_owned[owned >> _FILTER_SHIFT] = True
    keyed = keyed[is_owned[keyed >> _FILTER_SHIFT]]
    ends = np.searchsorted(owned, keyed)
    is_shared = owned[ends - 1] >> _HALF == keyed >> _HALF
    is_shared &= ends > 0
    keyed, ends = keyed[is_shared], ends[is_shared]
    texts = (keyed & _LOW).astype(np.int64)
    starts = np.searchsorted(owned, keyed & ~_LOW)
    counts = ends - starts
    totals = np.cumsum(np.bincount(texts, counts, minlength=num_texts))
    first = int(np.searchsorted(totals, 0, side="right"))
    end = min(max(int(np.searchsorted(totals, _MOST_PAIRS, side="right")), first + 1), num_texts)
    starts, counts, texts = starts[texts < end], counts[texts < end], texts[texts < end]
    others = (owned[np.repeat(starts, counts) + _ranks(counts)] & _LOW).astype(np.int64)
    pairs, num_shared = np.unique((np.repeat(texts, counts) << 32) | others, return_counts=True)
    return pairs >> 32, pairs & 0xFFFFFFFF, num_shared, end


def _joined(parts: Sequence[_Columns]) -> _Columns:
    return _Columns(
        num_chars=np.concatenate([_NO_INTS, *(part.num_chars for part in parts)]),
        num_bytes_a_char=np.concatenate([_NO_INTS, *(part.num_bytes_a_char for part in parts)]),
        groups=np.concatenate([_NO_GROUPS, *(part.groups for part in parts)]),
        num_keys=np.concatenate([_NO_INTS, *(part.num_keys for part in parts)]),
        keys=np.concatenate([_NO_WORDS, *(part.keys for part in parts)]),
    )


def _ranks(counts: Ints) -> Ints:
    """The numbers from 0 for each of some groups of these sizes, one after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _no_file(error: OSError) -> StoreError:
    return StoreError(
        f"the texts of the search for copies cannot be kept in {tempfile.gettempdir()}: {error.strerror or error}",
        "Make room there, or let TMPDIR name a folder that has some.",
    )
