"""How many tokens a request will take. Pure: learned from the answers so far."""

from s3ray.types import EngineLimits, EngineStats, GenerationRequest

# Before anything was measured: a short prompt, and an answer that uses half of its limit.
PRIOR_PROMPT_TOKENS = 256
PRIOR_OUTPUT_TOKENS = 128
PRIOR_RATIO = 0.5
# Answers that a mean remembers: enough to be steady, few enough to follow rounds that differ.
LENGTH_MEMORY = 4096


class Kind:
    """Running means of one kind of request: tokens of prompt and answer, and the part of its limit that it uses."""

    __slots__ = ("_num", "num_output_tokens", "num_prompt_tokens", "ratio")

    def __init__(self) -> None:
        self.num_prompt_tokens: float = PRIOR_PROMPT_TOKENS
        self.num_output_tokens: float = PRIOR_OUTPUT_TOKENS
        self.ratio = PRIOR_RATIO
        self._num = 1

    def learn(self, max_tokens: int | None, num_prompt_tokens: int, num_output_tokens: int) -> None:
        """Take an answer into account; ``max_tokens`` is the request's own limit, if it has one."""
        self._num = num = min(self._num + 1, LENGTH_MEMORY)
        self.num_prompt_tokens += (num_prompt_tokens - self.num_prompt_tokens) / num
        self.num_output_tokens += (num_output_tokens - self.num_output_tokens) / num
        if max_tokens is not None:
            self.ratio += (num_output_tokens / max_tokens - self.ratio) / num


class Expectations:
    """What is known of each kind of request (served task, template and label)."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str, str | None], Kind] = {}

    def kind(self, request: GenerationRequest) -> Kind:
        """The kind that a request is of."""
        key = (request.served_task, request.template, request.label)
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = Kind()
        return kind


# An engine holds what it decodes at once and a quarter more, so that a slot that falls free between two exchanges finds
# work, and no more, so that little is lost with it.
START_ALLOWANCE = 1.25
# Where its memory holds far fewer sequences than its limit allows; where short answers empty the surplus too soon.
MIN_ALLOWANCE = 0.125
MAX_ALLOWANCE = 2.0
# Down fast, since a preempted sequence is computed twice; up slowly, since what is too little costs only a little.
SHRINK = 0.85
GROWTH = 1 / 32
# More waiting than half of what runs is twice the surplus.
CROWD = 0.5
FULL_KV = 0.9
# Weight of the past at each report: at one report a second, about ten seconds count.
MEMORY = 0.9
# An engine whose sequences are slower than the mean by more than a fifth is not given what others would finish sooner.
SLOW = 0.8


class Feedback:
    """What is known of one engine since it joined.

    ``allowance`` is how much it may hold, in multiples of what it decodes at once. ``position`` is how many tokens a
    sequence that runs since it joined would have written. ``pace`` is that per busy second, None before it is known.
    """

    __slots__ = (
        *("_busy_s", "_num_dealt", "_num_output_tokens", "_num_preemptions", "_recent_s", "_recent_tokens"),
        *("_was_full", "allowance", "capacity", "num_kv_tokens", "pace", "position"),
    )

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
        self._num_dealt = 0
        self._was_full = False

    def note_deal(self, num_in_flight: int, *, is_full: bool) -> None:
        """What it holds after a deal, and whether nothing but its allowance kept it from getting more."""
        self._num_dealt = num_in_flight
        self._was_full = is_full

    def note_report(self, stats: EngineStats) -> None:
        """Learn from what it tells of itself. Counts are compared with those of the last report."""
        if stats.capacity is not None:
            self.capacity = max(1, stats.capacity)
        self._correct_allowance(stats)
        self._measure(stats)

    def _correct_allowance(self, stats: EngineStats) -> None:
        is_preempted = stats.num_preemptions > self._num_preemptions
        is_tight = is_preempted or stats.kv_use > FULL_KV
        self._num_preemptions = stats.num_preemptions
        if is_preempted or stats.num_waiting > stats.num_running * CROWD:
            # Where memory is not the reason, what waits is the surplus, or prompts that are being read.
            least = MIN_ALLOWANCE if is_tight else min(self.allowance, START_ALLOWANCE)
            self.allowance = max(least, self.allowance * SHRINK)
        elif self._was_full and not stats.num_waiting and not is_tight:
            self.allowance = min(MAX_ALLOWANCE, self.allowance + GROWTH)

    def _measure(self, stats: EngineStats) -> None:
        num_tokens = stats.num_output_tokens - self._num_output_tokens
        seconds = stats.busy_s - self._busy_s
        self._num_output_tokens = stats.num_output_tokens
        self._busy_s = stats.busy_s
        # Sequences under way in between: those at its start and at its end, in the mean.
        num_seqs = max(1.0, (min(self.capacity, self._num_dealt) + stats.num_running) / 2)
        written = max(0.0, num_tokens / num_seqs)
        self.position += written
        self._recent_tokens = self._recent_tokens * MEMORY + written
        self._recent_s = self._recent_s * MEMORY + max(0.0, seconds)
        if self._recent_tokens and self._recent_s:
            self.pace = self._recent_tokens / self._recent_s


class Fleet:
    """What all engines that are there can do together."""

    def __init__(self) -> None:
        self.capacity = 0
        self._num_measured = 0
        self._measured_speed = 0.0
        self._measured_capacity = 0

    @property
    def pace(self) -> float | None:
        """Output tokens per second of one sequence, in the mean of the engines that were measured."""
        return self._measured_speed / self._measured_capacity if self._num_measured else None

    def add(self, feedback: Feedback, sign: int = 1) -> None:
        """Count an engine in, or out (``sign`` -1) before anything of it changes."""
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
