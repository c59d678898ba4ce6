"""The tables of a ``SketchIndex``: which of many texts have a key, and which one has a hash.

They are arrays of a fixed size, filled in the order of the texts.
"""

import numpy as np
import numpy.typing as npt

from s3ray.curation.sketch import NUM_GROUPS, Words

Ints = npt.NDArray[np.int64]
Longs = npt.NDArray[np.uint64]

WAYS = 8
"""Entries of a bucket, so also how many texts are remembered by one key: what more of them share tells little, and
later ones are remembered by other keys."""
_FILL = 0.85  # of the entries, if every text finds room for all its keys


class Level:
    """What is known of a number of texts that follow each other. Texts are numbered within the level.

    The first table has buckets of eight entries: 16 bits of a key, and the text that has it. The second one is a hash
    table with linear probing from the hashes of whole texts to these texts.
    """

    def __init__(self, first: int, num_texts: int, num_keys: int) -> None:
        """``first`` is the number of texts in all levels before; each text is remembered by ``num_keys`` keys."""
        self.first, self.end = first, first + num_texts
        self.num_chars = np.zeros(num_texts, np.int32)
        self.groups = np.zeros((num_texts, NUM_GROUPS), np.uint8)
        self.places = np.zeros(num_texts + 1, np.int64)
        self._num_buckets = round(num_texts * num_keys / WAYS / _FILL)
        self._num_keys = num_keys
        self._tags = np.zeros((self._num_buckets, WAYS), np.uint16)
        self._owners = np.zeros((self._num_buckets, WAYS), np.uint32)
        self._used = np.zeros(self._num_buckets, np.uint8)
        num_slots = 1 << (2 * num_texts - 1).bit_length()
        self._hashes = np.zeros(num_slots, np.uint64)  # 0: an empty slot
        self._named = np.zeros(num_slots, np.uint32)

    def with_keys(self, keys: Words) -> tuple[Ints, Ints]:
        """Pairs of a place among ``keys`` and a text that is remembered by the key there."""
        buckets, tags = self._buckets(keys)
        is_same = np.take(self._tags.view(np.uint64), buckets, axis=0).view(np.uint16) == tags[:, None]
        found = np.flatnonzero(is_same)
        places = found // WAYS
        owners = np.take(self._owners.ravel(), buckets[places] * WAYS + found % WAYS)
        return places, owners.astype(np.int64)

    def with_hashes(self, hashes: Longs) -> Ints:
        """The text with each hash, or -1."""
        found = np.full(len(hashes), -1, np.int64)
        left, slots = np.arange(len(hashes)), self._slots(hashes)
        while len(left):
            held = self._hashes[slots]
            is_same = held == hashes[left]
            found[left[is_same]] = self._named[slots[is_same]]
            goes_on = ~is_same & (held != 0)
            left, slots = left[goes_on], (slots[goes_on] + 1) % len(self._hashes)
        return found

    def add_hashes(self, hashes: Longs, texts: Ints) -> None:
        """Enter hashes of which none is known."""
        slots = self._slots(hashes)
        while len(hashes):
            free = np.flatnonzero(self._hashes[slots] == 0)
            _, firsts = np.unique(slots[free], return_index=True)
            chosen = free[firsts]
            self._hashes[slots[chosen]], self._named[slots[chosen]] = hashes[chosen], texts[chosen]
            left = np.ones(len(hashes), bool)
            left[chosen] = False
            hashes, texts, slots = hashes[left], texts[left], (slots[left] + 1) % len(self._hashes)

    def add_keys(self, keys: Words, texts: Ints, ranks: Ints) -> None:
        """Remember each text by its first keys whose buckets have room; ``ranks`` number the keys of a text."""
        num_entered = np.zeros(int(texts.max(initial=0)) + 1, np.int64)
        buckets, tags = self._buckets(keys)
        by_rank = np.argsort(ranks, kind="stable")
        for chosen in np.split(by_rank, np.cumsum(np.bincount(ranks))[:-1]):
            is_open = (num_entered[texts[chosen]] < self._num_keys) & (self._used[buckets[chosen]] < WAYS)
            chosen = chosen[is_open]
            _, firsts = np.unique(buckets[chosen], return_index=True)
            chosen = chosen[firsts]
            bucket = buckets[chosen]
            way = self._used[bucket]
            self._tags[bucket, way], self._owners[bucket, way] = tags[chosen], texts[chosen]
            self._used[bucket] = way + 1
            num_entered[texts[chosen]] += 1

    def _buckets(self, keys: Words) -> tuple[Ints, npt.NDArray[np.uint16]]:
        """Where keys are, and how they are marked there: never by 0, which marks an empty entry."""
        buckets = keys.astype(np.uint64) * np.uint64(self._num_buckets) >> np.uint64(32)
        return buckets.astype(np.int64), keys.astype(np.uint16) | np.uint16(1)

    def _slots(self, hashes: Longs) -> Ints:
        return (hashes & np.uint64(len(self._hashes) - 1)).astype(np.int64)
