"""S3 with ideas of later work, each a switch of ``strategy.plus``. With all of them off it makes S3's requests.

- contrast: prompts show the wrong answer (LLM2LLM, arXiv 2403.15042), and the gold row most similar to the mistake that
  really has the label which the student gave. Together they show the border between the labels.
- skip_persistent: rows that student after student gets wrong are often mislabelled. In the paper's released RTE files
  69 % of the premises of the second round had been wrong in the first.
- coverage: mistakes alone overstate rare patterns, so a share of the rows is written from gold rows that the student
  got right without being sure (CondenseLM, ACL 2025.emnlp-main.65). These are *imitated*, not extrapolated, and counted
  separately.
- clusters: the pattern of a group of mistakes, in words (PaDA-Agent, arXiv 2510.18143).
- near: prompts get the context most similar to their own, from the seed set on (``neighbours``).
- variants and balance are our own ideas.

A round has as many rows as S3's would have, whatever its parents are. The choice of parents is computed from the
student's probes of gold, so equal probes give equal parents.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from s3ray.config.job import PlusConfig
from s3ray.strategies.base import ANY, NoteStage, RoundContext, StagePlan
from s3ray.strategies.neighbours import Neighbours
from s3ray.strategies.probes import Probes
from s3ray.strategies.requests import Parent, rewrite_plan
from s3ray.strategies.s3 import S3
from s3ray.strategies.seed import SeedSet, pattern_stage
from s3ray.types import Example, Mistake

Matrix = npt.NDArray[np.float64]

_AT_ONCE = 1024
_LEAST_WEIGHT = 1e-6


def unit_rows(features: npt.NDArray[np.floating[Any]]) -> Matrix:
    """Rows of length 1, so that inner products are cosines; a row of zeros stays one."""
    rows = features.astype(np.float64)
    lengths: Matrix = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)


def persistent(mistaken: Set[str], history: Sequence[Set[str]], num: int) -> Set[str]:
    """The rows that the last ``num`` students all got wrong.

    ``mistaken`` has the mistakes of the last student, ``history`` those of the students before it, oldest first.
    """
    before = history[len(history) - (num - 1) :] if len(history) >= num - 1 else [frozenset[str]()]
    return set(mistaken).intersection(*before)


def nearest(queries: Matrix, candidates: Matrix) -> list[int]:
    """For each query the position of the candidate with the largest cosine; rows of both have length 1."""
    found: list[int] = []
    for first in range(0, len(queries), _AT_ONCE):
        found += np.argmax(queries[first : first + _AT_ONCE] @ candidates.T, axis=1).tolist()
    return found


def moderately_hard(target_probability: Iterable[float]) -> Matrix:
    """Weights in (0, 1]: 1 where the truth has a probability of 0.5, near 0 where the student is sure, even wrongly."""
    return np.array([max(_LEAST_WEIGHT, 1 - abs(2 * p - 1)) for p in target_probability], dtype=np.float64)


def representatives(features: Matrix, weights: Matrix, num: int) -> list[int]:
    """The positions of ``num`` rows that cover all of them, hard ones above all: a greedy, weighted K-centre.

    The first row has the largest product of its weight and its cosine (plus 1) with the weighted mean, each further one
    the largest product of its weight and its cosine distance to the rows chosen so far. Shapes: ``features`` (rows,
    width) of length 1, ``weights`` (rows). Coverage of moderately hard rows is from CondenseLM (ACL
    2025.emnlp-main.65); the weighting is ours.
    """
    if not len(features) or num <= 0:
        return []
    mean = unit_rows((weights @ features)[None])[0]
    chosen = [int(np.argmax(weights * (1 + features @ mean)))]
    distances = 1 - features @ features[chosen[0]]
    while len(chosen) < min(num, len(features)):
        gains = weights * np.maximum(distances, 0)
        gains[chosen] = -1
        chosen.append(int(np.argmax(gains)))
        distances = np.minimum(distances, 1 - features @ features[chosen[-1]])
    return chosen


def clusters(features: Matrix, num: int, seed: int) -> list[list[int]]:
    """The positions of similar rows in at most ``num`` k-means groups, each sorted by distance from its centre."""
    from sklearn.cluster import KMeans  # takes longer to import than all else here, and few strategies ask for it

    num = min(num, len(np.unique(features, axis=0)))
    if not num:
        return []
    model = KMeans(n_clusters=num, n_init=4, random_state=seed).fit(features)
    distances = np.linalg.norm(features - model.cluster_centers_[model.labels_], axis=1)
    order = np.argsort(distances, kind="stable")
    groups = [[int(place) for place in order if model.labels_[place] == number] for number in range(num)]
    return sorted((group for group in groups if group), key=min)


def balanced(have: Mapping[str, int], num: int) -> dict[str, int]:
    """Share ``num`` new rows over the labels so that the numbers of rows become as equal as possible."""
    total = dict(have)
    for _ in range(num if have else 0):
        total[min(total, key=lambda label: total[label])] += 1
    return {label: total[label] - have[label] for label in have}


_MAX_MEMBERS = 6
"""The most mistakes of a cluster that the prompt for its pattern shows."""
_OFF = PlusConfig(contrast=False, skip_persistent=None, coverage=0.0, variants=1, balance=False, clusters=0, near=False)


class S3Plus(S3):
    """S3 whose later rounds choose their parents, and say more about them in prompts."""

    @property
    def _plus(self) -> PlusConfig:
        return self.config.plus

    @property
    def _seeds(self) -> SeedSet:
        return replace(super()._seeds, has_near=self._plus.near)

    @property
    def probes(self) -> tuple[str, ...]:
        """Gold, if any switch that is on needs its features."""
        plus = self._plus
        return ("gold",) if plus.contrast or plus.coverage or plus.clusters else ()

    @property
    def reads_rows(self) -> bool:
        """True with ``balance``: quotas then depend on the number of rows of each label."""
        return self._plus.balance

    def in_words(self) -> str:
        """S3's line, and the switches that are on."""
        on = {name: value for name, value in self._plus.model_dump().items() if value != getattr(_OFF, name)}
        return f"{super().in_words()}; plus {', '.join(f'{name} {value}' for name, value in on.items()) or 'nothing'}"

    def note_stages(self, context: RoundContext) -> Iterator[NoteStage]:
        """S3's, then in later rounds the patterns of mistakes."""
        yield from super().note_stages(context)
        if context.round and self._plus.clusters and "patterns" in context.prompts:
            groups = self._clusters(context, self._mistakes(context))
            if groups:
                members = {key: [m.example for m in group[:_MAX_MEMBERS]] for key, group in groups.items()}
                yield pattern_stage(context, members)

    def example_stages(self, context: RoundContext) -> Iterator[StagePlan]:
        """S3's; in later rounds mistakes are extrapolated, then representative gold rows imitated."""
        if context.round == 0 or self._plus == _OFF:
            yield from super().example_stages(context)
            return
        mistakes = self._mistakes(context)
        extrapolated = self._from_mistakes(context, mistakes)
        doubtful = _right(context) if self._plus.coverage else []
        num = self.num_rows(context.round, len(context.mistakes.all()))
        quotas = self._quotas(context, num, [parent.example for parent in extrapolated], doubtful)
        imitated = self._covering(context, doubtful, quotas["imitate"])
        near = Neighbours(context).of if self._plus.near and context.contexts else None
        for stage, parents in (("extrapolate", extrapolated), ("imitate", imitated)):
            if near is not None:
                parents = [replace(parent, near=near(_given(context, parent.example))) for parent in parents]
            if stage == "extrapolate" or self._plus.coverage:
                candidates, variants = self.config.candidates_per_row, self._plus.variants
                yield rewrite_plan(context, stage, parents, quotas[stage], candidates, variants)

    # -- parents ---------------------------------------------------------------------------------------------------

    def _mistakes(self, context: RoundContext) -> list[Mistake]:
        """The mistakes to extrapolate, in the order of gold."""
        mistakes = context.mistakes.all()
        if self._plus.skip_persistent is None:
            return mistakes
        mistaken = {mistake.example.id for mistake in mistakes}
        passed_over = persistent(mistaken, context.history(), self._plus.skip_persistent)
        return [mistake for mistake in mistakes if mistake.example.id not in passed_over]

    def _from_mistakes(self, context: RoundContext, mistakes: Sequence[Mistake]) -> list[Parent]:
        patterns = {
            mistake.example.id: "; ".join(context.notes.get("patterns", {}).get(key, ()))
            for key, group in (self._clusters(context, mistakes) if context.notes.get("patterns") else {}).items()
            for mistake in group
        }
        contrasts = self._contrasts(context, mistakes) if self._plus.contrast else {}
        return [
            Parent(
                example=mistake.example,
                predicted=mistake.predicted if self._plus.contrast else None,
                pattern=patterns.get(mistake.example.id, ""),
                shown=contrasts.get(mistake.example.id, ()),
            )
            for mistake in mistakes
        ]

    def _contrasts(self, context: RoundContext, mistakes: Sequence[Mistake]) -> dict[str, tuple[Example, ...]]:
        """For each mistake the most similar row that really has the label which the student gave, and got it."""
        probes, right = context.probes("gold"), _right(context)
        found: dict[str, tuple[Example, ...]] = {}
        for label in context.task.labels:
            taken = [mistake.example for mistake in mistakes if mistake.predicted == label]
            rows = [row for row in right if row.label == label]
            if taken and rows:
                places = nearest(_features(probes, taken), _features(probes, rows))
                found |= {row.id: (rows[place],) for row, place in zip(taken, places, strict=True)}
        return found

    def _clusters(self, context: RoundContext, mistakes: Sequence[Mistake]) -> dict[str, list[Mistake]]:
        """Mistakes by the number of their cluster, the most typical first."""
        if not mistakes:
            return {}
        features = _features(context.probes("gold"), [mistake.example for mistake in mistakes])
        groups = clusters(features, self._plus.clusters, context.generator("clusters").randrange(2**31))
        return {str(number): [mistakes[place] for place in group] for number, group in enumerate(groups)}

    def _covering(self, context: RoundContext, rows: Sequence[Example], quota: Mapping[str, int]) -> list[Parent]:
        """The parents for each label's quota, chosen to cover the rows of that label."""
        chosen: list[Example] = []
        for label, num in quota.items():
            group = [row for row in rows if label in (ANY, row.label)]
            if group and num:
                probes = context.probes("gold")
                weights = moderately_hard(probes.target_probability[probes.places(group)])
                num_parents = -(-num // self._plus.variants)
                chosen += [group[place] for place in representatives(_features(probes, group), weights, num_parents)]
        return [Parent(example=row) for row in chosen]

    # -- how many --------------------------------------------------------------------------------------------------

    def _quotas(
        self, context: RoundContext, num: int, mistakes: Sequence[Example], doubtful: Sequence[Example]
    ) -> dict[str, dict[str, int]]:
        """Rows of each stage by label (``ANY`` without balance); a label without parents in one uses the other."""
        if self._plus.balance and context.task.labels:
            have = Counter(row.label for row in context.synthetic())
            open_ = {row.label for row in (*mistakes, *doubtful)}
            by_label = balanced({label: have[label] for label in context.task.labels if label in open_}, num)
        else:
            by_label = {ANY: num}
        quotas: dict[str, dict[str, int]] = {"extrapolate": {}, "imitate": {}}
        for label, rows in by_label.items():
            has_mistakes, has_doubtful = (
                any(label in (ANY, row.label) for row in group) for group in (mistakes, doubtful)
            )
            share = round(rows * self._plus.coverage) if has_doubtful else 0
            share = share if has_mistakes or not has_doubtful else rows
            quotas["imitate"][label] = share
            quotas["extrapolate"][label] = rows - share
        return quotas


def _features(probes: Probes, rows: Sequence[Example]) -> Matrix:
    """The student's features of these rows, shape (rows, width), each row of length 1."""
    return unit_rows(probes.features[probes.places(rows)])


def _given(context: RoundContext, row: Example) -> dict[str, str]:
    return {name: row.fields[name] for name in context.task.context_fields}


def _right(context: RoundContext) -> list[Example]:
    """The gold rows that the last student got right."""
    mistaken = {mistake.example.id for mistake in context.mistakes.all()}
    return [row for row in context.gold if row.id not in mistaken]
