"""The search by sketches finds what the exact one finds, whatever the batches, and keeps little in memory."""

import errno
import json
import random
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from rapidfuzz.distance import Levenshtein

from benchmarks.curation import measure
from s3ray.config.job import RunConfig
from s3ray.config.load import validate
from s3ray.curation import sketch_index
from s3ray.curation.duplicates import DuplicateIndex, NewText
from s3ray.curation.sketch import sketches, uses_sketches
from s3ray.curation.sketch_index import SketchIndex
from s3ray.curation.sketch_tables import Tables
from s3ray.errors import StoreError
from s3ray.tasks import load_task
from s3ray.text import normalise
from s3ray.types import RejectionReason

TEXT = "The battery of this phone lasts for two whole days and charges within the hour."
WORDS = ["".join(random.Random(n).choices("abcdefghijklmnopqrstuvwxyz", k=2 + n % 8)) for n in range(3000)]
Found = tuple[RejectionReason, str] | None


def rows(num: int, num_words: int, draw: random.Random) -> list[str]:
    return [" ".join(draw.choices(WORDS, k=num_words)) for _ in range(num)]


def changed(text: str, draw: random.Random, most: float = 0.05) -> str:
    """A copy with as many edits of single letters as similarity ``1 - most`` allows."""
    letters = list(text)
    for _ in range(int(len(text) * most)):
        place = draw.randrange(len(letters))
        letters[place : place + draw.randint(0, 1)] = draw.choice(["", "q", "q"])
    return "".join(letters)


def judged(index: DuplicateIndex | SketchIndex, texts: Sequence[NewText], sizes: Iterable[int]) -> list[Found]:
    """Look each text up and keep it if it is new, in batches of these sizes."""
    found: list[Found] = []
    for size in sizes:
        batch = texts[len(found) : len(found) + size]
        index.expect(batch)
        for new in batch:
            found.append(index.find(new.text, new.scope))
            if found[-1] is None:
                index.add(f"id {len(found)}", new.text, new.scope)
    return found


def with_copies(num: int, num_words: int, draw: random.Random) -> list[NewText]:
    """Texts, a third of which are near or exact copies of earlier ones."""
    texts = rows(num, num_words, draw)
    for place in range(1, num, 3):
        original = texts[draw.randrange(place)]
        texts[place] = original.upper() if place % 2 else changed(original, draw, 0.03)
    return [NewText(text) for text in texts]


@pytest.mark.parametrize("num_words", [2, 4, 8, 15, 60])
def test_what_is_found_is_what_the_exact_search_finds(num_words: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketch_index, "_BLOCK", 64)
    texts = with_copies(700, num_words, random.Random(num_words))
    exact = judged(DuplicateIndex(0.95), texts, [len(texts)])
    assert judged(SketchIndex(0.95, num_texts=128), texts, [len(texts)]) == exact
    monkeypatch.setattr(sketch_index, "_MOST_PAIRS", 20)
    assert judged(SketchIndex(0.95, num_texts=128), texts, [len(texts)]) == exact
    assert sum(found is not None for found in exact) > 150


def test_batches_decide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketch_index, "_BLOCK", 64)
    draw = random.Random(0)
    vocabulary = WORDS[:12]  # so that nearly all keys have more texts than there is room for
    plain = [" ".join(draw.choices(vocabulary, k=draw.randint(3, 30))) for _ in range(900)]
    texts = [NewText(text) for text in plain]
    sketched = [NewText(text, "", sketch) for text, sketch in zip(plain, sketches(plain), strict=True)]
    whole = judged(SketchIndex(0.9, num_texts=128), texts, [900])
    assert whole == judged(SketchIndex(0.9, num_texts=128), sketched, [7] * 129)
    assert whole == judged(SketchIndex(0.9, num_texts=128), sketched, [1, 400, 63, 64, 65, 307])
    alone = SketchIndex(0.9, num_texts=128)
    found: list[Found] = []
    for text in plain:
        found.append(alone.find(text))
        if found[-1] is None:
            alone.add(f"id {len(found)}", text)
    assert whole == found


@pytest.mark.parametrize("announced", ["abcb", "bac", "xbac"])
def test_a_text_is_compared_with_all_that_were_added_before_it_was_asked_for(announced: str) -> None:
    texts = {"a": f"{TEXT} {TEXT}", "x": "Nothing like it."}
    texts["b"] = texts["a"].replace("The battery of this phone", "Thq bqttqry qf thqs phqne", 1)
    texts["c"] = texts["b"].replace("two whole days", "ten whole dayz", 1)
    index = SketchIndex(0.95)
    index.expect([NewText(texts[name]) for name in announced])
    found: Found = None
    for name in {"abcb": "abcb", "bac": "acb", "xbac": "xacb"}[announced]:
        found = index.find(texts[name])
        if found is None:
            index.add(name, texts[name])
    assert found == (RejectionReason.NEAR_DUPLICATE, "c")


