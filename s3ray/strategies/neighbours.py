"""Finds the given fields of another row that are most similar to those of a row, by their words; needs no student.

Some labels say that a text does *not* fit its context. A text that fits a similar context is then an example by
construction, and a hard one. Negatives mined like this train retrievers on synthetic questions (Promptagator, arXiv
2209.11755). A generator too weak to miss its own context on purpose can still write a text that fits another one.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from s3ray.strategies.base import RoundContext
from s3ray.text import normalise

_MOST = 10_000
"""The most contexts to choose from (a random sample of more), since every query is compared with all of them."""


class Neighbours:
    """Finds the context of a round that is most similar to given fields (cosine of TF-IDF vectors)."""

    def __init__(self, context: RoundContext) -> None:
        distinct = {_normalised(one.fields): one.fields for one in context.contexts}
        names = sorted(distinct)
        if len(names) > _MOST:
            names = context.generator("neighbours").sample(names, _MOST)
        self._names = names
        self._fields = [distinct[name] for name in names]
        self._places = {name: place for place, name in enumerate(names)}
        self._known: dict[str, Mapping[str, str]] = {}

    def of(self, fields: Mapping[str, str]) -> Mapping[str, str]:
        """The context most similar to ``fields``, never ``fields`` itself; empty if there is no other."""
        name = _normalised(fields)
        if name not in self._known:
            self._known[name] = self._find(name)
        return self._known[name]

    def _find(self, name: str) -> Mapping[str, str]:
        if self._names in ([], [name]):
            return {}
        vectorizer, vectors = self._index
        likeness = (vectors @ vectorizer.transform([name]).T).toarray()[:, 0]
        if name in self._places:
            likeness[self._places[name]] = -1
        return self._fields[int(likeness.argmax())]

    @cached_property
    def _index(self) -> tuple[Any, Any]:
        """The vectorizer, and the vectors of all contexts."""
        from sklearn.feature_extraction.text import TfidfVectorizer  # slow to import, and few strategies ask for it

        vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\S+")
        return vectorizer, vectorizer.fit_transform(self._names)


def _normalised(fields: Mapping[str, str]) -> str:
    """The normalised words of all fields; the text itself if it has no words."""
    text = "\n".join(fields.values())
    return normalise(text) or text
