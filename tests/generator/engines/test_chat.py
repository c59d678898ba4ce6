"""Prompts of models that think aloud: by the job's wish, and where the first token must be that of the answer."""

from typing import Any

import pytest
from jinja2 import Environment, TemplateError

from s3ray.generator.engines.chat import ChatTemplate, opens_thought

HEAD = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
EMPTY = "<think>\n\n</think>\n\n"
PLAIN = HEAD
QWEN = HEAD + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
QWEN_THINKING = HEAD + "<think>\n"
GRANITE = "{% if thinking %}Think first.\n{% endif %}" + HEAD
DEEPSEEK = "{{ messages[-1].content.split('</think>')[-1] }}<|Assistant|><think>\n"
DEEPSEEK_AS_IT_WAS = "{{ messages[-1].content.split('</think>')[-1] }}<|Assistant|>"
MAGISTRAL = "[INST]{{ messages[-1].content }}[/INST][THINK]"
GPT_OSS = (
    "{% set analysis = '<|channel|>' %}<|start|>user<|message|>{{ messages[-1].content }}<|end|><|start|>assistant"
)
GEMMA = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ messages[-1].content }}"

ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Write!"}]
WORDS = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWrite!<|im_end|>\n<|im_start|>assistant\n"


class Tokenizer:
    """A tokenizer of transformers, as far as its chat template goes; refuses names that the template does not use."""

    def __init__(self, chat_template: str) -> None:
        self.chat_template = chat_template

    def apply_chat_template(self, messages: list[dict[str, str]], **settings: Any) -> str:
        assert (settings.pop("add_generation_prompt"), settings.pop("tokenize")) == (True, False)
        assert all(name in self.chat_template for name in settings)
        environment = Environment(keep_trailing_newline=True)
        environment.globals["raise_exception"] = _raise
        return environment.from_string(self.chat_template).render(messages=messages, **settings)


def _raise(problem: str) -> str:
    raise TemplateError(problem)


def render(template: str, thinking: Any = "auto", at_once: bool = False) -> str:
    return ChatTemplate(Tokenizer(template), thinking).render(ASK, at_once=at_once)


@pytest.mark.parametrize("template", [PLAIN, QWEN, QWEN_THINKING, GRANITE, DEEPSEEK, MAGISTRAL, GPT_OSS])
def test_by_default_a_prompt_is_what_the_template_makes_of_it(template: str) -> None:
    expected = Tokenizer(template).apply_chat_template(ASK, add_generation_prompt=True, tokenize=False)
    assert render(template) == expected


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (PLAIN, ""),
        (QWEN, EMPTY),
        (QWEN_THINKING, EMPTY),
        (GRANITE, ""),
    ],
)
def test_without_thinking_the_answer_begins_at_once(template: str, end: str) -> None:
    assert render(template, "off") == WORDS + end
    assert render(template, at_once=True) == WORDS + end


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (DEEPSEEK, f"Write!<|Assistant|>{EMPTY}"),
        (DEEPSEEK_AS_IT_WAS, f"Write!<|Assistant|>{EMPTY}"),
        (MAGISTRAL, "[INST]Write![/INST][THINK]\n\n[/THINK]\n\n"),
        (GPT_OSS, "<|start|>user<|message|>Write!<|end|><|start|>assistant<|channel|>final<|message|>"),
    ],
)
def test_a_thought_that_no_switch_prevents_is_left_empty(template: str, text: str) -> None:
    assert render(template, "off") == text


def test_a_template_that_knows_no_system_message_gets_it_with_the_users() -> None:
    chat = ChatTemplate(Tokenizer(GEMMA), "auto")
    assert [chat.render(ASK), chat.render(ASK)] == ["Be brief.\n\nWrite!"] * 2
    assert chat.render(ASK[1:]) == "Write!"


@pytest.mark.parametrize(
    ("token", "is_thought"), [("<think>", True), (" [THINK]\n", True), ("yes", False), ("", False)]
)
def test_a_first_token_that_opens_a_thought_is_no_answer(token: str, is_thought: bool) -> None:
    assert opens_thought(token) is is_thought
