"""The given fields of another row that are most like one's own, by the words in them, before there is any student.

For a label that says that a text does *not* go with its context, a text that goes with a similar context is an example
by construction, and a hard one: negatives mined so train retrievers on written questions (Promptagator, arXiv
2209.11755). A generator that is too weak to miss a context on purpose can still write to the point of another.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from s3ray.curation.clean import normalise
from s3ray.strategies.base import RoundContext

_MOST = 10_000
"""Contexts to choose from, a random sample where there are more: every question is compared with all of them."""


class Neighbours:
    """Finds, for given fields, the most similar other ones among a round's contexts (cosine of TF-IDF vectors)."""

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
        """The context most like ``fields``; empty where there is no other one."""
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
    """The words; where there are none, the text as it is."""
    text = "\n".join(fields.values())
    return normalise(text) or text
