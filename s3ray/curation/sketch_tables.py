"""The tables of a ``SketchIndex``: which of many texts have a key, and which one has a hash.

They are arrays, filled in the order of the texts, that double when they are full.
"""

import numpy as np
import numpy.typing as npt

from s3ray.curation.sketch import NUM_GROUPS, Words

Ints = npt.NDArray[np.int64]
Longs = npt.NDArray[np.uint64]

WAYS = 8
"""Entries of a bucket, so also how many texts are remembered by one key: what more of them share tells little, and
later ones are remembered by other keys."""
_TAG_BITS = 16
_KEY_BITS = 32
_AT_ONCE = 1 << 14  # buckets that are split at once


class Tables:
    """What is known of all texts so far, which are numbered in their order.

    The first table has buckets of eight entries: the lower half of a key, and the text that has it. The upper bits of
    the key say which bucket, at least 16 of them, so that an entry holds the whole key. The second one is a hash table
    with linear probing from the hashes of whole texts to these texts.
    """

    def __init__(self, num_texts: int, num_keys: int) -> None:
        """There is room for ``num_texts`` at first; each is remembered by ``num_keys`` keys."""
        capacity = 1 << (num_texts - 1).bit_length()
        num_buckets = max(1 << _TAG_BITS, 1 << (capacity * num_keys // WAYS - 1).bit_length())
        self.num_texts = 0
        self.num_chars = np.zeros(capacity, np.int32)
        self.groups = np.zeros((capacity, NUM_GROUPS), np.uint8)
        self.places = np.zeros(capacity + 1, np.int64)
        self._num_keys = num_keys
        self._tags = np.zeros((num_buckets, WAYS), np.uint16)
        self._owners = np.zeros((num_buckets, WAYS), np.uint32)
        self._used = np.zeros(num_buckets, np.uint8)
        self._hashes = np.zeros(2 * capacity, np.uint64)  # 0: an empty slot
        self._named = np.zeros(2 * capacity, np.uint32)

    def make_room(self, num: int) -> Ints:
        """The numbers of as many further texts, for which there is room from now on."""
        texts = np.arange(self.num_texts, self.num_texts + num)
        self.num_texts += num
        while self.num_texts > len(self.num_chars):
            self._double()
        return texts

    def with_keys(self, keys: Words) -> tuple[Ints, Ints]:
        """Pairs of a place among ``keys`` and a text that is remembered by the key there."""
        buckets, tags = self._buckets(keys)
        is_same = np.take(self._tags.view(np.uint64), buckets, axis=0).view(np.uint16) == tags[:, None]
        found = np.flatnonzero(is_same)
        places, ways = found // WAYS, found % WAYS
        is_used = ways < self._used[buckets[places]]  # an empty entry looks like the key 0
        places, ways = places[is_used], ways[is_used]
        return places, np.take(self._owners.ravel(), buckets[places] * WAYS + ways).astype(np.int64)

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

    def add_hashes(self, hashes: Longs, texts: npt.NDArray[np.integer]) -> None:
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
        first = int(texts.min(initial=self.num_texts))
        num_entered = np.zeros(self.num_texts - first, np.int64)
        buckets, tags = self._buckets(keys)
        by_rank = np.argsort(ranks, kind="stable")
        for chosen in np.split(by_rank, np.cumsum(np.bincount(ranks))[:-1]):
            is_open = (num_entered[texts[chosen] - first] < self._num_keys) & (self._used[buckets[chosen]] < WAYS)
            chosen = chosen[is_open]
            _, firsts = np.unique(buckets[chosen], return_index=True)
            chosen = chosen[firsts]
            bucket = buckets[chosen]
            way = self._used[bucket]
            self._tags[bucket, way], self._owners[bucket, way] = tags[chosen], texts[chosen]
            self._used[bucket] = way + 1
            num_entered[texts[chosen] - first] += 1

    def _double(self) -> None:
        capacity = len(self.num_chars)
        self.num_chars = np.concatenate([self.num_chars, np.zeros_like(self.num_chars)])
        self.groups = np.concatenate([self.groups, np.zeros_like(self.groups)])
        self.places = np.concatenate([self.places, np.zeros(capacity, np.int64)])
        if 2 * capacity * self._num_keys > self._tags.size:
            self._split_buckets()
        is_used = self._hashes != 0
        hashes, named = self._hashes[is_used], self._named[is_used]
        self._hashes, self._named = np.zeros(4 * capacity, np.uint64), np.zeros(4 * capacity, np.uint32)
        self.add_hashes(hashes, named)

    def _split_buckets(self) -> None:
        """Put the entries of each bucket into two, by the next bit of their keys."""
        num_buckets = len(self._used)
        bit = np.uint16(self._shift() - 1)
        tags, owners = np.zeros((2 * num_buckets, WAYS), np.uint16), np.zeros((2 * num_buckets, WAYS), np.uint32)
        used = np.zeros(2 * num_buckets, np.uint8)
        for start in range(0, num_buckets, _AT_ONCE):
            old = slice(start, start + _AT_ONCE)
            is_used = np.arange(WAYS) < self._used[old, None]
            sides = (self._tags[old] >> bit) & np.uint16(1)
            for side in (0, 1):
                is_there = is_used & (sides == side)
                rows, ways = np.nonzero(is_there)
                buckets, new_ways = 2 * (start + rows) + side, (np.cumsum(is_there, 1) - 1)[rows, ways]
                tags[buckets, new_ways] = self._tags[start + rows, ways]
                owners[buckets, new_ways] = self._owners[start + rows, ways]
                used[2 * start + side : 2 * (start + len(is_there)) : 2] = is_there.sum(1)
        self._tags, self._owners, self._used = tags, owners, used

    def _shift(self) -> int:
        return _KEY_BITS + 1 - len(self._used).bit_length()

    def _buckets(self, keys: Words) -> tuple[Ints, npt.NDArray[np.uint16]]:
        """Where keys are, and how they are marked there."""
        return (keys >> np.uint32(self._shift())).astype(np.int64), keys.astype(np.uint16)

    def _slots(self, hashes: Longs) -> Ints:
        return (hashes & np.uint64(len(self._hashes) - 1)).astype(np.int64)
