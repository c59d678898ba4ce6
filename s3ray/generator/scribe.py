"""One request at one engine: its prompt is rendered, what was written is read, cleaned and, if asked for, verified."""

import time
from collections.abc import Mapping
from dataclasses import replace

from s3ray.config import GeneratorConfig
from s3ray.errors import InputError, RequestRefusedError
from s3ray.generator.engines.base import Engine
from s3ray.generator.recipe import Recipe
from s3ray.tasks import Task
from s3ray.types import (
    Generation,
    GenerationRequest,
    Outcome,
    OutcomeStatus,
    Parsed,
    Prompt,
    Rejection,
    RejectionReason,
    Span,
)

_WRITE_EXAMPLES = ("seed", "extrapolate")  # other prompts ask for notes, which have no label


class Scribe:
    """Answers requests with an engine, as their recipes say; ``name`` is the engine's."""

    def __init__(self, engine: Engine, recipes: Mapping[str, Recipe], config: GeneratorConfig, name: str) -> None:
        self._engine = engine
        self._recipes = recipes
        self._config = config
        self._name = name

    async def try_out(self) -> None:
        """Ask once, for each recipe that verifies, what will be asked of every text.

        Raises:
            InputError: the engine cannot answer: it has no probabilities, or cannot tell the choices apart.
            EngineDeadError: the engine is gone.
        """
        for name, recipe in self._recipes.items():
            if recipe.verify:
                try:
                    await self._engine.choose(f"trial {name}", self._question(recipe.task, _trial(recipe.task)))
                except RequestRefusedError as error:
                    hint = "Mend it, or set this to none."
                    problem = f"the generator cannot be asked for the labels of task {recipe.task.name}: {error}"
                    raise InputError(problem, field="curation.verify", hint=hint) from None

    async def answer(self, request: GenerationRequest, attempt: int) -> Outcome:
        """How the request ended; tokens and seconds cover everything that was asked for it.

        Raises:
            RequestRefusedError: the engine does not take it.
            EngineDeadError: the engine is gone.
        """
        started = time.monotonic()
        if request.template == "verify":
            outcome = await self._judge(request, attempt)
            return outcome._replace(seconds=time.monotonic() - started)
        prompt = self._recipes[request.recipe].task.render(request, self._config.prompt_form)
        generation, read = await self._write(request, prompt)
        outcome = await self._verify(request, self._outcome(request, attempt, generation, read))
        return outcome._replace(seconds=time.monotonic() - started)

    async def _write(self, request: GenerationRequest, prompt: Prompt) -> tuple[Generation, Parsed | Rejection]:
        """Generate and read; what was cut at its limit is written once more with a larger one."""
        sampling = self._config.sampling
        limit = request.max_tokens or sampling.max_tokens
        first = await self._engine.generate(request.id, prompt, seed=request.seed, max_tokens=limit)
        read = self._read(request, first)
        larger = max(limit, limit * (sampling.retry_max_tokens or 2 * sampling.max_tokens) // sampling.max_tokens)
        if not isinstance(read, Rejection) or read.reason is not RejectionReason.TRUNCATED or larger == limit:
            return first, read
        try:
            again = await self._engine.generate(f"{request.id}+", prompt, seed=request.seed, max_tokens=larger)
        except RequestRefusedError:  # the larger limit leaves no room for the prompt
            return first, read
        both = replace(
            again,
            num_prompt_tokens=first.num_prompt_tokens + again.num_prompt_tokens,
            num_cached_tokens=first.num_cached_tokens + again.num_cached_tokens,
            num_output_tokens=first.num_output_tokens + again.num_output_tokens,
        )
        return both, self._read(request, again)

    def _read(self, request: GenerationRequest, generation: Generation) -> Parsed | Rejection:
        recipe = self._recipes[request.recipe]
        return recipe.task.read(request, generation.text, generation.finish_reason, clean=recipe.clean)

    async def _verify(self, request: GenerationRequest, outcome: Outcome) -> Outcome:
        """Ask for the label of what was written; where there is no answer, ``detail`` says why and nothing is lost."""
        recipe = self._recipes[request.recipe]
        is_example = outcome.status is OutcomeStatus.ACCEPTED and request.template in _WRITE_EXAMPLES
        if not (recipe.verify and is_example):
            return outcome
        task = recipe.task
        try:
            question = self._question(task, task.verification(request, outcome.text))
            choice = await self._engine.choose(f"{request.id}?", question)
        except RequestRefusedError as error:
            return outcome._replace(detail=f"not verified: {error}")
        told = bool(choice.probabilities)
        return outcome._replace(
            verdict=task.target.verdict(request, choice.probabilities) if told else (),
            detail="" if told else "not verified: the generator named no label",
            num_prompt_tokens=outcome.num_prompt_tokens + choice.num_prompt_tokens,
            num_cached_tokens=outcome.num_cached_tokens + choice.num_cached_tokens,
            num_output_tokens=outcome.num_output_tokens + choice.num_output_tokens,
        )

    async def _judge(self, request: GenerationRequest, attempt: int) -> Outcome:
        """The label of a finished example, which nobody wrote just now: a gold row."""
        task = self._recipes[request.recipe].task
        choice = await self._engine.choose(request.id, self._question(task, request))
        told = bool(choice.probabilities)
        return Outcome(
            request_id=request.id,
            index=request.index,
            status=OutcomeStatus.ACCEPTED,
            detail="" if told else "the generator named no label",
            verdict=task.target.verdict(request, choice.probabilities) if told else (),
            num_prompt_tokens=choice.num_prompt_tokens,
            num_cached_tokens=choice.num_cached_tokens,
            num_output_tokens=choice.num_output_tokens,
            engine=self._name,
            attempt=attempt,
        )

    def _question(self, task: Task, request: GenerationRequest) -> Prompt:
        return task.render(request, self._config.prompt_form)

    def _outcome(
        self, request: GenerationRequest, attempt: int, generation: Generation, read: Parsed | Rejection
    ) -> Outcome:
        rejection = read if isinstance(read, Rejection) else None
        return Outcome(
            request_id=request.id,
            index=request.index,
            status=OutcomeStatus.REJECTED if rejection else OutcomeStatus.ACCEPTED,
            reason=rejection.reason.value if rejection else "",
            detail=rejection.detail if rejection else "",
            text="" if isinstance(read, Rejection) else read.text,
            raw=generation.text,
            finish_reason=generation.finish_reason,
            num_prompt_tokens=generation.num_prompt_tokens,
            num_cached_tokens=generation.num_cached_tokens,
            num_output_tokens=generation.num_output_tokens,
            engine=self._name,
            attempt=attempt,
        )


def _trial(task: Task) -> GenerationRequest:
    """A request for the label of an example that says nothing."""
    return GenerationRequest(
        id="trial",
        index=0,
        stage="verify",
        round=0,
        template="verify",
        group="",
        seed=0,
        context=dict.fromkeys(task.fields, "some text"),
        answer=Span(text="some", start=0),
    )