def test_tables_remember_what_they_did_when_they_grow() -> None:
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 1 << 32, 1024 * 12, dtype=np.uint32)
    keys[::3] &= np.uint32(0xFFFF0000)  # like empty entries
    keys[::50] = keys[0]  # of more texts than there is room for
    tables = Tables(1024, 512)
    texts = np.repeat(tables.make_room(1024), 12)
    tables.add_keys(keys, texts, np.arange(len(keys)) % 12)
    tables.add_hashes(np.arange(1, 1025, dtype=np.uint64), np.arange(1024))

    def known() -> set[tuple[int, int]]:
        places, others = tables.with_keys(np.sort(keys))
        return set(zip(np.sort(keys)[places].tolist(), others.tolist(), strict=True))

    before = known()
    assert before <= set(zip(keys.tolist(), texts.tolist(), strict=True))
    assert len(before) > 0.95 * len(set(keys.tolist()))
    tables.make_room(5000)
    assert known() == before
    assert tables.with_hashes(np.array([5000, 1024, 1], np.uint64)).tolist() == [-1, 1023, 0]


def test_a_sketch_depends_on_the_normalised_text_alone() -> None:
    texts = [*rows(300, 30, random.Random(2)), "", "?!", "Ünïcode 日本語のテキスト", TEXT]
    whole = sketches(texts)
    assert [sketches([text])[0] for text in texts] == whole
    assert sketches([f"  {text.upper()}... " for text in texts]) == whole


@pytest.mark.parametrize("num_words", [15, 60, 150])
def test_hardly_a_near_copy_is_missed_among_rows_like_real_ones(num_words: int) -> None:
    folder = load_task("review_sentences").data
    assert folder is not None
    lines = (folder / "train.jsonl").read_text("utf-8").splitlines()
    words = " ".join(json.loads(line)["text"] for line in lines).split()
    draw = random.Random(num_words)
    texts = [" ".join(words[place : place + num_words]) for place in range(0, len(words) - num_words, num_words)]
    index = SketchIndex(0.95)
    judged(index, [NewText(text) for text in texts], [len(texts)])
    copies = [(normalise(text), normalise(changed(normalise(text), draw))) for text in texts for _ in range(2)]
    index.expect([NewText(copy) for _, copy in copies])
    near = [copy for text, copy in copies if Levenshtein.normalized_similarity(text, copy) >= 0.95]
    assert len(near) > 0.5 * len(copies)
    assert sum(index.find(copy) is None for copy in near) <= 0.001 * len(near)


def test_texts_are_compared_within_one_scope_only() -> None:
    index = SketchIndex(0.9)
    index.add("a", TEXT, scope="first passage")
    for _ in range(2):
        assert index.find(TEXT, scope="second passage") is None
        assert index.find(TEXT.replace("two", "ten"), scope="second passage") is None
        assert index.find(TEXT.replace("two", "ten"), scope="first passage") == (RejectionReason.NEAR_DUPLICATE, "a")
        assert index.find(TEXT.upper(), scope="first passage") == (RejectionReason.DUPLICATE, "a")
        index.flush()


def test_without_a_threshold_only_exact_copies_count() -> None:
    index = SketchIndex(None)
    index.add("a", TEXT)
    assert index.find(TEXT.replace("two", "three")) is None
    assert index.find(TEXT.upper()) == (RejectionReason.DUPLICATE, "a")


def test_rouge_l_finds_copies_with_words_of_any_length_exchanged() -> None:
    index = SketchIndex(0.95, rouge_l=0.9)
    index.add("a", "The waiter, who smiled, brought the soup; then he brought the bill!")
    index.flush()
    near = "the waiter who smiled brought the soup then he brought the incomprehensibilities"
    assert index.find(near) == (RejectionReason.NEAR_DUPLICATE, "a")


def test_rouge_l_compares_characters_where_a_script_has_no_blanks() -> None:
    index = SketchIndex(None, rouge_l=0.8)
    index.add("a", "这家店的面条又冷又硬服务员也不理人")
    index.flush()
    assert index.find("这家店的面条又冷又硬,服务员都不理人") == (RejectionReason.NEAR_DUPLICATE, "a")


def test_a_full_disk_is_named() -> None:
    class Full:
        def write(self, content: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    index = SketchIndex(0.95)
    index.add("a", TEXT)
    index._file = Full()  # type: ignore[assignment]
    with pytest.raises(StoreError, match=r"cannot be kept in .*: No space left on device"):
        index.flush()


@pytest.mark.parametrize(
    ("curation", "strategy", "expected"),
    [
        ({}, {"seed_examples": 20_000}, False),
        ({}, {"seed_examples": 20_001}, True),
        ({}, {"seed_examples": 100, "rows": 1_000_000}, True),
        ({"near_duplicate": 0.8}, {"seed_examples": 1_000_000}, False),
        ({"near_duplicate": None}, {"seed_examples": 1_000_000}, True),
        ({"search": "exact"}, {"seed_examples": 1_000_000}, False),
        ({"search": "sketch"}, {"seed_examples": 10}, True),
    ],
)
def test_auto_follows_from_the_number_of_rows_that_are_planned(
    curation: dict[str, object], strategy: dict[str, object], expected: bool
) -> None:
    job = {"name": "run", "task": "imdb", "curation": curation, "strategy": strategy, "generator": {"engine": "fake"}}
    assert uses_sketches(validate(RunConfig, job)) is expected


def test_its_benchmark_plants_copies_that_are_found_and_others_that_pass() -> None:
    point = measure(num_words=15, num_rows=1200, num_planted=320)
    assert (point["recall"], point["precision"]) == (1.0, 1.0)
    assert {name: share for name, share in point["curve"].items() if float(name) < 0.95} == dict.fromkeys(
        ("0.90", "0.92", "0.94"), 0.0
    )
