"""Chat messages as the text that a hosted model continues: through its own chat template, with or without thoughts."""

import re
from typing import Any, Literal, Protocol

from jinja2 import TemplateError

_SWITCHES = ("enable_thinking", "thinking")
"""What templates call the switch of thinking: Qwen, GLM and SmolLM the first, Granite and Kimi the second."""
NO_THINKING = dict.fromkeys(_SWITCHES, False)
"""What a server's chat template is told (`chat_template_kwargs`)."""
_THOUGHTS = (
    *(
        (f"<{tag}>", f"</{tag}>")
        for tag in ("think", "thinking", "thought", "reasoning", "seed:think", "longcat_think")
    ),
    *(("[THINK]", "[/THINK]"), ("\u25c1think\u25b7", "\u25c1/think\u25b7")),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
_TO_FINAL = "<|channel|>final<|message|>"


class Tokenizer(Protocol):
    """What is needed of a Hugging Face tokenizer."""

    chat_template: Any

    def apply_chat_template(self, messages: list[dict[str, str]], **settings: Any) -> str:
        """Render messages; names that the template does not use are ignored, or refused by some tokenizers."""


class ChatTemplate:
    """The chat template of a model.

    With ``thinking`` off, and where an answer is wanted at once, the model is told not to think; where the template has
    no switch for that, the text ends with an empty thought, after which the answer must begin.
    """

    def __init__(self, tokenizer: Tokenizer, thinking: Literal["auto", "off"]) -> None:
        self._tokenizer = tokenizer
        self._source = str(tokenizer.chat_template or "")
        self._switches = {name: False for name in _SWITCHES if re.search(rf"\b{name}\b", self._source)}
        self._is_off = thinking == "off"
        self._takes_system = True

    def render(self, messages: list[dict[str, str]], *, at_once: bool = False) -> str:
        """The text to continue; ``at_once``: the next token is the first of the answer, whatever the job says."""
        if not (self._is_off or at_once):
            return self._apply(messages, {})
        return self._without_thought(self._apply(messages, self._switches))

    def _apply(self, messages: list[dict[str, str]], switches: dict[str, bool]) -> str:
        if not self._takes_system:
            messages = _joined(messages)
        try:
            return self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **switches)
        except TemplateError:
            if not self._takes_system or len(messages) == 1:
                raise
            self._takes_system = False  # Gemma's templates, for one, raise on it
            return self._apply(messages, switches)

    def _without_thought(self, text: str) -> str:
        end = text.rstrip()
        for opening, closing in _THOUGHTS:
            if end.endswith(opening):
                return f"{end}\n\n{closing}\n\n"
        if self._switches or end.endswith(tuple(closing for _, closing in _THOUGHTS)):
            return text
        if text.endswith("<|start|>assistant") and "<|channel|>" in self._source:
            return text + _TO_FINAL
        return f"{text}<think>\n\n</think>\n\n" if "</think>" in self._source else text


def _joined(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The system message at the head of the user's."""
    return [{"role": "user", "content": "\n\n".join(message["content"] for message in messages)}]


def opens_thought(text: str) -> bool:
    """Whether the first token of an answer begins a thought."""
    begun = text.strip().casefold()
    return begun == "<|channel|>" or any(begun == opening.casefold() for opening, _ in _THOUGHTS)
