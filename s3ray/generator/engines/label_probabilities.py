"""How likely a model is to answer with each of several choices: they are told apart by the token that comes first."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from s3ray.errors import RequestRefusedError


def first_tokens(
    encode: Callable[[str], Sequence[int]], before: str, choices: Sequence[str]
) -> tuple[tuple[int, ...], ...]:
    """The tokens with which each choice can begin right after the text ``before``.

    They are the first token of the choice as it is written and, where no other choice has it, that of the choice with
    its first letter in the other case, as chat models like it ("Yes"). ``encode`` adds no special tokens.

    Raises:
        RequestRefusedError: two choices begin with the same token, or one melts into the end of ``before``.
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
            raise RequestRefusedError(f"{choice!r} melts into the end of the prompt, {before[-12:]!r}: {hint}")
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


def told_tokens(told: Any) -> list[tuple[str, float]]:
    """The likeliest first tokens in the ``logprobs`` of an answer in OpenAI's protocol, as (text, log probability).

    Chat tells them in another form than completions; a server that tells none gives none.
    """
    if content := getattr(told, "content", None):
        return [(top.token, top.logprob) for top in content[0].top_logprobs or ()]
    first = next(iter(getattr(told, "top_logprobs", None) or ()), None)
    return list((first or {}).items())


def read_likeliest(likeliest: Iterable[tuple[str, float]], choices: Sequence[str]) -> tuple[float, ...]:
    """The probabilities of choices where only the likeliest first tokens are told, as (text, log probability).

    A token counts for the one choice that it begins, in whatever case and with whatever quotes or space. A choice of
    which no token is told gets the most that it can have: no more than the least likely of those that are told, nor
    than all of them leave over. Nothing if there is no token of any choice.
    """
    weights = [0.0] * len(choices)
    told = []
    for text, log_probability in likeliest:
        told.append(math.exp(log_probability))
        plain = text.strip("\"'` \n\t\u0120\u2581").casefold()  # the last two: blanks as tokenizers write them
        begun = [place for place, choice in enumerate(choices) if plain and choice.casefold().startswith(plain)]
        if len(begun) == 1:
            weights[begun[0]] += told[-1]
    if not any(weights):
        return ()
    most = min(min(told), max(0.0, 1 - math.fsum(told)))
    return shares([weight or most for weight in weights])
