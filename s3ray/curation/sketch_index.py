"""Finding copies and near copies among millions of texts, in little memory, by their sketches.

The texts themselves lie in a temporary file. In memory there are about 200 bytes for each: where it lies, how long it
is, how often it has which bytes, and some of its keys (``sketch``). A text is compared with the few that have a key of
it and nearly its bytes: these are read again and aligned, so that whatever is called a near copy is one. What is missed
are near copies all of whose remembered keys were changed; ``benchmarks/curation.py`` measures how many these are.

What is found depends on the texts that were added and on their order, never on how they came in batches.
"""

import os
import tempfile
import weakref
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import xxhash
from rapidfuzz.distance import Indel, Levenshtein

from s3ray.curation.duplicates import NewText
from s3ray.curation.sketch import HEADER_WORDS, IS_WIDE, Words, sketches
from s3ray.curation.sketch_tables import WAYS, Ints, Level, Longs
from s3ray.errors import StoreError
from s3ray.text import normalise, units_of
from s3ray.types import RejectionReason

_BLOCK = 1024  # texts that are entered into the tables at once; until then, a dictionary has their keys
_FIRST_LEVEL = 1 << 16  # texts; every further level holds as many as all before it
_NUM_KEYS = 16
_NUM_NEW_KEYS = 24  # of a text that is in no table yet, of which near copies share several
_FEWEST_SHARED = 2
_MOST_COMPARED = 8
_MOST_BYTES = 4  # of a character
_ROUNDING = 1e-6  # similarities are floats: without slack a text exactly at the threshold is sometimes missed


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
        self.places = {(new.scope, new.text): place for place, new in enumerate(texts)}
        self.hashes: Longs = (head[:, 0] | (head[:, 1].astype(np.uint64) << np.uint64(32))) ^ scopes
        self.hashes += self.hashes == 0  # 0 marks an empty slot of a table
        self.num_chars = head[:, 2].astype(np.int64)
        self.num_bytes_a_char = np.where(head[:, 3] >= IS_WIDE, _MOST_BYTES, 1)
        self.num_remembered = head[:, 3].astype(np.int64) % IS_WIDE
        self.groups = np.ascontiguousarray(head[:, 4:]).view(np.uint8)
        self.num_keys = sizes - HEADER_WORDS
        self.starts = np.cumsum(self.num_keys) - self.num_keys
        self.keys: Words = words[is_key] ^ np.repeat(scopes, self.num_keys).astype(np.uint32)

    def __len__(self) -> int:
        return len(self.num_keys)

    def keys_of(self, place: int) -> Words:
        """All keys of one text, those to remember it by first."""
        start = self.starts[place]
        return self.keys[start : start + self.num_keys[place]]


