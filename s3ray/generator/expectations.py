"""How many tokens a request will take. Pure: learned from the answers so far."""

from s3ray.types import GenerationRequest

# Before anything was measured: a short prompt, and an answer that uses half of its limit.
PRIOR_PROMPT_TOKENS = 256
PRIOR_OUTPUT_TOKENS = 128
PRIOR_RATIO = 0.5
# Answers that a mean remembers: enough to be steady, few enough to follow rounds that differ.
MEMORY = 4096


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
        self._num = num = min(self._num + 1, MEMORY)
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
