"""Finds the answer in what a chat model wrote: without its thoughts, and without the marks of its chat format.

Models that think aloud put their thoughts before the answer, and servers and engines do not always take them out.
Others go on after their answer with the next turn of the conversation. Every rule looks at where a mark stands, so that
a text which merely mentions one ("the model forgets to print </think>") passes unharmed.
"""

import re
from dataclasses import dataclass

_TAG = (
    r"(?:(?:seed:|longcat_|ant)?think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratch_?pad|cot"
    r"|(?:think(?:ing)?|thought|reasoning)[_ ]process|inner_(?:thoughts?|monologue)|chain_of_thought)"
    r"(?:\s+\w+=\"[^\"<>\n]{0,80}\")*\s*"
)
_ESCAPED = re.compile(rf"&lt;(/?{_TAG})&gt;", re.IGNORECASE)
_FOLDED = re.compile(r"\A\s*<details type=\"reasoning\"[^<>]*>.*?</details>", re.DOTALL)
_MARK = re.compile(
    rf"(?P<open><{_TAG}>|\[THINK\]|\u25c1think\u25b7|<unused94>(?:thought\b)?|<\|channel>\s*thought\b"
    r"|<\|(?:begin_of_thought|start_thinking|think|thinking|begin_of_think)\|>)"
    rf"|(?P<close></{_TAG}>|\[/THINK\]|\u25c1/think\u25b7|<unused95>|<channel\|>"
    r"|<\|(?:end_of_thought|end_thinking|/think|/thinking|end_of_think)\|>)"
    r"|<\|channel\|>\s*(?P<channel>\w+)[^<\n]{0,80}(?:<\|constrain\|>\s*\w+\s*)?<\|message\|>"
    r"|(?:<\|start_header_id\|>\s*(?P<header>\w+)\s*<\|end_header_id\|>"
    r"|(?:<\|im_start\|>|<start_of_turn>|<\|turn>)[ \t]*(?P<turn>\w+)[ \t]*(?:\n|(?=<\|im_sep\|>)|\Z)"
    r"|<\|start\|>\s*(?P<start>\w+)"
    r"|<[|\uff5c](?P<role>user|human|system|assistant|model|tool|observation)[|\uff5c]>"
    r"|\[\|(?P<speaker>user|system|assistant)\|\]|\[(?P<inst>/?)INST\])"
    r"|<[|\uff5c][\w\u2581]{1,40}[|\uff5c]>|\[\|endofturn\|\]"
    r"|<(?P<tool>/?)(?:tool_call|function_calls?|tool_response)>"
    r"|</s>|<(?:start|end)_of_turn>|<turn\|>|<\|turn>|<(?:eos|bos|pad)>",
    re.IGNORECASE,
)
_SPEAKERS = ("assistant", "model")
_OPENS_QUOTE = re.compile(r"(?:^|\s)[\"'`\u201c\u2018\u00ab(]$")
_QUOTED = re.compile(r"[\"'`\u201d\u2019\u00bb](?!\w)")
_GOES_ON = re.compile(r"[.,;:!?)]|[ \t]+[a-z]")
_ENDED = '.!?\u2026:*)"\u201d\u3002\uff01\uff1f'
# What is left of the marks where a tokenizer leaves special tokens out.
_BARE_THOUGHT = re.compile(r"\s*analysis(?=[A-Z\"\u201c])")
_BARE_FINAL = re.compile(r"\s*(?:assistant)?final(?=[A-Z\"\u201c])")
_TOLD_THOUGHT = re.compile(r"\s*here(?: is|['\u2019]s) my thought process:", re.IGNORECASE)
_TOLD_ANSWER = re.compile(r"here(?: is|['\u2019]s) my response:", re.IGNORECASE)
_THOUGHT_HEADING = re.compile(
    r"\s*[*#]{0,6} ?(?:my )?(?:thinking(?: process)?|thought process|thoughts?|reasoning|chain of thought)"
    r"(?::[*]{0,3}|[*]{1,3}:?)[ \t]*(?:\n|(?=\S))",
    re.IGNORECASE,
)
_ANSWER_HEADING = re.compile(
    r"\n[*#]{0,6} ?(?:my |the |final )?(?:answer|response|output|text|review|sentence|question|statement|hypothesis)"
    r"(?::[*]{0,3}|[*]{1,3}:?)\s+",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"\s*(?:<s>\s*)*(?:(?:assistant|model)[ \t]*\n|#{2,3} (?:response|assistant|answer):?[ \t]*\n)?", re.IGNORECASE
)
_HEAD = re.compile(r"\s*(?:<s>|[*#]|analysis|assistant|final|here|m(?:odel|y)|thought|thinking|reason|chain)", re.I)
_NEXT_TURN_WORDS = ("assistant", "user", "human", "system", "## ")
_NEXT_TURN = re.compile(
    r"(?<=[.!?\"\u201d)])(?:assistant|user)\n\n|\n(?:user|human|assistant|system)[ \t]*(?:\n|\Z)"
    r"|\n#{2,3} (?:Instruction|Response|Input|User|Assistant|Human)\b:?[ \t]*(?:\n|\Z)"
)
# "Human:" is how models without a chat format go on; "User:" may be part of a text, unless the other one answers.
_NEXT_SPEAKER = re.compile(r"\n\n(?:Human:|User:(?=.*\n(?:Assistant|AI):))", re.DOTALL)
_DIALOGUE = re.compile(r"\s*\W{0,3}(?:human|user|assistant|ai|bot|agent|customer)\b[^\n]{0,20}:", re.IGNORECASE)
_WRAPPED = re.compile(r"\s*<(answer|response|output|final|final_answer|solution)>(.*)</\1>\s*\Z", re.DOTALL | re.I)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model answered. ``is_cut``: it was still thinking when it was cut, and ``text`` is empty."""

    text: str
    is_cut: bool = False


def read_answer(raw: str) -> Answer:
    """Take thoughts, marks of the chat format and all that follows the answer away.

    Everything up to the end of the last thought goes, also where the chat template opened the thought.
    """
    # Most answers are a text alone: a cheap look at what a rule needs saves running the rule.
    if "&lt;" in raw:
        raw = _ESCAPED.sub(r"<\1>", raw)
    if "<" in raw or "[" in raw or "\u25c1" in raw:
        raw = _FOLDED.sub("", raw, count=1)
        answer = _first_turn(raw)
        if answer.is_cut:
            return answer
        raw = answer.text
    if _HEAD.match(raw):
        after = _after_told_thought(raw)
        if after is None:
            return Answer(text="", is_cut=True)
        raw = _HEADER.sub("", after, count=1)
    if "\n" in raw and any(word in raw for word in _NEXT_TURN_WORDS) and (next_turn := _NEXT_TURN.search(raw)):
        raw = raw[: next_turn.start()]
    if "\n\n" in raw and (speaker := _NEXT_SPEAKER.search(raw)) and not _DIALOGUE.match(raw):
        raw = raw[: speaker.start()]
    wrapped = _WRAPPED.match(raw) if "</" in raw else None
    return Answer(text=wrapped[2] if wrapped else raw)


def _after_told_thought(text: str) -> str | None:
    """The text after a thought that words begin and end; None if it does not end."""
    if _BARE_THOUGHT.match(text) or _TOLD_THOUGHT.match(text):
        mark = "assistantfinal" if _BARE_THOUGHT.match(text) else _TOLD_ANSWER
        ends = list(re.finditer(mark, text))
        return text[ends[-1].end() :] if ends else None
    if heading := _THOUGHT_HEADING.match(text):
        answer = _ANSWER_HEADING.search(text, heading.end() - 1)
        return text[answer.end() :] if answer else text
    bare = _BARE_FINAL.match(text)
    return text[bare.end() :] if bare else text


def _first_turn(raw: str) -> Answer:
    """The first turn of the assistant that says something, without the thoughts in it."""
    said, before, speaks, thinks, has_thought = "", "", True, False, False
    place = 0
    for mark in _MARK.finditer(raw):
        if not thinks and _is_mention(raw, mark):
            continue
        said += raw[place : mark.start()] if speaks and not thinks else ""
        place = mark.end()
        if mark["open"]:
            thinks, before = True, said or before
        elif mark["close"]:
            thinks, before, said = False, said or before, ""
        elif not thinks:
            if said.strip():
                return Answer(text=said)
            speaks = _speaks_after(mark, speaks)
            has_thought = has_thought or (mark["channel"] is not None and not speaks)
    said += raw[place:] if speaks and not thinks else ""
    if thinks or (has_thought and not said.strip()):
        return Answer(text="", is_cut=True)
    return Answer(text=said if said.strip() else before)


def _speaks_after(mark: re.Match[str], speaks: bool) -> bool:
    """Whether what follows a mark is meant for the reader."""
    if mark["channel"]:
        return mark["channel"].casefold() == "final"
    if mark["inst"] is not None:
        return mark["inst"] == "/"
    if mark["tool"] is not None:
        return mark["tool"] == "/"
    role = mark["header"] or mark["turn"] or mark["start"] or mark["role"] or mark["speaker"]
    return role.casefold() in _SPEAKERS if role else speaks


def _is_mention(text: str, mark: re.Match[str]) -> bool:
    """Whether a mark belongs to the sentence around it: in quotation marks, or in the midst of it."""
    line = text[: mark.start()].rpartition("\n")[2]
    after = text[mark.end() : mark.end() + 20]
    if _QUOTED.match(after) or _OPENS_QUOTE.search(line):
        return True
    in_sentence = bool(line.strip()) and line.rstrip()[-1] not in _ENDED
    if mark["open"]:
        return in_sentence or (bool(line.strip()) and _GOES_ON.match(after) is not None)
    if mark["close"]:
        if line and not line[-1].isspace():
            return False
        return not after.startswith("\n\n") if in_sentence else _GOES_ON.match(after) is not None
    if mark[0].casefold() == "</s>" and "<s>" in text[: mark.start()].lstrip()[1:]:
        return True  # HTML
    return in_sentence and line[-1] == " " and _GOES_ON.match(after) is not None
