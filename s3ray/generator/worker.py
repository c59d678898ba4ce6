"""One request at one engine: render the prompt, read and clean the text, verify its label if the job asks for that."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from s3ray.config.job import GeneratorConfig, RunConfig
from s3ray.curation.sketch import uses_sketches
from s3ray.errors import InputError, RequestRefusedError
from s3ray.generator.engines.base import Choice, Engine
from s3ray.tasks import Task
from s3ray.tasks.spec import Form, template_parts
from s3ray.text import valid_text
from s3ray.types import (
    Example,
    Generation,
    GenerationRequest,
    Origin,
    Outcome,
    OutcomeStatus,
    Parsed,
    Prompt,
    Rejection,
    RejectionReason,
    Source,
    Span,
)

_WRITE_EXAMPLES = ("seed", "extrapolate")  # other prompts ask for notes, which have no label


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedTask:
    """What an actor needs to know of each run whose requests it answers.

    ``clean``: texts are cleaned (``curation.clean``). ``verify``: the generator is asked for the label of each text.
    ``sketch``: each text goes with its sketch, by which the driver finds copies.
    """

    task: Task
    clean: bool
    verify: bool = False
    sketch: bool = False

    @classmethod
    def of(cls, config: RunConfig, task: Task) -> "ServedTask":
        """Read it from a run's settings."""
        verify = config.curation.verify != "none"
        return cls(task=task, clean=config.curation.clean, verify=verify, sketch=uses_sketches(config))


