"""Finds the answer in what a chat model wrote: without its thoughts, and without the marks of its chat format.

Models that think aloud put their thoughts before the answer, and servers and engines do not always take them out.
Others go on after their answer with the next turn of the conversation. Every rule looks at where a mark stands, so that
a text which merely mentions one ("the model forgets to print </think>") passes unharmed.
"""

import re
from dataclasses import dataclass

_TAG = r"(?:(?:seed:|longcat_)?think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad)"
_MARK = re.compile(
    rf"(?P<open><{_TAG}>|\[THINK\]|\u25c1think\u25b7|<unused94>(?:thought\b)?|<\|channel>\s*thought\b"
    r"|<\|(?:begin_of_thought|start_thinking|think|thinking|begin_of_think)\|>)"
    rf"|(?P<close></{_TAG}>|\[/THINK\]|\u25c1/think\u25b7|<unused95>|<channel\|>"
    r"|<\|(?:end_of_thought|end_thinking|/think|/thinking|end_of_think)\|>)"
    r"|<\|channel\|>\s*(?P<channel>\w+)[^<\n]{0,80}(?:<\|constrain\|>\s*\w+\s*)?<\|message\|>"
    r"|(?:<\|start_header_id\|>\s*(?P<header>\w+)\s*<\|end_header_id\|>"
    r"|(?:<\|im_start\|>|<start_of_turn>|<\|turn>)[ \t]*(?P<turn>\w+)[ \t]*(?:\n|\Z)"
    r"|<\|start\|>\s*(?P<start>\w+)"
    r"|<[|\uff5c](?P<role>user|human|system|assistant|model|tool|observation)[|\uff5c]>"
    r"|\[\|(?P<speaker>user|system|assistant)\|\]|\[(?P<inst>/?)INST\])"
    r"|<[|\uff5c][\w\u2581]{1,40}[|\uff5c]>|\[\|endofturn\|\]"
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
_HEADER = re.compile(
    r"\s*(?:<s>\s*)*(?:(?:assistant|model)[ \t]*\n|#{2,3} (?:response|assistant|answer):?[ \t]*\n)?", re.IGNORECASE
)
_NEXT_TURN = re.compile(
    r"(?<=[.!?\"\u201d)])(?:assistant|user)\n\n|\n(?:user|human|assistant|system)[ \t]*(?:\n|\Z)"
    r"|\n#{2,3} (?:Instruction|Response|Input|User|Assistant|Human)\b:?[ \t]*(?:\n|\Z)"
)
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
    if "<" in raw or "[" in raw or "\u25c1" in raw:
        answer = _first_turn(raw)
        if answer.is_cut:
            return answer
        raw = answer.text
    if _BARE_THOUGHT.match(raw) or _TOLD_THOUGHT.match(raw):
        mark = "assistantfinal" if _BARE_THOUGHT.match(raw) else _TOLD_ANSWER
        ends = list(re.finditer(mark, raw))
        if not ends:
            return Answer(text="", is_cut=True)
        raw = raw[ends[-1].end() :]
    raw = _HEADER.sub("", _BARE_FINAL.sub("", raw, count=1), count=1)
    if next_turn := _NEXT_TURN.search(raw):
        raw = raw[: next_turn.start()]
    wrapped = _WRAPPED.match(raw)
    return Answer(text=wrapped[2] if wrapped else raw)


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
