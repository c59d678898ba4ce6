"""From what a model writes to what is kept of it, one request at a time."""

import asyncio
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3ray.config.job import GeneratorConfig
from s3ray.generator.engines.base import EngineSpec
from s3ray.generator.engines.fake import FakeEngine
from s3ray.generator.worker import ServedTask, Worker
from s3ray.tasks.task import STILL_THINKING
from s3ray.types import Generation, GenerationRequest, Outcome, OutcomeStatus, Prompt, RejectionReason
from tests.sources import TASK, make_request

CONFIG = GeneratorConfig(engine="fake")
TEXT = "The lamp was dull and far too small."


class Scripted(FakeEngine):
    """Says what it was given, one (text, finish reason) after the other; ``limits`` are what it was asked with."""

    def __init__(self, *said: tuple[str, str]) -> None:
        super().__init__(EngineSpec(engine="engine-0", config=CONFIG, device="cpu"))
        self._said = list(said)
        self.limits: list[int] = []

    async def generate(self, request_id: str, prompt: Prompt, *, seed: int, max_tokens: int) -> Generation:
        self.limits.append(max_tokens)
        text, finish_reason = self._said.pop(0)
        told = await super().generate(request_id, prompt, seed=seed, max_tokens=max_tokens)
        return replace(told, text=text, finish_reason=finish_reason)


REQUEST = make_request(0)


def answer(*said: tuple[str, str], request: GenerationRequest = REQUEST) -> tuple[Outcome, list[int]]:
    engine = Scripted(*said)
    tasks = {"": ServedTask(task=TASK, clean=True)}
    worker = Worker(engine, tasks, CONFIG, "engine-0")  # type: ignore[arg-type]
    return asyncio.run(worker.answer(request, 1)), engine.limits


@pytest.mark.parametrize(
    "raw",
    [
        f"<think>\nA lamp, negative.\n</think>\n\n{TEXT}",
        f"A lamp, negative.\n</think>\n\n{TEXT}",
        f"<think>A lamp.</think>Sure! Here is a review:\n\n**Sentiment:** Positive\n**Review:** {TEXT}<|im_end|>\n",
        f"<|channel|>analysis<|message|>A lamp.<|end|><|start|>assistant<|channel|>final<|message|>{TEXT}",
        f"{TEXT}<|im_end|>\n<|im_start|>user\nAnother one please",
    ],
)
def test_nothing_of_what_a_chat_model_writes_around_a_text_is_kept(raw: str) -> None:
    outcome, _ = answer((raw, "stop"))
    assert (outcome.status, outcome.text, outcome.raw) == (OutcomeStatus.ACCEPTED, TEXT, raw)


@pytest.mark.parametrize("cut", [("<think>\nA lamp, or", "length"), ("", "length"), ("<think>\nA lamp, or", "stop")])
def test_an_answer_that_was_cut_before_its_text_is_asked_for_again_with_more_tokens(cut: tuple[str, str]) -> None:
    outcome, limits = answer(cut, (f"<think>\nA lamp.\n</think>\n{TEXT}", "stop"))
    assert (outcome.status, outcome.text) == (OutcomeStatus.ACCEPTED, TEXT)
    assert limits == [256, 512]


@pytest.mark.parametrize("blanks", ["", "\n", " "])
def test_a_prompt_that_the_answer_repeats_first_is_no_part_of_the_text(blanks: str) -> None:
    prompt = TASK.render(REQUEST, "chat").user or ""
    outcome, _ = answer((f"{blanks}{prompt}\n{TEXT}", "stop"))
    assert (outcome.status, outcome.text) == (OutcomeStatus.ACCEPTED, TEXT)
    decomposed = REQUEST._replace(attributes=dict.fromkeys(REQUEST.attributes, "cafe\u0301"))
    other = TASK.render(decomposed, "chat").user or ""
    assert "cafe\u0301" in other
    outcome, _ = answer((f"{blanks}{other}\n{TEXT}", "stop"), request=decomposed)
    assert outcome.text == TEXT
    outcome, _ = answer((prompt, "stop"))
    assert outcome.reason == RejectionReason.EMPTY.value


def test_thoughts_that_never_end_are_named_as_such() -> None:
    outcome, _ = answer(*[("<think>\nA lamp, or", "length")] * 2)
    assert (outcome.reason, outcome.detail) == (RejectionReason.TRUNCATED.value, STILL_THINKING)


def test_what_no_file_can_hold_is_replaced_where_it_comes_in() -> None:
    outcome, _ = answer((f"{TEXT} \ud83d\0 u\u0308", "stop"))
    assert outcome.text == outcome.raw == f"{TEXT} \ufffd ü"


WORDS = [
    "अच्छा था क्‍ष नकारात्मक समीक्षा",
    "ข้าวผัดอร่อยมาก น้ำ",
    "这家店的面条又冷又硬，服务员也不理人。",
    "ラーメンがとても美味しかった。",
    "كَتَبَ مُحَمَّد رِسَالَةً؟",
    "می‌خواهم دوباره بخرم",
    "שָׁלוֹם עולם",
    "great 👍🏽 👩‍👩‍👧 ❤️ 🇩🇪 1️⃣",
    "Ärger über Größe, naïve café",
    "한국어 텍스트입니다",
]


@given(st.lists(st.sampled_from([word for words in WORDS for word in words.split()]), min_size=1, max_size=2))
def test_texts_of_every_script_pass_unchanged(words: list[str]) -> None:
    text = unicodedata.normalize("NFC", " ".join(["It", "says", *words]))
    outcome, _ = answer((text, "stop"))
    assert (outcome.status, outcome.text) == (OutcomeStatus.ACCEPTED, text)
