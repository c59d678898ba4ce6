"""Captions of the report's plots: what each shows, in a sentence or two. Pure: sentences from numbers.

The five questions of a reader: did it get better, why were rows rejected, which engine was slow, where
did the time go, what do the data look like.
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from s3ray.monitor.accounting import BUSY, OTHER_PHASE, STARTING, Account, Lane, seconds_by_state
from s3ray.monitor.metrics import Metrics, RoundMetrics, TimeShares, count_reasons, shares
from s3ray.monitor.run_view import EngineMetrics
from s3ray.report.examples import DataFigures
from s3ray.text import duration

MUCH = 0.05
"""From this share of the requests on, a reason is named with its remedy."""
SLOW = 0.75
"""An engine below this share of the median rate is called slow."""
LABEL_DRIFT = 0.10
LENGTH_DRIFT = 1.5
_NUM_NAMED = 5
_NO_MEAN = "macro_f1"
"""The metric that is no mean over rows, so that its margin is not that of a share."""
_PHASES = {
    "start": "starting engines and workers",
    "generate": "generating",
    "train": "training",
    "score": "scoring students",
}

WAYS_OUT = {
    "empty": "the model answers with nothing; look at the prompt",
    "refusal": "the model declines; word the prompt as a description, or take another model",
    "truncated": "the model does not stop in time; raise sampling.max_tokens, or give stop strings",
    "too_short": "below the task's limits; ask for longer texts, or mend them",
    "too_long": "above the task's limits; ask for shorter texts, or mend them",
    "unparsable": "the answer has not the form that the prompt asks for; show the form in the prompt",
    "duplicate": "the model repeats itself; raise sampling.temperature",
    "near_duplicate": "the model repeats itself nearly; raise sampling.temperature",
    "copy_of_parent": "the model gives the mistake back; raise sampling.temperature",
    "copy_of_gold": "the model knows or repeats gold; nothing to mend, these rows must go",
    "doubted": "the generator does not stand by its labels; see accuracy in rounds/0/calibration.json",
    "surplus": "usable, but their label had its quota; nothing to mend",
    "refused_by_engine": "the engine does not take them, most often too long for max_model_len",
    "timeout": "no answer in time; look at the engines",
    "poison": "they ended an engine each time; rejected.parquet names them",
    "error": "prompts that could not be rendered or answers not read; rejected.parquet says why",
}
"""What each reason of a rejection or failure means, and what helps if more rows are wanted."""


def score_caption(metrics: Metrics, num_select: int) -> str:
    """Did it get better? ``num_select`` is the number of gold rows behind each score."""
    scores = dict(metrics.scored)
    if not scores:
        return ""
    (first_round, first), (last_round, last) = next(iter(scores.items())), list(scores.items())[-1]
    margin = _margin(metrics.metric, last, num_select)
    sure = f" On {num_select} rows a score is sure to about ±{margin:.3f}." if margin else ""
    if len(scores) == 1:
        return f"There is one student so far, so nothing to compare it with.{sure}"
    gain = last - first
    found = "No clear change" if abs(gain) < (margin or 0) or not gain else "Better" if gain > 0 else "Worse"
    told = f"{found}: {gain:+.3f} from round {first_round} to round {last_round}."
    best = max(scores, key=lambda num: (scores[num], -num))
    if scores[best] > last:
        told += f" Round {best} was the best, {scores[best] - last:.3f} above the last, whose student is the result."
    return told + sure


def _margin(metric: str | None, score: float, num_rows: int) -> float | None:
    """Half the 95 % interval of one score (a mean of values from 0 to 1); None where there is no such interval."""
    if metric == _NO_MEAN or not num_rows or not 0 < score < 1:
        return None
    return 1.96 * math.sqrt(score * (1 - score) / num_rows)


def yield_caption(rounds: Sequence[RoundMetrics]) -> str:
    """Why were rows rejected?"""
    written = [entry for entry in rounds if entry.requested]
    if not written:
        return ""
    requested, accepted = sum(entry.requested for entry in written), sum(entry.accepted for entry in written)
    told = f"{accepted / requested:.0%} of {requested:,} requests became rows"
    first, last = (entry.accepted / entry.requested for entry in (written[0], written[-1]))
    if last < first / 2:
        told += f", and the share fell from {first:.0%} in round {written[0].round} to {last:.0%} in the last"
    top = count_reasons(written, "rejected", "failed").most_common(3)
    if not top:
        return f"{told}."
    told += f". Lost most often as {_listed([f'{_words(reason)} ({num / requested:.0%})' for reason, num in top])}."
    reason, num = top[0]
    return f"{told} {_words(reason).capitalize()}: {WAYS_OUT[reason]}." if num >= MUCH * requested else told


def speed_caption(rates: Mapping[str, float], engines: Mapping[str, EngineMetrics]) -> str:
    """Which engine was slow? ``rates`` are tokens/s of each while it wrote; ``engines``: ``pool.engines`` of metrics.

    In a run of a campaign, whose engines are the campaign's, they have no state and their rates say nothing.
    """
    if not rates:
        return ""
    if engines and all(each.state is None for each in engines.values()):
        return (
            "A campaign's engines wrote these rows beside those of other runs, so this does not measure them; "
            "what they did stands in the campaign's compare.html."
        )
    middle = statistics.median(rates.values())
    slow = sorted((name for name, rate in rates.items() if rate < SLOW * middle), key=lambda name: rates[name])
    if len(rates) == 1:
        told = f"One engine wrote {_rate(middle)} while it was writing."
    elif slow:
        named = _first_of([f"{name} ({_rate(rates[name])})" for name in slow])
        told = f"Slow: {named}, where the median engine wrote {_rate(middle)}."
    else:
        told = f"No engine was slow: {_rate(min(rates.values()))} to {_rate(max(rates.values()))} each."
    for words, names in (
        ("started again after a loss", [name for name, each in engines.items() if each.restarts]),
        ("given up", [name for name, each in engines.items() if each.state == "given up"]),
        ("lost at the end", [name for name, each in engines.items() if each.state == "lost"]),
    ):
        if names:
            told += f" {words.capitalize()}: {_first_of(names)}."
    return told


def _first_of(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
    return _listed(names[:_NUM_NAMED]) + more


def _rate(rate: float) -> str:
    return f"{rate:,.0f} tokens/s" if rate >= 10 else f"{rate:.1f} tokens/s"


def time_caption(rounds: Sequence[RoundMetrics]) -> str:
    """Where did the time go? By phase and round."""
    phases: Counter[str] = Counter()
    for entry in rounds:
        phases.update({phase: entry.seconds[phase] for phase in _PHASES})
    total = phases.total()
    if not total:
        return ""
    phase, seconds = phases.most_common(1)[0]
    told = f"Most of it went into {_PHASES[phase]}: {duration(seconds)}, {seconds / total:.0%}."
    by_round = {entry.round: sum(entry.seconds[phase] for phase in _PHASES) for entry in rounds}
    if len(by_round) > 1:
        longest = max(by_round, key=lambda num: by_round[num])
        told += f" Round {longest} took longest, {duration(by_round[longest])}."
    return told


def devices_caption(time_account: Account) -> str:
    """How were the devices used, and how much of it was starts?"""
    use = use_caption(shares(time_account.engines), shares(time_account.trainers))
    return f"{use} {starts_caption(time_account.engines)}".strip()


def use_caption(engines: TimeShares, trainers: TimeShares) -> str:
    """How busy were engines and train workers, and what did they wait for?"""
    return " ".join(
        _use(name, shares, other)
        for name, shares, other in (("Engines", engines, "training"), ("Train workers", trainers, "generation"))
        if shares.seconds
    )


def _use(name: str, shares: TimeShares, other_phase: str) -> str:
    rest = shares.by_state
    busy = rest.pop(BUSY)
    most = max(rest, key=lambda state: rest[state])
    what = f"waiting for {other_phase}" if most == OTHER_PHASE else most
    other = f", {what} for {rest[most]:.0%}" if round(rest[most], 2) else ""
    return f"{name} were busy for {busy:.0%} of their time{other}."


def starts_caption(engines: Sequence[Lane]) -> str:
    """What did it cost that engines start, again and again where they make way for training?"""
    starts = [seconds for lane in engines for seconds in lane.starts_s]
    wakings = [seconds for lane in engines for seconds in lane.wakings_s]
    if not starts:
        return ""
    by_state = seconds_by_state(engines)
    told = f"Engines started {_times(starts)}"
    told += f" and woke from sleep {_times(wakings)}" if wakings else ""
    return f"{told}: {by_state[STARTING] / (sum(by_state.values()) or 1):.0%} of their time."


def _times(each_s: Sequence[float]) -> str:
    num, mean = len(each_s), duration(statistics.mean(each_s))
    return f"once, in {mean}" if num == 1 else f"{num} times, in {mean} each"


def data_caption(parts: Sequence[DataFigures]) -> str:
    """What do the data look like, next to gold? ``parts`` are gold, then the rounds."""
    gold, *rounds = parts
    num_rows = sum(part.num_rows for part in rounds)
    if gold.name != "gold" or not num_rows:
        return ""
    drifted = [
        f"{label or '(no label)'} {share:.0%} (gold {gold.labels.get(label, 0) / gold.num_rows:.0%})"
        for label, share in _shares([gold, *rounds], rounds).items()
        if abs(share - gold.labels.get(label, 0) / gold.num_rows) > LABEL_DRIFT
    ]
    words = sum(part.words[1] * part.num_rows for part in rounds) / num_rows
    told = [f"labels are out of balance: {_listed(drifted[:_NUM_NAMED])}"] if drifted else []
    ratio = max(words, 1) / max(gold.words[1], 1)
    if not 1 / LENGTH_DRIFT < ratio < LENGTH_DRIFT:
        longer = "longer" if ratio > 1 else "shorter"
        told.append(f"texts are {longer}, about {words:.0f} words where gold has {gold.words[1]:.0f}")
    if told:
        return f"Unlike gold: {'; '.join(told)}."
    same = "shares of labels and " if gold.labels else ""
    return f"Much like gold in {same}length: about {words:.0f} words a text where gold has {gold.words[1]:.0f}."


def _shares(known: Sequence[DataFigures], parts: Sequence[DataFigures]) -> dict[str, float]:
    """Shares of all known labels in some parts."""
    num_rows = sum(part.num_rows for part in parts)
    labels = dict.fromkeys(label for part in known for label in part.labels)
    return {label: sum(part.labels.get(label, 0) for part in parts) / num_rows for label in labels}


def _words(reason: str) -> str:
    return reason.replace("_", " ")


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
