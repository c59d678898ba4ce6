"""A shipped engine without a model: its texts depend on the request's seed alone, its speed and faults are scripted.

For tests of the system, not of quality. The same requests give the same texts on any number of engines, so that the
dataset of a disturbed run can be compared byte by byte with that of an undisturbed one. A slot counts as free from
the moment its answer was due, however late the event loop notices, as on a device that computes by itself.
"""

import asyncio
from collections import OrderedDict
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

import xxhash

from s3ray.errors import EngineDeadError, RequestRefusedError
from s3ray.generator.engines.base import Choice, EngineSpec, Timing, configured_limits
from s3ray.types import EngineLimits, EngineStats, Generation, Prompt

_VOCABULARY = """
amber bridge candle distant every field garden harbor island jacket kitchen lantern meadow night orchard paper quiet
river silver table under valley window yellow basket copper dinner engine forest guitar hollow iron anchor bottle
circle dragon evening feather glacier hammer insect jungle kettle ladder marble needle ocean pepper quarry ribbon
summer thunder umbrella velvet whistle zipper autumn blanket cotton desert eagle fabric gravel honey
"""
_WORDS = _VOCABULARY.split()
_PHRASE_BITS = 14  # eight phrases, and 16 bits for the number of words, are drawn from one hash of 128 bits
_PHRASE_WORDS = 3
_FEWEST, _MOST = 6, 24
_TICK_S = 0.05  # answers leave together at most this often: a timer for each costs more than writing the text

Answer = asyncio.Future[Generation]


class _Job(NamedTuple):
    """A request that is waiting or running: its answer, and what the script plans for it."""

    generation: Generation
    arrived: float
    seconds: float
    is_poison: bool


def _make_phrases() -> list[str]:
    """Phrases of three words: a text takes a third of the steps that single words would."""
    phrases = []
    for place in range(1 << _PHRASE_BITS):
        draw = xxhash.xxh3_64_intdigest(b"phrase %d" % place)
        phrases.append(" ".join(_WORDS[(draw >> 6 * word) & 63] for word in range(_PHRASE_WORDS)))
    return phrases


_PHRASES = _make_phrases()