class Worker:
    """Answers requests with an engine, each as its served task says; ``name`` is the engine's."""

    def __init__(self, engine: Engine, tasks: Mapping[str, ServedTask], config: GeneratorConfig, name: str) -> None:
        self._engine = engine
        self._tasks = tasks
        self._config = config
        self._name = name

    async def try_out(self) -> None:
        """Ask one trial question for each task that verifies its texts.

        Raises:
            InputError: the engine cannot answer: it has no probabilities, or cannot tell the choices apart.
            EngineDeadError: the engine is gone.
        """
        for name, served in self._tasks.items():
            if served.verify:
                try:
                    await self._engine.choose(f"trial {name}", self._question(served.task, _trial(served.task)))
                except RequestRefusedError as error:
                    hint = "Fix that, or set this to none."
                    problem = f"the generator cannot be asked for the labels of task {served.task.name}: {error}"
                    raise InputError(problem, field="curation.verify", hint=hint) from None

    async def answer(self, request: GenerationRequest, attempt: int) -> Outcome:
        """Answer one request; the outcome's tokens and seconds cover all calls of the engine for it.

        Raises:
            RequestRefusedError: the engine refuses it.
            EngineDeadError: the engine is gone.
        """
        started = time.monotonic()
        if request.template == "verify":
            outcome = await self._judge(request, attempt)
            return outcome._replace(seconds=time.monotonic() - started)
        prompt = self._tasks[request.served_task].task.render(request, self._config.prompt_form)
        generation, read = await self._write(request, prompt)
        outcome = await self._verify(request, self._outcome(request, attempt, generation, read))
        return outcome._replace(seconds=time.monotonic() - started)

    async def _write(self, request: GenerationRequest, prompt: Prompt) -> tuple[Generation, Parsed | Rejection]:
        """Generate and read; a text that was cut at its token limit is generated once more with a larger limit."""
        sampling = self._config.sampling
        limit = request.max_tokens or sampling.max_tokens
        first = _valid(await self._engine.generate(request.id, prompt, seed=request.seed, max_tokens=limit), prompt)
        read = self._read(request, first)
        larger = max(limit, limit * (sampling.retry_max_tokens or 2 * sampling.max_tokens) // sampling.max_tokens)
        if not isinstance(read, Rejection) or read.reason is not RejectionReason.TRUNCATED or larger == limit:
            return first, read
        try:
            said = await self._engine.generate(f"{request.id}+", prompt, seed=request.seed, max_tokens=larger)
            again = _valid(said, prompt)
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
        served = self._tasks[request.served_task]
        return served.task.read(request, generation.text, generation.finish_reason, clean=served.clean)

    async def _verify(self, request: GenerationRequest, outcome: Outcome) -> Outcome:
        """Ask for the label of a text. Without an answer the outcome stays as it is and ``detail`` says why."""
        served = self._tasks[request.served_task]
        is_example = outcome.status is OutcomeStatus.ACCEPTED and request.template in _WRITE_EXAMPLES
        if not (served.verify and is_example):
            return outcome
        task = served.task
        try:
            question = self._question(task, task.verification(request, outcome.text))
            choice = await self._engine.choose(f"{request.id}?", question)
        except RequestRefusedError as error:
            return outcome._replace(detail=valid_text(f"not verified: {error}"))
        probabilities = _label_probabilities(task, request, choice)
        return outcome._replace(
            label_probabilities=probabilities,
            detail="" if probabilities else "not verified: the generator named no label",
            num_prompt_tokens=outcome.num_prompt_tokens + choice.num_prompt_tokens,
            num_cached_tokens=outcome.num_cached_tokens + choice.num_cached_tokens,
            num_output_tokens=outcome.num_output_tokens + choice.num_output_tokens,
        )

    async def _judge(self, request: GenerationRequest, attempt: int) -> Outcome:
        """Ask for the label of a gold row."""
        task = self._tasks[request.served_task].task
        choice = await self._engine.choose(request.id, self._question(task, request))
        probabilities = _label_probabilities(task, request, choice)
        return Outcome(
            request_id=request.id,
            index=request.index,
            status=OutcomeStatus.ACCEPTED,
            detail="" if probabilities else "the generator named no label",
            label_probabilities=probabilities,
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


def only_task(config: RunConfig, task: Task) -> dict[str, ServedTask]:
    """The served tasks of a pool that serves one run."""
    return {"": ServedTask.of(config, task)}


def _valid(generation: Generation, prompt: Prompt) -> Generation:
    """The generation as valid text, without the prompt, with which some servers and models begin their answer."""
    text = valid_text(generation.text)
    asked = valid_text(prompt.text or prompt.user or "").strip()
    begun = text.lstrip()
    if asked and begun.startswith(asked):
        text = begun[len(asked) :]
    return replace(generation, text=text)


def _label_probabilities(task: Task, request: GenerationRequest, choice: Choice) -> tuple[float, ...]:
    """The probability of each label; empty if the generator named none."""
    return task.target.label_probabilities(request, choice.probabilities) if choice.probabilities else ()


def trial_prompts(served: Iterable[ServedTask], form: Form) -> tuple[Prompt, ...]:
    """One prompt of each shape that requests of these tasks have: with or without system message, stops, choices."""
    shapes: dict[tuple[bool, bool, bool], Prompt] = {}
    for each in served:
        names = dict.fromkeys(name for of, name, _, _ in template_parts(each.task.spec) if of == form)
        for name in sorted(names, key=lambda name: name not in _WRITE_EXAMPLES):
            if name != "verify" or each.verify:
                prompt = each.task.render(_trial(each.task, name), form)
                shape = bool(prompt.system), bool(prompt.stop), bool(prompt.choices)
                # Servers may refuse too many stop strings, so the prompt with the most of them stands for the others.
                if shape not in shapes or len(prompt.stop) > len(shapes[shape].stop):
                    shapes[shape] = prompt
    return tuple(shapes.values())


def _trial(task: Task, template: str = "verify") -> GenerationRequest:
    """A request that is about a meaningless example."""
    fields = dict.fromkeys(task.fields, "some text")
    label = task.labels[0] if task.labels else None
    answer = Span(text="some", start=0)
    origin = Origin(source=Source.GOLD)
    return GenerationRequest(
        id="trial",
        index=0,
        stage=template,
        round=0,
        template=template,
        label=label if template != "verify" else None,
        group="",
        seed=0,
        context=fields,
        answer=answer,
        attributes={name: values[0] for name, values in task.attributes.items()},
        parent=Example(id="", fields=fields, label=label, answers=(answer,), origin=origin),
    )
