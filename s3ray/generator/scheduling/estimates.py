"""Estimates from the answers so far: how long requests are, how fast engines are, how much each may hold. Pure."""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from s3ray.types import EngineLimits, EngineStats

# Assumed before anything was measured: a short prompt, and an answer that uses half of its limit.
PRIOR_PROMPT_TOKENS = 256
PRIOR_OUTPUT_TOKENS = 128
PRIOR_RATIO = 0.5
# Answers that a mean covers: enough to be steady, few enough to follow rounds that differ.
LENGTH_MEMORY = 4096


@dataclass(slots=True)
class Kind:
    """Running means of one kind of request: tokens of prompt and answer, and the part of its limit that it uses."""

    num_prompt_tokens: float = PRIOR_PROMPT_TOKENS
    num_output_tokens: float = PRIOR_OUTPUT_TOKENS
    ratio: float = PRIOR_RATIO
    _num: int = 1

    def learn(self, max_tokens: int | None, num_prompt_tokens: int, num_output_tokens: int) -> None:
        """Take an answer into account; ``max_tokens`` is the request's own limit, if it has one."""
        self._num = num = min(self._num + 1, LENGTH_MEMORY)
        self.num_prompt_tokens += (num_prompt_tokens - self.num_prompt_tokens) / num
        self.num_output_tokens += (num_output_tokens - self.num_output_tokens) / num
        if max_tokens is not None:
            self.ratio += (num_output_tokens / max_tokens - self.ratio) / num


Kinds = defaultdict[tuple[str, str, str | None], Kind]
"""The kinds of requests, by served task, template and label."""


# An engine holds what it decodes at once and a quarter more: a slot that becomes free between two exchanges finds work,
# and little is lost when the engine dies.
START_ALLOWANCE = 1.25
# The least: its memory holds far fewer sequences than its limit allows. The most: short answers use up the surplus
# before the next exchange.
MIN_ALLOWANCE = 0.125
MAX_ALLOWANCE = 2.0
# Down fast, since a preempted sequence is computed twice; up slowly, since a slightly low allowance costs little.
SHRINK = 0.85
GROWTH = 1 / 32
# More sequences waiting than half of those running: that is twice the intended surplus.
CROWD = 0.5
FULL_KV = 0.9
# Weight of the past at each report: with one report a second, the last ten seconds or so count.
MEMORY = 0.9
# An engine whose sequences are a fifth slower than the mean gets no request that others would finish sooner.
SLOW = 0.8


class Room(NamedTuple):
    """What an engine may get: requests, their expected tokens, and additional requests to keep a group together."""

    num: int
    num_tokens: float
    num_extra: int