def write_text(seed: int, max_tokens: int) -> tuple[str, int, str]:
    """The text of a seed (6 to 24 words and a full stop), its number of words, and its finish reason.

    A word is a token; a text that ``max_tokens`` cuts has no full stop and the finish reason ``length``.
    """
    draw = xxhash.xxh3_128_intdigest(b"%d" % seed)
    num_words = _FEWEST + (draw & 0xFFFF) % (_MOST - _FEWEST + 1)
    num_phrases = -(-num_words // _PHRASE_WORDS)
    mask = (1 << _PHRASE_BITS) - 1
    draw >>= 16
    text = " ".join([_PHRASES[(draw >> _PHRASE_BITS * place) & mask] for place in range(num_phrases)])
    num_kept = min(num_words, max_tokens)
    if num_kept < num_phrases * _PHRASE_WORDS:
        text = " ".join(text.split(" ", num_kept)[:num_kept])
    text = text.capitalize()
    return (text, num_kept, "length") if num_kept < num_words else (text + ".", num_words, "stop")


def weigh(request_id: str, num_choices: int) -> tuple[float, ...]:
    """The probabilities of a request's choices: uniform between 0.4 and 1 for the first; the others share the rest.

    With two labels, the expected one is therefore doubted in a sixth of the texts.
    """
    draw = xxhash.xxh3_64_intdigest(request_id.encode()) / 2**64
    rest = 0.6 * draw if num_choices > 1 else 0.0
    return (1 - rest, *[rest / (num_choices - 1)] * (num_choices - 1))


def _num_words(prompt: Prompt) -> int:
    return (prompt.text or prompt.user or "").count(" ") + 1


class FakeEngine:
    """Writes texts at the speed of its script, ``max_num_seqs`` at once, and fails when the script says so."""

    needs_devices = loads_model = False

    def __init__(self, spec: EngineSpec) -> None:
        self._config = spec.config
        self._script = spec.config.fake
        self._waiting: OrderedDict[Answer, _Job] = OrderedDict()
        self._running: set[Answer] = set()
        self._due: list[tuple[float, int, Answer, _Job]] = []
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = 0.0
        self._ticked = 0.0
        self._death = ""
        self._is_asleep = False
        self._num_answered = self._num_prompt_tokens = self._num_output_tokens = 0

    async def start(self) -> EngineLimits:
        """Take the scripted time."""
        await asyncio.sleep(self._script.start_s)
        return configured_limits(self._config, dtype="none", device="fake")

    async def generate(self, request_id: str, prompt: Prompt, *, seed: int, max_tokens: int) -> Generation:
        """Write the text that belongs to ``seed``, in the time that the script gives it."""
        text, num_tokens, finish_reason = write_text(seed, max_tokens)
        generation = Generation(
            request_id=request_id,
            text=text,
            finish_reason=finish_reason,
            num_prompt_tokens=_num_words(prompt),
            num_cached_tokens=0,
            num_output_tokens=num_tokens,
        )
        poison_every = self._script.poison_every
        return await self._answer(generation, is_poison=poison_every is not None and seed % poison_every == 0)

    async def choose(self, request_id: str, prompt: Prompt) -> Choice:
        """The probabilities that belong to ``request_id`` (``weigh``), in the time of one token."""
        token = Generation(
            request_id=request_id,
            text="",
            finish_reason="length",
            num_prompt_tokens=_num_words(prompt),
            num_cached_tokens=0,
            num_output_tokens=1,
        )
        await self._answer(token, is_poison=False)
        return Choice(
            probabilities=weigh(request_id, len(prompt.choices)),
            num_prompt_tokens=token.num_prompt_tokens,
            num_cached_tokens=0,
            num_output_tokens=1,
        )

    async def _answer(self, generation: Generation, *, is_poison: bool) -> Generation:
        """Wait in the queue and return ``generation`` when it is due."""
        await self.check()
        if self._is_asleep:
            raise RequestRefusedError("the engine is asleep")
        script, num_tokens = self._script, generation.num_output_tokens
        seconds = script.delay_s + (num_tokens / script.tokens_per_s if script.tokens_per_s else 0.0)
        loop = asyncio.get_running_loop()
        answer: Answer = loop.create_future()
        self._waiting[answer] = _Job(generation, loop.time(), seconds, is_poison)
        self._fill(0.0)
        if seconds:
            self._arm(loop)
        else:
            self._answer_due(loop.time())
        try:
            return await answer
        except asyncio.CancelledError:
            self._give_up(answer, loop)
            raise

    def _fill(self, since: float) -> None:
        """Start waiting requests in free slots, as if at the time ``since``."""
        while self._waiting and len(self._running) < self._config.num_seqs:
            answer, job = self._waiting.popitem(last=False)
            self._running.add(answer)
            heappush(self._due, (max(since, job.arrived) + job.seconds, next(self._order), answer, job))

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._due or self._death:
            return
        when = max(self._due[0][0], self._ticked + _TICK_S)
        if self._timer is None or when < self._wakes_at:
            if self._timer is not None:
                self._timer.cancel()
            self._wakes_at = when  # timers of uvloop, on which Ray's workers run, do not say it
            self._timer = loop.call_at(when, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._ticked = loop.time()
        self._answer_due(self._ticked)
        self._arm(loop)

    def _answer_due(self, now: float) -> None:
        script = self._script
        while self._due and self._due[0][0] <= now:
            if script.hang_after is not None and self._num_answered >= script.hang_after:
                self._due.clear()
                return
            due, _, answer, job = heappop(self._due)
            if answer.done():
                continue  # given up; its slot is freed by the call that was cancelled
            if job.is_poison:
                self._die(f"scripted poison: {job.generation.request_id}")
                return
            if script.die_after is not None and self._num_answered >= script.die_after:
                self._die(f"scripted death after {script.die_after} answers")
                return
            self._running.remove(answer)
            self._num_answered += 1
            self._num_prompt_tokens += job.generation.num_prompt_tokens
            self._num_output_tokens += job.generation.num_output_tokens
            answer.set_result(job.generation)
            self._fill(due)

    def _die(self, death: str) -> None:
        self._death = death
        for answer in [*self._running, *self._waiting]:
            if not answer.done():
                answer.set_exception(EngineDeadError(death))
        self._running.clear()
        self._waiting.clear()
        self._due.clear()

    def _give_up(self, answer: Answer, loop: asyncio.AbstractEventLoop) -> None:
        self._waiting.pop(answer, None)
        if answer in self._running:
            self._running.remove(answer)
            self._fill(loop.time())
            self._arm(loop)

    def stats(self) -> EngineStats:
        """Slots in use, requests that wait for one, and tokens so far."""
        return EngineStats(
            num_running=len(self._running),
            num_waiting=len(self._waiting),
            num_prompt_tokens=self._num_prompt_tokens,
            num_output_tokens=self._num_output_tokens,
        )

    def take_timings(self) -> list[Timing]:
        """Nothing: texts are not written token by token."""
        return []

    async def check(self) -> None:
        """Raise after a scripted death; a scripted hang looks healthy."""
        if self._death:
            raise EngineDeadError(self._death)

    async def sleep(self, level: int) -> None:
        """Refuse requests from now on."""
        self._is_asleep = True

    async def wake(self) -> None:
        """Take requests again, after as long as a start takes."""
        await asyncio.sleep(self._script.start_s)
        self._is_asleep = False

    async def close(self) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
