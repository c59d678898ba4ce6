"""What does the search for copies cost the driver, what does it miss, and what does it call a copy that is none?

    python -m benchmarks.curation --rows 1000000

Rows of 15, 60 and 150 words go through the judge of a run with the default curation (a run of so many rows searches by
sketches) and gold of 1,000 rows, in chunks of 4,096 as from the pool, with the sketches that the actors make. Words are
drawn from 20,000 by Zipf's law, and a tenth of them come in 2,000 phrases of three to eight words, so that rows share
phrases as those of a model do. Each set of rows has a process of its own; there is one of the whole number and one of a
tenth of it.

``us_a_row`` is CPU time of the driver for judging, ``sketch_us_a_row`` that of the actors for sketches, ``bytes_a_row``
what the driver's memory has grown by at the end, and ``most_bytes_a_row`` at its worst moment after a tenth of the
rows. ``growth`` is ``us_a_row`` of all rows over that of a tenth.

Copies of rows of the set are then judged, edited to a given similarity, one half letter by letter at random places and
the other half word by word. ``recall`` is the share that is rejected of those with 0.95 and more, ``precision`` the
share of those with 0.95 and more among all rejected ones. ``curve`` has the shares by similarity.
"""

import argparse
import gc
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rapidfuzz.distance import Levenshtein

from benchmarks.provenance import keep_result
from s3ray.config.job import CurationConfig
from s3ray.curation.sketch import sketches
from s3ray.machine import collect_rarely
from s3ray.rounds.judge import ExampleJudge
from s3ray.tasks import load_task
from s3ray.text import normalise
from s3ray.types import Example, GenerationRequest, Origin, Outcome, OutcomeStatus, Rejection, Source

LENGTHS = (15, 60, 150)
CHUNK = 4096
NUM_GOLD = 1000
NUM_WORDS, NUM_PHRASES, PHRASE_SHARE = 20_000, 2_000, 0.02  # of all draws: a tenth of the words
NEAR = CurationConfig().near_duplicate or 1.0
SIMILARITIES = (0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)
_ROUNDING = 1e-6


class Writer:
    """Writes rows of a number of words, and near copies of them."""

    def __init__(self, num_words: int) -> None:
        draw = random.Random(0)
        letters = "etaoinshrdlucmfwypvbgkjqxz"
        weights = [1 / (rank + 2) for rank in range(len(letters))]
        words = ["".join(draw.choices(letters, weights, k=draw.randint(2, 9))) for _ in range(NUM_WORDS)]
        shares = 1 / (np.arange(NUM_WORDS) + 2.7)
        phrase_shares = 1 / (np.arange(NUM_PHRASES) + 2.7)
        self._words = words
        self._pieces = words + [
            " ".join(draw.choices(words, shares.tolist(), k=draw.randint(3, 8))) for _ in range(NUM_PHRASES)
        ]
        of_words, of_phrases = shares / shares.sum(), phrase_shares / phrase_shares.sum()
        self._limits = np.cumsum(np.concatenate([of_words * (1 - PHRASE_SHARE), of_phrases * PHRASE_SHARE]))
        self._num_words = num_words
        self._rng = np.random.default_rng(num_words)
        self._draw = random.Random(num_words)

    def rows(self, num: int) -> list[str]:
        """New rows."""
        drawn = np.searchsorted(self._limits, self._rng.random((num, self._num_words)) * self._limits[-1])
        texts = (" ".join([self._pieces[piece] for piece in row]) for row in drawn.tolist())
        return [" ".join(text.split(" ", self._num_words)[: self._num_words]) for text in texts]

    def near(self, text: str, similarity: float, *, by_words: bool) -> str:
        """A copy with as many edits as leave this similarity."""
        return self._by_words(text, similarity) if by_words else self._by_letters(text, similarity)

    def _by_letters(self, text: str, similarity: float) -> str:
        letters = list(text)
        for _ in range(int(len(text) * (1 - similarity) + _ROUNDING)):
            place = self._draw.randrange(len(letters))
            letters[place : place + self._draw.randint(0, 1)] = self._draw.choice(["", "q", "q"])
        return "".join(letters)

    def _by_words(self, text: str, similarity: float) -> str:
        edited, words = text, text.split(" ")
        while True:
            place = self._draw.randrange(len(words))
            put_in = [self._draw.choice(self._words)] * self._draw.randint(0, 2)
            words[place : place + self._draw.randint(0, 1)] = put_in[:1]
            if len(words) < 2 or Levenshtein.normalized_similarity(text, " ".join(words)) < similarity - _ROUNDING:
                return edited
            edited = " ".join(words)


class Driver:
    """The judge of a run, and what is measured of it."""

    def __init__(self, writer: Writer) -> None:
        self._task = load_task("review_sentences")
        origin = Origin(source=Source.GOLD)
        gold = [
            Example(id=f"gold-{n}", fields={"text": text}, origin=origin)
            for n, text in enumerate(writer.rows(NUM_GOLD))
        ]
        self._judge = ExampleJudge(self._task, gold, (), CurationConfig(), self._keep, sketches=True)
        self._num = 0
        self.driver_s = self.sketch_s = 0.0

    def _keep(self, example: Example) -> None:
        pass

    def judge(self, texts: list[str]) -> list[Rejection | None]:
        """Judge some texts as one chunk."""
        started = time.process_time()
        made = sketches(texts)
        self.sketch_s += time.process_time() - started
        pairs = [self._answer(text, sketch) for text, sketch in zip(texts, made, strict=True)]
        started = time.process_time()
        self._judge.expect(pairs)
        decided = [self._judge.judge(request, outcome) for request, outcome in pairs]
        self.driver_s += time.process_time() - started
        return decided

    def _answer(self, text: str, sketch: bytes) -> tuple[GenerationRequest, Outcome]:
        self._num += 1
        id = f"{self._num:032x}"
        request = GenerationRequest(
            id=id, index=self._num, stage="seed", round=0, template="seed", label="positive", group="", seed=self._num
        )
        return request, Outcome(
            request_id=id, index=self._num, status=OutcomeStatus.ACCEPTED, text=text, raw=text, sketch=sketch
        )


