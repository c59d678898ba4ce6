"""What chat models write around their answers goes; a text that mentions such a thing stays as it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3ray.curation.answer import Answer, read_answer

TEXT = "The lamp was dull."

AROUND = {
    "thought": "<think>\nOkay, a lamp.\n</think>\n\nThe lamp was dull.",
    "thought that the template opened": "Okay, a lamp.\n</think>\n\nThe lamp was dull.",
    "thought without line ends": "<think>Okay, a lamp</think>The lamp was dull.",
    "opened by the template, without line ends": "Okay, a lamp.</think>The lamp was dull.",
    "opened by the template, on one line": "Okay, a lamp. </think> The lamp was dull.",
    "end of a thought without full stop": "Okay, a lamp </think>\n\nThe lamp was dull.",
    "thought that ends in a quotation": 'A word like "lamp"</think>The lamp was dull.',
    "empty thought": "<think>\n\n</think>\n\nThe lamp was dull.",
    "closed at once": "</think>\n\nThe lamp was dull.",
    "two thoughts": "<think>a lamp</think>A lamp?\n<think>Better.</think>\nThe lamp was dull.",
    "thought about its own end": "<think>I print </think> first.\n</think>\nThe lamp was dull.",
    "capital letters": "<THINK>A lamp.</THINK>The lamp was dull.",
    "thinking": "<thinking>A lamp.</thinking>\nThe lamp was dull.",
    "reasoning": "<reasoning>A lamp.</reasoning>\nThe lamp was dull.",
    "Magistral": "[THINK]A lamp.[/THINK]The lamp was dull.",
    "Magistral, opened by the template": "A lamp.[/THINK]The lamp was dull.",
    "Seed": "<seed:think>A lamp.</seed:think>The lamp was dull.",
    "Kimi": "◁think▷A lamp.◁/think▷The lamp was dull.",
    "Command": "<|START_THINKING|>A lamp.<|END_THINKING|><|START_RESPONSE|>The lamp was dull.<|END_RESPONSE|>",
    "OpenThinker": "<|begin_of_thought|>A lamp.<|end_of_thought|>\n\n"
    "<|begin_of_solution|>The lamp was dull.<|end_of_solution|>",
    "MedGemma": "<unused94>thought\nA lamp.<unused95>The lamp was dull.",
    "Gemma": "<|channel>thought\nA lamp.<channel|>The lamp was dull.<turn|>",
    "gpt-oss": "<|channel|>analysis<|message|>A lamp.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>The lamp was dull.<|return|>",
    "gpt-oss without special tokens": "analysisA lamp will do.assistantfinalThe lamp was dull.",
    "gpt-oss, the answer alone": "finalThe lamp was dull.",
    "Granite": "Here is my thought process:\nA lamp.\n\nHere is my response:\nThe lamp was dull.",
    "thought after the answer": "The lamp was dull.\n<think>Was that right?</think>",
    "thought with a token": "<think>I end with <|im_end|>.</think>The lamp was dull.",
    "ChatML": "The lamp was dull.<|im_end|>\n<|im_start|>user\nAnother one please",
    "Phi-4 with a header": "<|im_start|>assistant<|im_sep|>The lamp was dull.<|im_end|>",
    "ChatML with a header": "<|im_start|>assistant\nThe lamp was dull.<|im_end|>",
    "Llama 3": "The lamp was dull.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nAnother",
    "Llama 3 with a header": "<|start_header_id|>assistant<|end_header_id|>\n\nThe lamp was dull.<|eot_id|>",
    "Llama 3 without special tokens": "The lamp was dull.assistant\n\nThe tent leaks.",
    "Llama 2": "The lamp was dull.</s><s>[INST] Another [/INST] The tent leaks.</s>",
    "Llama 2, the end of the prompt first": "[/INST] The lamp was dull. [INST] Another",
    "Phi": "The lamp was dull.<|end|><|user|>Another",
    "Phi with a header": "<|assistant|>\nThe lamp was dull.<|end|>",
    "old Gemma": "The lamp was dull.<end_of_turn>\n<start_of_turn>user\nAnother",
    "old Gemma with a header": "<start_of_turn>model\nThe lamp was dull.<end_of_turn>",
    "DeepSeek": "The lamp was dull.<｜end▁of▁sentence｜><｜User｜>Another",
    "EXAONE": "The lamp was dull.[|endofturn|]\n[|user|]Another",
    "end of text": "The lamp was dull.<|endoftext|>Q: What is a lamp?",
    "end of text after a blank": "The lamp was dull. <|endoftext|> Q: What?",
    "the user's turn first": "<|im_end|>\n<|im_start|>user\nAnother<|im_end|>\n"
    "<|im_start|>assistant\nThe lamp was dull.",
    "roles without special tokens": "The lamp was dull.\nuser\nAnother one please\nassistant\nThe tent leaks.",
    "Alpaca": "The lamp was dull.\n\n### Instruction:\nAnother",
    "Alpaca with a header": "### Response:\nThe lamp was dull.",
    "role": "assistant\nThe lamp was dull.",
    "tags": "<answer>The lamp was dull.</answer>",
    "a blank in the mark": "<think >\nA lamp.\n</think >\n\nThe lamp was dull.",
    "other names of thoughts": "<thinking_process>A lamp.</thinking_process>\nThe lamp was dull.",
    "a mark with an attribute": '<antThinking topic="a lamp">A lamp.</antThinking>The lamp was dull.',
    "marks in HTML": "&lt;think&gt;A lamp.&lt;/think&gt;\nThe lamp was dull.",
    "folded away in HTML": '<details type="reasoning" done="true">\n<summary>Thought</summary>\n> A lamp.\n</details>\n'
    "The lamp was dull.",
    "headings": "**Thinking:**\nA lamp.\n\n**Answer:**\nThe lamp was dull.",
    "headings on the line": "**Thinking:** A lamp.\n\n**Answer:** The lamp was dull.",
    "Markdown headings": "## Thought process:\nA lamp.\n\n## Final answer:\nThe lamp was dull.",
    "a call of a tool first": '<tool_call>{"name": "look"}</tool_call>\nThe lamp was dull.',
    "a call of a tool afterwards": 'The lamp was dull.\n<tool_call>{"name": "look"}</tool_call>',
    "a model without a chat format": "The lamp was dull.\n\nHuman: Another\n\nAssistant: The tent leaks.",
    "two speakers": "The lamp was dull.\n\nUser: Another\nAssistant: The tent leaks.",
    "thought and tags": "<think>A lamp.</think>\n<answer>\nThe lamp was dull.\n</answer>",
}

MENTIONS = [
    "The model prints </think> at the end of each answer.",
    'It forgets "</think>", so my parser breaks.',
    "It wraps everything in <think> and </think>.",
    "I had to strip `<|im_end|>` from every answer; `</think>` too.",
    "</think> is what this model forgets.",
    'The manual says that "<|endoftext|>" ends a text.',
    "Write <|endoftext|>, then go on.",
    "Old price <s>20</s> now 10",
    "It ends each answer with </think>\nThat is a nuisance.",
    "I think, therefore I am <3",
    "a < b and c > d [1]",
    "The user\nmanual is thin.",
    "My final assistant quit. The analysis was wrong.",
    "The new analysis tool: <analysis> is a tag there.",
    "<b>Bold</b> and </s",
    "finally over",
    "The semifinalWho won? And the assistantfinalThe end",
    "### A heading\nand a text",
    "Thoughts:\nThe lamp was dull.",
    "Steps to see it:\n\nUser: guest",
    "User: It is dull.\n\nUser: Hello?\nAssistant: Hello.",
    "In HTML it is &lt;b&gt; and &lt;/b&gt;.",
    "<details><summary>Plot</summary>The lamp was dull.</details>",
]

CUT = [
    "<think>\nOkay, a lamp. Or",
    "<think>",
    "[THINK]Okay, a lamp",
    "<|channel|>analysis<|message|>Okay, a lamp",
    "<|channel|>analysis<|message|>Okay, a lamp.<|end|>",
    "analysisWe need a lamp",
    "Here is my thought process:\nA lamp",
    "<think>a</think>\n<think>b",
    "&lt;think&gt;Okay, a lamp",
    "The lamp was dull.\n<think>Was that right",
]


@pytest.mark.parametrize("form", AROUND)
def test_thoughts_marks_and_further_turns_go(form: str) -> None:
    assert read_answer(AROUND[form]).text.strip() == TEXT


@pytest.mark.parametrize("text", MENTIONS)
def test_a_text_that_mentions_a_mark_stays_as_it_is(text: str) -> None:
    assert read_answer(text) == Answer(text=text)


@pytest.mark.parametrize("raw", CUT)
def test_a_thought_that_never_ends_leaves_no_text(raw: str) -> None:
    assert read_answer(raw) == Answer(text="", is_cut=True)


@given(st.text(st.characters(exclude_characters="<[◁\n", codec="utf-8")))
def test_a_text_on_one_line_without_brackets_passes_unchanged(text: str) -> None:
    answer = read_answer(f"It {text}")
    assert answer == Answer(text=f"It {text}")


@pytest.mark.parametrize("raw", [*AROUND.values(), *MENTIONS])
def test_reading_an_answer_twice_changes_nothing_more(raw: str) -> None:
    once = read_answer(raw).text
    assert read_answer(once).text.strip() == once.strip()
