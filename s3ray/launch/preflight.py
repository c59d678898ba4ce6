"""Everything that can be checked before anything expensive starts, so that a refused job costs nothing.

Used by ``run`` and ``plan``; reads files, starts nothing, writes nothing.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from s3ray.adapters import check_adapter
from s3ray.config.endpoint import check_extras, read_address, variables_in
from s3ray.config.engine_args import SPECULATION
from s3ray.config.job import MIN_SPAN_LENGTH, RunConfig, to_yaml
from s3ray.config.shaping import fingerprint, seed_fingerprint
from s3ray.errors import InputError
from s3ray.generator.engines import engine_class
from s3ray.generator.engines.arguments import check_arguments, installed_arguments
from s3ray.generator.engines.vllm import resolve_dtype
from s3ray.launch.fingerprint import shaping_settings
from s3ray.machine import cpu_flags
from s3ray.models import check_model, local_weights, look_up_model
from s3ray.placement.place import plan_placement
from s3ray.placement.plan import NodeFacts, Plan
from s3ray.redaction import secret_in, treat_as_secrets
from s3ray.storage.run_folder import RunStore
from s3ray.strategies import make_strategy
from s3ray.strategies.check import check_strategy
from s3ray.student.trial import check_student
from s3ray.tasks import Task, load_task
from s3ray.tasks.gold import GoldSplit, load_gold

_TOKENS_PER_WORD = 4 / 3  # of English; other languages have more
_NUM_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A checked job, with its parts loaded."""

    config: RunConfig
    task: Task
    gold: GoldSplit
    settings: dict[str, Any]
    fingerprint: str

    @property
    def places(self) -> dict[str, str]:
        """Where the task and its rows lie, for messages about what has changed there."""
        source = self.task.spec.source
        rows = str(self.task.data) if self.task.data is not None else (source.hub if source else "")
        return {"task_content": self.config.task, "gold_content": rows or f"task {self.task.name}"}

    @property
    def requests(self) -> dict[str, str]:
        """The fingerprints for request ids: ``seed`` of the settings that shape round 0, ``later`` of all settings.

        Runs with the same ``seed`` write the same seed set.
        """
        seed_settings = make_strategy(self.config.strategy).seed_settings
        return {"seed": seed_fingerprint(self.settings, seed_settings), "later": self.fingerprint}


def check_job(config: RunConfig) -> Job:
    """Load and check everything that a job names: task, prompts, gold, models.

    Raises:
        InputError: something is missing or does not fit; the message says what.
    """
    task = load_task(config.task, config.data)
    _check_prompts(config, task)
    check_strategy(config.strategy, task, config.generator.prompt_form)
    student = config.student
    if student.weigh != "none" and not config.generates:
        hint = "The checker weighs written rows, and strategy gold writes none: set it to none."
        raise InputError("has nothing to weigh", field="student.weigh", value=student.weigh, hint=hint)
    check_model(student.model, field="student.model", max_length=student.max_length)
    look_up_model(student.model, field="student.model")
    if not task.has_labels and student.max_length < MIN_SPAN_LENGTH:
        raise InputError(
            "is too short for question and passage",
            field="student.max_length",
            value=str(student.max_length),
            hint=f"Span tasks need {MIN_SPAN_LENGTH} or more; 384 is usual.",
        )
    generator = config.generator
    if config.generates:
        engine_class(generator.engine)
    if config.generates and (generator.loads_model or generator.engine == "openai") and not generator.model:
        hint = "Hub id, folder, GGUF file, or package:NAME."
        if generator.engine == "openai":
            hint = "The name under which the endpoints serve it."
        raise InputError("is missing", field="generator.model", hint=hint)
    check_endpoints(config)
    check_secrets(config, task.spec)
    check_engine_args(config)
    if _has_vllm(config) and generator.adapter:
        check_adapter(generator.adapter)
    if config.generates and generator.loads_model:
        is_chat = generator.prompt_form == "chat"
        check_model(generator.model, field="generator.model", needs_chat_template=is_chat)
        look_up_model(generator.model, field="generator.model")
        _check_lengths(config)
    gold = load_gold(task, config.gold, config.data)
    settings = shaping_settings(config, task, gold)
    return Job(config=config, task=task, gold=gold, settings=settings, fingerprint=fingerprint(settings))


def warnings(job: Job) -> Iterator[str]:
    """A line for each fault of a job that can run all the same: labels without rows, limits out of reach."""
    config, labels = job.config, job.task.labels
    parts = {"extrapolate": job.gold.extrapolate, "select": job.gold.select, "test": job.gold.test}
    for part, examples in parts.items():
        found = {example.label for example in examples}
        if lacking := [label for label in labels if label not in found]:
            yield f"WARNING gold.{part} has no row of {len(lacking)} of {len(labels)} labels: {_some(lacking)}"
    if not config.generates:
        return
    if _has_vllm(config) and config.generator.engine_args and installed_arguments() is None:
        yield "WARNING generator.engine_args: vLLM is not installed here, so engines check them when they start"
    if _has_vllm(config) and (adapter := config.generator.adapter):
        doubt = check_adapter(adapter).doubt(config.generator.model)
        if doubt:
            yield f"WARNING {doubt}"
    strategy = make_strategy(config.strategy)
    for round_ in range(strategy.last_round + 1):
        num_rows = strategy.num_rows(round_, 0)
        if 0 < num_rows < len(labels):
            yield f"WARNING round {round_} writes {num_rows} rows for {len(labels)} labels, so some get none"
    sampling, least = config.generator.sampling, job.task.spec.limits.min_words
    most = max(sampling.max_tokens, sampling.retry_max_tokens or 2 * sampling.max_tokens)
    if least > most / _TOKENS_PER_WORD:
        yield (
            f"WARNING limits.min_words {least} is out of reach: a text has at most {most} tokens, about "
            f"{most / _TOKENS_PER_WORD:.0f} words (generator.sampling.max_tokens)"
        )


