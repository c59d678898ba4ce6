"""The probability of each of several choices as an answer; choices are distinguished by their first token."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from s3ray.errors import RequestRefusedError


def first_tokens(
    encode: Callable[[str], Sequence[int]], before: str, choices: Sequence[str]
) -> tuple[tuple[int, ...], ...]:
    """The tokens with which each choice can begin right after the text ``before``.

    They are the first token of the choice as written, and of the choice with its first letter in the other case (chat
    models like to write "Yes"), unless another choice has that token too. ``encode`` adds no special tokens.

    Raises:
        RequestRefusedError: two choices begin with the same token, or a choice merges with the end of ``before``.
    """
    given = list(encode(before))

    def first(choice: str) -> int | None:
        token_ids = list(encode(before + choice))
        apart = len(token_ids) > len(given) and token_ids[: len(given)] == given
        return token_ids[len(given)] if apart else None

    written = [first(choice) for choice in choices]
    for choice, token in zip(choices, written, strict=True):
        if token is None:
            hint = "let the prompt `verify` end without a space, best inside an opened quotation mark"
            raise RequestRefusedError(f"{choice!r} merges with the end of the prompt, {before[-12:]!r}: {hint}")
        alike = [other for other, begin in zip(choices, written, strict=True) if begin == token]
        if len(alike) > 1:
            names = " and ".join(map(repr, alike))
            raise RequestRefusedError(f"{names} begin with the same token: give these labels other words in `says`")
    others = [first(choice[:1].swapcase() + choice[1:]) for choice in choices]
    num = Counter([*written, *others])
    return tuple(
        (token, other) if other is not None and num[other] == 1 else (token,)
        for token, other in zip(written, others, strict=True)
        if token is not None
    )


def shares(weights: Sequence[float]) -> tuple[float, ...]:
    """Weights as probabilities that sum to 1; nothing if all of them are 0."""
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights) if total else ()


def likeliest_tokens(logprobs: Any) -> list[tuple[str, float]]:
    """The likeliest first tokens in the ``logprobs`` of an answer in OpenAI's protocol, as (text, log probability).

    The chat interface sends them in another form than that for completions. Empty if the server sends none.
    """
    if content := getattr(logprobs, "content", None):
        return [(top.token, top.logprob) for top in content[0].top_logprobs or ()]
    first = next(iter(getattr(logprobs, "top_logprobs", None) or ()), None)
    return list((first or {}).items())


def read_likeliest(likeliest: Iterable[tuple[str, float]], choices: Sequence[str]) -> tuple[float, ...]:
    """The probabilities of choices if only the likeliest first tokens are known, as (text, log probability).

    A token counts for a choice if it begins that choice alone, whatever its case and the quotes or space around it. A
    choice without a known token gets an upper bound: the probability of the least likely known token, or 1 minus that
    of all known tokens, whichever is less. Empty if no token begins any choice.
    """
    weights = [0.0] * len(choices)
    known = []
    for text, log_probability in likeliest:
        known.append(math.exp(log_probability))
        plain = text.strip("\"'` \n\t\u0120\u2581").casefold()  # the last two: blanks as tokenizers write them
        begun = [place for place, choice in enumerate(choices) if plain and choice.casefold().startswith(plain)]
        if len(begun) == 1:
            weights[begun[0]] += known[-1]
    if not any(weights):
        return ()
    most = min(min(known), max(0.0, 1 - math.fsum(known)))
    return shares([weight or most for weight in weights])