class Feedback:
    """What was learned about one engine since it joined.

    ``allowance`` is how much it may hold, in multiples of what it decodes at once. ``position`` is how many tokens a
    sequence would have written that has been running since the engine joined. ``pace`` is the tokens that a sequence
    writes per busy second, None before that is known.
    """

    def __init__(self, limits: EngineLimits) -> None:
        self.capacity = limits.max_num_seqs
        self.num_kv_tokens = limits.num_kv_tokens
        self.allowance = START_ALLOWANCE
        self.position = 0.0
        self.pace: float | None = None
        self._num_preemptions = 0
        self._num_output_tokens = 0
        self._busy_s = 0.0
        self._recent_tokens = 0.0
        self._recent_s = 0.0
        self._num_assigned = 0
        self._was_full = False

    def room(self, num_in_flight: int, num_tokens: int, num_left: float) -> Room:
        """What an engine that holds ``num_in_flight`` requests, of ``num_tokens`` expected tokens, may get now.

        That is what it can decode at once and a little more, bounded by sequences and by tokens; an empty engine gets
        at least one request. ``num_left`` is its share of all requests that are left once the end of the source is in
        sight, and infinite before.
        """
        most = max(1, int(self.capacity * self.allowance))
        if self.allowance > 1:
            most = max(most, self.capacity + 1)
        # The shared prefix of a divided group is read twice; a quarter more is what an engine holds in surplus anyway.
        num_extra = self.capacity // 4
        if num_left < math.inf:
            # What waits in an engine now is long, and what comes back from a dead one would wait behind it.
            most = min(most, max(1, int(self.capacity * START_ALLOWANCE)), max(1, math.ceil(num_left)))
            num_extra = 0
        left_tokens = self.num_kv_tokens * self.allowance - num_tokens if self.num_kv_tokens else math.inf
        return Room(most - num_in_flight, left_tokens, num_extra)

    def note_assigned(self, num_in_flight: int, *, is_full: bool) -> None:
        """How many requests it holds now, and whether only its allowance kept it from getting more."""
        self._num_assigned = num_in_flight
        self._was_full = is_full

    def note_report(self, stats: EngineStats) -> None:
        """Learn from its statistics; its counts are compared with those of the last report."""
        if stats.capacity is not None:
            self.capacity = max(1, stats.capacity)
        self._correct_allowance(stats)
        self._measure(stats)

    def _correct_allowance(self, stats: EngineStats) -> None:
        is_preempted = stats.num_preemptions > self._num_preemptions
        is_tight = is_preempted or stats.kv_use > FULL_KV
        self._num_preemptions = stats.num_preemptions
        if is_preempted or stats.num_waiting > stats.num_running * CROWD:
            # If memory is not the reason, the waiting ones are the surplus, or prompts that are being read.
            least = MIN_ALLOWANCE if is_tight else min(self.allowance, START_ALLOWANCE)
            self.allowance = max(least, self.allowance * SHRINK)
        elif self._was_full and not stats.num_waiting and not is_tight:
            self.allowance = min(MAX_ALLOWANCE, self.allowance + GROWTH)

    def _measure(self, stats: EngineStats) -> None:
        num_tokens = stats.num_output_tokens - self._num_output_tokens
        seconds = stats.busy_s - self._busy_s
        self._num_output_tokens = stats.num_output_tokens
        self._busy_s = stats.busy_s
        # Sequences that ran since the last report: the mean of those at its start and at its end.
        num_seqs = max(1.0, (min(self.capacity, self._num_assigned) + stats.num_running) / 2)
        written = max(0.0, num_tokens / num_seqs)
        self.position += written
        self._recent_tokens = self._recent_tokens * MEMORY + written
        self._recent_s = self._recent_s * MEMORY + max(0.0, seconds)
        if self._recent_tokens and self._recent_s:
            self.pace = self._recent_tokens / self._recent_s


class Fleet:
    """What all engines that have joined can do together."""

    def __init__(self) -> None:
        self.capacity = 0
        self._num_measured = 0
        self._measured_speed = 0.0
        self._measured_capacity = 0

    @property
    def pace(self) -> float | None:
        """Output tokens per second of one sequence: the mean over the engines that were measured."""
        return self._measured_speed / self._measured_capacity if self._num_measured else None

    def add(self, feedback: Feedback, sign: int = 1) -> None:
        """Add an engine's figures, or subtract them (``sign`` -1), which must happen before they change."""
        self.capacity += sign * feedback.capacity
        if feedback.pace is not None:
            self._num_measured += sign
            self._measured_capacity += sign * feedback.capacity
            self._measured_speed += sign * feedback.pace * feedback.capacity

    def share(self, feedback: Feedback) -> float:
        """An engine's part in the speed of all (0 to 1); one that was not measured counts as the mean."""
        pace = self.pace
        if pace is None:
            return feedback.capacity / self.capacity
        own = feedback.pace or pace
        return own * feedback.capacity / (pace * self.capacity)

    def is_slow(self, feedback: Feedback) -> bool:
        """Whether an engine's sequences are known to be slower than those of the others."""
        pace = self.pace
        return pace is not None and feedback.pace is not None and feedback.pace < SLOW * pace
