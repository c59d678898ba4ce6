"""How numbers are written in messages, tables and reports: durations, counts, scores."""

from collections.abc import Mapping


def duration(seconds: float) -> str:
    """Seconds in words: ``35 s``, ``4 min 10 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def counts(by_reason: Mapping[str, int], at_most: int = 20) -> str:
    """Counts, largest first: ``duplicate 20, truncated 3``; those after the first ``at_most`` are summed up."""
    ordered = sorted(((n, reason) for reason, n in by_reason.items() if n), key=lambda item: (-item[0], item[1]))
    parts = [f"{reason or 'rows'} {n}" for n, reason in ordered[:at_most]]
    rest = sum(n for n, _ in ordered[at_most:])
    return ", ".join([*parts, f"other {rest}"] if rest else parts)


def short_count(num: int) -> str:
    """A count in at most five characters: ``950``, ``12.3k``, ``4.6M``."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if num >= size:
            return f"{num / size:.1f}{unit}" if num < 100 * size else f"{num // size}{unit}"
    return str(num)


def scores(values: Mapping[str, float]) -> str:
    """Metrics as text: ``accuracy 0.812, macro_f1 0.811``."""
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())