def _some(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _NUM_NAMED} more" if len(labels) > _NUM_NAMED else ""
    return ", ".join(labels[:_NUM_NAMED]) + more


MAX_BYTES_TO_PLAN = 2 * 2**30
"""Students with more bytes of weights are not tried by a plan, only by the run."""


def try_planned_student(job: Job, store: RunStore) -> str:
    """Try the student of a plan where that is cheap: it is on this machine, small, and brings no code of its own.

    Returns and raises what ``try_student`` does.
    """
    place = local_weights(job.config.student.model)
    if place is None or place.is_file() or job.config.student.trust_remote_code:
        return ""
    num_bytes = sum(file.stat().st_size for file in place.glob("*.safetensors"))
    return try_student(job, store) if num_bytes <= MAX_BYTES_TO_PLAN else ""


def try_student(job: Job, store: RunStore, *, here: bool = False) -> str:
    """Try the student on two rows of gold, unless the run in ``store`` has trained one already.

    With ``here`` this process does it, for it will load torch anyway. Returns why the trial came to no end, if so.

    Raises:
        InputError: the model cannot serve the task.
    """
    if store.students():
        return ""
    gold = job.gold
    return check_student(job.config.student, job.task, [*gold.extrapolate, *gold.select, *gold.test], here=here)


def check_placement(job: Job, nodes: Sequence[NodeFacts]) -> tuple[Job, Plan]:
    """Place the job on these nodes; also returns the job with ``generator.dtype`` resolved for them."""
    plan = plan_placement(job.config, nodes)
    generator = job.config.generator
    if generator.engine == "vllm":
        dtype = resolve_dtype(generator.dtype, plan.device, cpu_flags())
        generator = generator.model_copy(update={"dtype": dtype})
    config = job.config.model_copy(update={"generator": generator})
    return replace(job, config=config), plan


def check_secrets(*written: BaseModel) -> None:
    """Refuse secrets in job and task, which are written into the run folder word for word; never shows a value.

    Raises:
        InputError: one of them holds a key or a password.
    """
    if found := secret_in("\n".join(map(to_yaml, written))):
        hint = "It would be written into the run folder. Keys and passwords go into the environment (docs/security.md)."
        raise InputError(f"the job or its task holds {found}", hint=hint)


def _check_prompts(config: RunConfig, task: Task) -> None:
    form = config.generator.prompt_form
    if config.generates and not task.has_form(form):
        other = "completion" if form == "chat" else "chat"
        hint = f"Write prompts of that form into the task, or set it to {other}."
        raise InputError(f"task {task.name} has no such prompts", field="generator.prompt_form", value=form, hint=hint)
    verify = config.curation.verify
    if config.generates and verify != "none" and not task.has_verify(form):
        problem = f"needs a {form} prompt `verify`, which task {task.name} does not have"
        hint = "Write one into the task, or set it to none."
        raise InputError(problem, field="curation.verify", value=verify, hint=hint)


def _check_lengths(config: RunConfig) -> None:
    generator = config.generator
    if generator.sampling.max_tokens >= generator.max_model_len:
        raise InputError(
            "leaves no room for a prompt",
            field="generator.sampling.max_tokens",
            value=str(generator.sampling.max_tokens),
            hint=f"It must be well below generator.max_model_len ({generator.max_model_len}).",
        )


def check_engine_args(config: RunConfig) -> None:
    """Compare arguments of vLLM's engine with the vLLM that is installed here, if one is.

    Raises:
        InputError: it does not have one of them, or s3ray sets it itself.
    """
    if _has_vllm(config) and config.generator.engine_args:
        check_arguments(config.generator.engine_args, installed_arguments())
        if config.generator.sampling.min_p and any(config.generator.engine_args.get(name) for name in SPECULATION):
            hint = "Set it to 0, or take speculation out of generator.engine_args."
            problem = "cannot be used with speculation, by vLLM's own rule"
            raise InputError(problem, field="generator.sampling.min_p", hint=hint)


def _has_vllm(config: RunConfig) -> bool:
    return config.generates and config.generator.engine == "vllm"


def check_endpoints(config: RunConfig) -> None:
    """Refuse endpoints that cannot be used. The error shows no value, which may be a key in the wrong field.

    Raises:
        InputError: engine openai has no endpoint, or one of them has no plain URL, no valid name of a variable, or
            headers, a query or a body that cannot be sent.
    """
    endpoints = config.generator.endpoints
    if not endpoints and config.generates and config.generator.engine == "openai":
        hint = "The openai engine asks servers: give the url of one or more."
        raise InputError("is missing", field="generator.endpoints", hint=hint)
    for number, endpoint in enumerate(endpoints):
        field = f"generator.endpoints.{number}"
        read_address(endpoint.url, f"{field}.url")
        on = config.generator.sampling.switched_on
        check_extras(endpoint.headers, endpoint.query, endpoint.extra_body, field=field, sampling=on)
        treat_as_secrets(endpoint.key_env, *variables_in([*endpoint.headers.values(), *endpoint.query.values()]))
        if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", endpoint.key_env):
            hint = "Name the variable, in capitals, that holds the key; the key itself belongs into no file."
            raise InputError("is not the name of a variable", field=f"{field}.key_env", hint=hint)
