"""The field's own metrics, pure: accuracy, macro-F1, and SQuAD's exact match and F1. All values lie in [0, 1]."""

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def accuracy(truth: Sequence[str], predicted: Sequence[str]) -> float:
    """Share of equal labels."""
    return sum(a == b for a, b in zip(truth, predicted, strict=True)) / len(truth)


def macro_f1(truth: Sequence[str], predicted: Sequence[str]) -> float:
    """Mean over labels of F1 per label; labels that occur on neither side do not count (as in scikit-learn)."""
    labels = sorted({*truth, *predicted})
    hits = Counter(a for a, b in zip(truth, predicted, strict=True) if a == b)
    in_truth, in_predicted = Counter(truth), Counter(predicted)
    return sum(2 * hits[name] / (in_truth[name] + in_predicted[name]) for name in labels) / len(labels)


def normalise_answer(text: str) -> str:
    """As in the official SQuAD 1.1 script: lower case, then without punctuation, articles and extra white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(references: Sequence[str], predicted: str) -> float:
    """1 if the prediction equals any reference after normalisation, else 0."""
    return float(normalise_answer(predicted) in {normalise_answer(reference) for reference in references})


def token_f1(references: Sequence[str], predicted: str) -> float:
    """Largest F1 over references, on bags of normalised words; 0 where no word is shared (official SQuAD 1.1)."""
    return max(_pair_f1(reference, predicted) for reference in references)


def _pair_f1(reference: str, predicted: str) -> float:
    reference_words = normalise_answer(reference).split()
    predicted_words = normalise_answer(predicted).split()
    num_shared = sum((Counter(reference_words) & Counter(predicted_words)).values())
    return 2 * num_shared / (len(reference_words) + len(predicted_words)) if num_shared else 0.0
