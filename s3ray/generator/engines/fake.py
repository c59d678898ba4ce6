"""A shipped engine without a model: text that depends on the request's seed alone, with scripted speed and death.

For plumbing and chaos. The same requests give the same texts on any number of engines, so that the dataset of a
disturbed run can be compared byte by byte with an undisturbed one's.
"""

import asyncio
import random

from s3ray.errors import EngineDeadError
from s3ray.generator.engines.base import EngineSpec
from s3ray.types import EngineLimits, Generation, Prompt

_VOCABULARY = """
amber bridge candle distant every field garden harbor island jacket kitchen lantern meadow night orchard paper quiet
river silver table under valley window yellow basket copper dinner engine forest guitar hollow iron
"""


class FakeEngine:
    """Writes between 6 and 24 words, drawn by the request's seed."""

    def __init__(self, spec: EngineSpec) -> None:
        self._config = spec.config
        self._num_answered = 0

    async def start(self) -> EngineLimits:
        """Wait as long as the script says."""
        await asyncio.sleep(self._config.fake.start_s)
        return EngineLimits(
            max_num_seqs=self._config.max_num_seqs,
            max_num_batched_tokens=self._config.max_num_batched_tokens,
            max_model_len=self._config.max_model_len,
            num_kv_tokens=self._config.max_num_seqs * self._config.max_model_len,
            dtype="none",
            device="fake",
        )

    async def generate(self, request_id: str, prompt: Prompt, seed: int) -> Generation:
        """Write the text that belongs to ``seed``; die when the script says so."""
        script = self._config.fake
        draw = random.Random(seed)
        words = draw.choices(_VOCABULARY.split(), k=draw.randint(6, 24))
        if script.tokens_per_s:
            await asyncio.sleep(len(words) / script.tokens_per_s)
        if script.die_after is not None and self._num_answered >= script.die_after:
            raise EngineDeadError(f"scripted death after {script.die_after} answers")
        self._num_answered += 1
        return Generation(
            request_id=request_id,
            text=" ".join(words).capitalize() + ".",
            finish_reason="stop",
            num_prompt_tokens=len((prompt.text or prompt.user or "").split()),
            num_cached_tokens=0,
            num_output_tokens=len(words),
        )

    async def check(self) -> None:
        """A fake engine dies only as its script says."""

    async def close(self) -> None:
        """Nothing to free."""
