"""Why requests gave no example, in the words of who said so."""

import re
from collections import Counter

from s3ray.types import OutcomeStatus

_MOST_TEXTS = 1000
_MOST_LETTERS = 300


class Causes:
    """Counts why requests of a stage gave nothing: failures by their words, rejected texts by their reason."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[OutcomeStatus, str, str]] = Counter()
        self._examples: dict[tuple[OutcomeStatus, str, str], str] = {}

    def add(self, status: OutcomeStatus, reason: str, detail: str) -> None:
        """Count one; words that differ in their numbers alone count as the same."""
        is_failure = status is OutcomeStatus.FAILED
        key = (status, reason, re.sub(r"\d+", "#", detail) if is_failure else "")
        if key not in self._counts and len(self._counts) >= _MOST_TEXTS:
            key = (status, reason, "")
        self._counts[key] += 1
        self._examples.setdefault(key, detail)

    def join(self, other: "Causes") -> None:
        """Add what another stage counted."""
        self._counts.update(other._counts)
        self._examples = {**other._examples, **self._examples}

    def most_common(self, num: int = 3) -> tuple[str, ...]:
        """The most frequent ones in words, each with its count and an example of what was said."""
        found = []
        for key, count in self._counts.most_common(num):
            status, reason, _ = key
            said = self._examples[key]
            said = said if len(said) <= _MOST_LETTERS else f"{said[:_MOST_LETTERS]}..."
            how = "failed" if status is OutcomeStatus.FAILED else "rejected"
            example = "" if not said else f": {said}" if status is OutcomeStatus.FAILED else f" (one of them: {said})"
            found.append(f"{count} {how}, {reason}{example}")
        return tuple(found)

    @property
    def num_rejected(self) -> int:
        """Texts that were written and not kept."""
        return sum(count for (status, _, _), count in self._counts.items() if status is OutcomeStatus.REJECTED)