class _Pending:
    """Texts that were added and are in no table yet, fewer than a block of them."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.texts: list[tuple[str, str]] = []
        self.keys: list[Words] = []
        self.hashes: dict[int, int] = {}
        self.num_chars: list[int] = []
        self.groups: list[bytes] = []
        self._with_key: dict[int, int | list[int]] = {}  # lists only where needed: they cost most of the time

    def add(self, batch: _Batch, place: int, id: str, text: str) -> None:
        """Remember a text of a batch."""
        number = self.first + len(self.texts)
        self.texts.append((id, text))
        keys = batch.keys_of(place)[: batch.num_remembered[place]].copy()
        self.keys.append(keys)
        self.hashes[int(batch.hashes[place])] = number
        self.num_chars.append(int(batch.num_chars[place]))
        self.groups.append(batch.groups[place].tobytes())
        with_key = self._with_key
        for key in keys[:_NUM_NEW_KEYS].tolist():
            known = with_key.setdefault(key, number)
            if known is number:
                continue
            if isinstance(known, int):
                with_key[key] = [known, number]
            elif len(known) < WAYS:
                known.append(number)

    def alike(self, batch: _Batch, place: int, threshold: float | None) -> list[int]:
        """The texts that have keys of a text and, where there is a threshold, may be near copies; most keys first."""
        shared = self._with_key.keys() & batch.keys_of(place).tolist() if self._with_key else ()
        if not shared:
            return []
        found: Counter[int] = Counter()
        for key in shared:
            numbers = self._with_key[key]
            found.update((numbers,) if isinstance(numbers, int) else numbers)
        if threshold is not None:
            own = int(batch.num_chars[place])
            near = []
            for number, num_shared in found.items():
                other = self.num_chars[number - self.first]
                is_likely = num_shared >= _FEWEST_SHARED or len(self.keys[number - self.first]) < _NUM_NEW_KEYS
                if is_likely and abs(own - other) <= int(max(own, other) * (1 - threshold) + _ROUNDING):
                    near.append(number)
            found = Counter({number: found[number] for number in self._with_like_bytes(near, batch, place, threshold)})
        return sorted(found, key=lambda number: (-found[number], number))[:_MOST_COMPARED]

    def _with_like_bytes(self, numbers: list[int], batch: _Batch, place: int, threshold: float) -> list[int]:
        """Those that have nearly the bytes of a text."""
        if not numbers:
            return []
        groups = b"".join([self.groups[number - self.first] for number in numbers])
        others = np.frombuffer(groups, np.uint8).reshape(len(numbers), -1)
        longest = max(self.num_chars[number - self.first] for number in numbers)
        num_edits = int(max(batch.num_chars[place], longest) * (1 - threshold) + _ROUNDING)
        surplus = np.maximum(batch.groups[place].astype(np.int16) - others, 0).sum(1)
        may_be = surplus <= num_edits * int(batch.num_bytes_a_char[place])
        return [number for number, is_near in zip(numbers, may_be.tolist(), strict=True) if is_near]


class SketchIndex:
    """Texts seen so far, each within a scope, like ``DuplicateIndex``; it may miss a few near copies.

    Texts that were announced by ``expect`` are looked up many at once, others one by one, which is slow.
    """

    def __init__(
        self,
        threshold: float | None,
        rouge_l: float | None = None,
        *,
        num_texts: int = _FIRST_LEVEL,
        num_keys: int = _NUM_KEYS,
    ) -> None:
        """``num_texts`` is how many there will be, if that is known; each is remembered by ``num_keys`` keys."""
        self._threshold, self._rouge_l = threshold, rouge_l
        # Alike words may differ in any number of letters.
        self._bound = threshold if rouge_l is None else None
        self._num_keys = num_keys
        self._level_size = max(num_texts, _BLOCK)
        self._levels: list[Level] = []
        self._file = tempfile.TemporaryFile(prefix="s3ray-texts-")  # noqa: SIM115 (closed with the index)
        weakref.finalize(self, self._file.close)
        self._pending = _Pending(0)
        self._batch = _Batch(())
        self._looked_up = range(0)
        self._copies: dict[int, int] = {}
        self._alike: dict[int, list[int]] = {}

    def expect(self, texts: Sequence[NewText]) -> None:
        """Announce the texts that will be asked for or added next, roughly in their order."""
        self._batch, self._looked_up = _Batch(texts), range(0)

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
        others = self._alike.get(place, []) + self._pending.alike(self._batch, place, self._bound)
        found = self._most_similar(text, sorted(others)) if others else None
        return None if found is None else (RejectionReason.NEAR_DUPLICATE, found)

    def add(self, id: str, text: str, scope: str = "") -> None:
        """As ``DuplicateIndex.add``.

        Raises:
            StoreError: the temporary file cannot be written.
        """
        place = self._place(text, scope)
        if self._copy(place) is not None:
            return
        self._pending.add(self._batch, place, id, text)
        if len(self._pending.texts) == _BLOCK:
            self.enter()

    def enter(self) -> None:
        """Enter what was added into the tables now, not when there is a block of it: no more will come for long.

        Raises:
            StoreError: the temporary file cannot be written.
        """
        pending, num = self._pending, len(self._pending.texts)
        if not num:
            return
        level = self._level_for(pending.first, num)
        texts = np.arange(num) + (pending.first - level.first)
        level.num_chars[texts] = pending.num_chars
        level.groups[texts] = np.frombuffer(b"".join(pending.groups), np.uint8).reshape(num, -1)
        level.add_hashes(np.array(list(pending.hashes), np.uint64), texts)
        counts = np.array([len(keys) for keys in pending.keys], np.int64)
        ranks = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        level.add_keys(np.concatenate(pending.keys), np.repeat(texts, counts), ranks)
        records = [f"{id}\0{text}".encode("utf-8", "surrogatepass") for id, text in pending.texts]
        level.places[texts + 1] = level.places[texts[0]] + np.cumsum([len(record) for record in records])
        self._write(b"".join(records))
        self._pending, self._looked_up = _Pending(pending.first + num), range(0)

    def _level_for(self, first: int, num: int) -> Level:
        if not self._levels or first + num > self._levels[-1].end:
            level = Level(first, max(self._level_size, first), self._num_keys)
            if self._levels:
                last = self._levels[-1]
                level.places[0] = last.places[first - last.first]
            self._levels.append(level)
        return self._levels[-1]

    # -- looking up ------------------------------------------------------------------------------------------------

    def _place(self, text: str, scope: str) -> int:
        """The place of a text in the batch, which is looked up."""
        place = self._batch.places.get((scope, text))
        if place is None:
            self.expect([NewText(text, scope)])
            place = 0
        if place not in self._looked_up:
            # No more than may be added before the tables change.
            num = _BLOCK - len(self._pending.texts)
            self._look_up(range(place, min(place + num, len(self._batch))))
        return place

    def _copy(self, place: int) -> int | None:
        """The exact copy of a text of the batch."""
        return self._pending.hashes.get(int(self._batch.hashes[place]), self._copies.get(place))

    def _look_up(self, places: range) -> None:
        """Find exact copies in the tables, and the texts to compare with."""
        batch = self._batch
        self._looked_up, self._copies, self._alike = places, {}, {}
        hashes = batch.hashes[places.start : places.stop]
        for level in self._levels:
            originals = level.with_hashes(hashes)
            for place in np.flatnonzero(originals >= 0).tolist():
                self._copies[places.start + place] = level.first + int(originals[place])
        if self._threshold is None and self._rouge_l is None:
            return
        start, end = batch.starts[places.start], batch.starts[places.stop - 1] + batch.num_keys[places.stop - 1]
        keys = batch.keys[start:end]
        whose = np.repeat(np.arange(places.start, places.stop), batch.num_keys[places.start : places.stop])
        pairs = [self._pairs(level, keys, whose) for level in self._levels]
        if pairs:
            self._alike = _most_alike(np.concatenate(pairs))

    def _pairs(self, level: Level, keys: Words, whose: Ints) -> Ints:
        """Texts of the batch and of a level that share a key and may be near copies: both places in one number."""
        found, others = level.with_keys(keys)
        texts = whose[found]
        if self._bound is not None:
            batch = self._batch
            own, other = batch.num_chars[texts], level.num_chars[others]
            num_edits = (np.maximum(own, other) * (1 - self._bound) + _ROUNDING).astype(np.int64)
            may_be = np.abs(own - other) <= num_edits
            texts, others, num_edits = texts[may_be], others[may_be], num_edits[may_be]
            # Bytes that only one of them has were put in by edits (bag distance).
            surplus = batch.groups[texts].astype(np.int16) - level.groups[others]
            may_be = np.maximum(surplus, 0).sum(1) <= num_edits * batch.num_bytes_a_char[texts]
            texts, others = texts[may_be], others[may_be]
        return (texts << 32) | (others + level.first)

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
        level = self._levels[bisect_right(self._levels, number, key=lambda level: level.first) - 1]
        start, end = level.places[number - level.first : number - level.first + 2].tolist()
        try:
            record = os.pread(self._file.fileno(), end - start, start)
        except OSError as error:
            raise _no_file(error) from error
        id, _, text = record.decode("utf-8", "surrogatepass").partition("\0")
        return id, text


def _most_alike(pairs: Ints) -> dict[int, list[int]]:
    """By text of the batch: the texts that share most keys with it."""
    pairs, counts = np.unique(pairs, return_counts=True)
    texts = pairs >> 32
    order = np.lexsort((pairs, -counts, texts))
    texts, others = texts[order], (pairs & 0xFFFFFFFF)[order]
    firsts = np.flatnonzero(np.diff(texts, prepend=-1))
    return {
        int(texts[first]): others[first : min(end, first + _MOST_COMPARED)].tolist()
        for first, end in zip(firsts, [*firsts[1:], len(texts)], strict=False)
    }


def _no_file(error: OSError) -> StoreError:
    return StoreError(
        f"the texts of the search for copies cannot be kept in {tempfile.gettempdir()}: {error.strerror or error}",
        "Make room there, or let TMPDIR name a folder that has some.",
    )