def measure(num_words: int, num_rows: int, num_planted: int) -> dict[str, Any]:
    """One set of rows, in this process."""
    writer = Writer(num_words)
    driver = Driver(writer)
    originals: list[str] = []
    driver.judge(writer.rows(64))  # what is loaded once
    gc.collect()
    before, most = psutil.Process().memory_info().rss, 0.0
    driver.driver_s = driver.sketch_s = 0.0
    rejected = done = grown = 0
    while done < num_rows:
        texts = writer.rows(min(CHUNK, num_rows - done))
        decided = driver.judge(texts)
        done += len(texts)
        rejected += sum(why is not None for why in decided)
        kept = [text for text, why in zip(texts, decided, strict=True) if why is None]
        originals += kept[:: max(1, num_rows // (2 * num_planted))]
        grown = psutil.Process().memory_info().rss - before
        if done >= num_rows // 10:
            most = max(most, grown / done)
    result = {
        "words": num_words,
        "rows": num_rows,
        "us_a_row": round(1e6 * driver.driver_s / num_rows, 2),
        "sketch_us_a_row": round(1e6 * driver.sketch_s / num_rows, 2),
        "bytes_a_row": round(grown / num_rows),
        "most_bytes_a_row": round(most),
        "rejected_as_written": rejected,
    }
    return result | find_planted(driver, writer, originals, num_planted)


def planted(writer: Writer, originals: list[str], num: int) -> Iterator[tuple[float, str]]:
    """Copies with their true similarities, which are those of the normalised texts."""
    for place in range(num):
        text = normalise(originals[place % len(originals)])
        similarity = SIMILARITIES[place // 2 % len(SIMILARITIES)]
        copy = normalise(writer.near(text, similarity, by_words=bool(place % 2)))
        yield Levenshtein.normalized_similarity(text, copy), copy


def find_planted(driver: Driver, writer: Writer, originals: list[str], num: int) -> dict[str, Any]:
    """Judge planted copies; the shares that are rejected, by similarity."""
    copies = [(similarity, copy) for similarity, copy in planted(writer, originals, num) if similarity < 1]
    decided = driver.judge([copy for _, copy in copies])
    asked: Counter[float] = Counter()
    found: Counter[float] = Counter()
    for (similarity, _), why in zip(copies, decided, strict=True):
        bin_ = max((least for least in SIMILARITIES if similarity >= least - _ROUNDING), default=0.0)
        asked[bin_] += 1
        found[bin_] += why is not None
    near = [bin_ for bin_ in asked if bin_ >= NEAR]
    num_near, num_found = sum(asked[bin_] for bin_ in near), sum(found[bin_] for bin_ in near)
    return {
        "planted": num_near,
        "recall": round(num_found / max(1, num_near), 5),
        "precision": round(num_found / max(1, found.total()), 5),
        "curve": {f"{bin_:.2f}": round(found[bin_] / asked[bin_], 4) for bin_ in sorted(asked)},
    }


def main() -> None:
    """Measure all lengths; print a table and the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--planted", type=int, default=16_000, help="copies of each set, of all similarities")
    parser.add_argument("--words", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/curation.json"))
    options = parser.parse_args()
    print(
        f"{'words':>5} {'rows':>8} {'us/row':>7} {'sketch':>7} {'bytes':>6} {'most':>6} {'recall':>8} {'precision':>9}"
    )
    points: list[dict[str, Any]] = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=collect_rarely, max_tasks_per_child=1) as processes:
        for num_words in options.words:
            for num_rows in (options.rows // 10, options.rows):
                point = processes.submit(measure, num_words, num_rows, options.planted).result()
                points.append(point)
                costs = f"{point['us_a_row']:7.1f} {point['sketch_us_a_row']:7.1f}"
                sizes = f"{point['bytes_a_row']:6d} {point['most_bytes_a_row']:6d}"
                quality = f"{point['recall']:8.5f} {point['precision']:9.5f}"
                print(f"{num_words:5d} {num_rows:8d} {costs} {sizes} {quality}", flush=True)
    keep_result(options.results, summary(points))


def summary(points: list[dict[str, Any]]) -> dict[str, Any]:
    """The keys that are compared: of the largest sets."""
    pairs = list(zip(points[::2], points[1::2], strict=True))
    return {
        "rows": pairs[0][1]["rows"],
        "us_a_row": {str(all_["words"]): all_["us_a_row"] for _, all_ in pairs},
        "growth": {str(all_["words"]): round(all_["us_a_row"] / tenth["us_a_row"], 3) for tenth, all_ in pairs},
        "bytes_a_row": max(all_["bytes_a_row"] for _, all_ in pairs),
        "most_bytes_a_row": max(all_["most_bytes_a_row"] for _, all_ in pairs),
        "recall": min(all_["recall"] for _, all_ in pairs),
        "precision": min(all_["precision"] for _, all_ in pairs),
        "points": points,
    }


if __name__ == "__main__":
    main()
