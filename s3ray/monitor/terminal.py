"""The terminal: what a run, a model or whoever wrote a folder said is shown as text, and commands nothing."""

import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# Escape sequences begin with a control character (C0, DEL or C1): they clear screens, rename windows, and make some
# terminals type. The others turn the direction of text around, so that it reads otherwise than it is.
_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SHOWN = "\N{REPLACEMENT CHARACTER}"


class Terminal(Console):
    """A console without markup in which every control character of a text is replaced by a visible sign.

    Colours and the cursor's movements are rich's own, and stay.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What a renderable, and all that is in it, looks like."""
        for segment in super().render(renderable, options):
            is_ours = segment.control is not None
            yield segment if is_ours else Segment(harmless(segment.text), segment.style)


def harmless(text: str) -> str:
    """A text whose control characters, but for line ends and tabs, are visible signs."""
    return _COMMANDS.sub(_SHOWN, text)
