"""The job file: one strict, typed tree. YAML goes in, the resolved YAML goes out with the run.

Every field says what it is for; an unknown field is an error. Fields marked ``execution`` may change between two
starts of the same run; all others shape the data and are fingerprinted (DESIGN: two kinds of settings).
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, model_validator

from s3ray.methods import CurationConfig, StrategyConfig
from s3ray.plugins import BuiltinOrImportPath, is_import_path, load_class
from s3ray.presets import METHOD_PRESETS, STUDENT_PRESETS
from s3ray.section import EXECUTION, NAME_PATTERN, Probability, Section

MIN_SPAN_LENGTH = 32
"""Tokens that a student of a span task must read at least: question and passage share them."""


class GoldConfig(Section):
    """The labelled data and how it is split. The three parts share no row."""

    extrapolate: PositiveInt | Literal["all"] = 300
    """Rows whose mistakes are shown to the generator (paper: the gold-eval set). all: every row that is in no other
    part, as in the paper."""
    select: PositiveInt = 200
    """Rows on which the student's best epoch is chosen."""
    test: PositiveInt | Literal["all"] = "all"
    """Rows on which the last student is scored, once, at the end."""
    seed: int = 0
    """Which rows are drawn to extrapolate and select. Test rows are the same for every seed."""


class SamplingConfig(Section):
    """How the generator decodes (paper: nucleus sampling at temperature 0.9)."""

    temperature: float = Field(default=0.9, ge=0, le=5)
    """Randomness; 0 is greedy."""
    top_p: Probability = 0.9
    """Nucleus mass."""
    max_tokens: PositiveInt = 256
    """Longest generation, in tokens; what is cut there is written once more with `retry_max_tokens`."""
    retry_max_tokens: PositiveInt | None = None
    """Limit of that second try; what is cut there too is rejected as truncated. null: twice `max_tokens`; the same as
    `max_tokens`: no second try."""


class FakeConfig(Section):
    """The fake engine's script, for plumbing and chaos; it proves nothing about quality or speed."""

    tokens_per_s: float = Field(default=0.0, ge=0, json_schema_extra=EXECUTION)
    """Speed of one sequence; 0 answers at once."""
    start_s: float = Field(default=0.0, ge=0, json_schema_extra=EXECUTION)
    """Seconds until the engine is ready."""
    delay_s: float = Field(default=0.0, ge=0, json_schema_extra=EXECUTION)
    """Seconds that every request takes beside its tokens."""
    die_after: int | None = Field(default=None, ge=0, json_schema_extra=EXECUTION)
    """Each engine process dies after this many answers."""
    hang_after: int | None = Field(default=None, ge=0, json_schema_extra=EXECUTION)
    """Each engine process answers nothing any more after this many answers, and looks healthy."""
    poison_every: PositiveInt | None = Field(default=None, json_schema_extra=EXECUTION)
    """A request whose sampling seed is divisible by this ends the engine, wherever and however often it is asked."""
    takes_gpus: bool = Field(default=False, json_schema_extra=EXECUTION)
    """Reserve GPUs as a real engine does, to try a placement on a cluster (pretend GPUs will do)."""


class EndpointConfig(Section):
    """A server that speaks OpenAI's protocol."""

    url: str
    """Base URL, such as https://api.openai.com/v1; without user, password or query."""
    model: str = ""
    """The name under which this server serves `generator.model`; empty: that very name."""
    key_env: str = "OPENAI_API_KEY"
    """The environment variable (capitals) that holds the key where the engine runs. Servers without keys need none."""


class GeneratorConfig(Section):
    """The large language model and the engines that host it."""

    engine: Annotated[str, BuiltinOrImportPath(("vllm", "openai", "fake"))] = "vllm"
    """vllm: the real thing. openai: servers that speak OpenAI's protocol. fake: deterministic text from the request.
    An import path is that of an engine of your own (docs/extending.md)."""
    model: str = ""
    """Hub id, folder, GGUF file, or package:NAME (weights inside an installed package); with `openai` the name that the
    endpoints know. The fake engine needs none."""
    prompt_form: Literal["chat", "completion"] = "chat"
    """chat: messages through the model's chat template. completion: a text to continue, for base and tiny models."""
    sampling: SamplingConfig = SamplingConfig()
    """How the model decodes."""
    max_model_len: PositiveInt = 2048
    """Longest prompt plus generation, in tokens."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(default="auto", json_schema_extra=EXECUTION)
    """auto: the model's own on a GPU; on a CPU bfloat16 where the CPU has it, else float32."""
    engines: PositiveInt = Field(default=1, json_schema_extra=EXECUTION)
    """Engines in the pool, one Ray actor each."""
    min_engines: PositiveInt | None = Field(default=None, json_schema_extra=EXECUTION)
    """Begin when at least so many of `engines` fit; the others join when nodes do. null: all must fit."""
    tensor_parallel: PositiveInt = Field(default=1, json_schema_extra=EXECUTION)
    """GPUs per engine, or per stage of an engine: on one node, or across nodes where no node has so many."""
    pipeline_parallel: PositiveInt = Field(default=1, json_schema_extra=EXECUTION)
    """Stages per engine, of `tensor_parallel` GPUs each: on one node where they fit, else across nodes."""
    gpu_share: Probability = Field(default=1.0, json_schema_extra=EXECUTION)
    """Part of a GPU per engine: 0.5 puts two engines on each GPU. Below 1 for engines of one GPU only."""
    accelerator: str | None = Field(default=None, min_length=1, json_schema_extra=EXECUTION)
    """Type of GPU that engines need (Ray's label ray.io/accelerator-type: H100, A10G ...); null: any."""
    max_num_seqs: PositiveInt = Field(default=256, json_schema_extra=EXECUTION)
    """Sequences that one engine decodes at once."""
    max_num_batched_tokens: PositiveInt = Field(default=8192, json_schema_extra=EXECUTION)
    """Tokens that one engine step may process."""
    gpu_memory_utilization: Probability = Field(default=0.9, json_schema_extra=EXECUTION)
    """Part of a GPU's memory that one engine may take; where `gpu_share` is below 1, part of its share of it."""
    kv_cache_gib: PositiveInt = Field(default=1, json_schema_extra=EXECUTION)
    """Memory for the KV cache of one engine on a CPU, in GiB."""
    request_s: PositiveFloat = Field(default=600.0, json_schema_extra=EXECUTION)
    """How long one request may take; after that it ends as failed (timeout)."""
    ready_s: PositiveFloat = Field(default=900.0, json_schema_extra=EXECUTION)
    """How long an engine may take to start."""
    stall_s: PositiveFloat = Field(default=300.0, json_schema_extra=EXECUTION)
    """An engine with requests under way that finishes none and computes nothing for so long is killed and replaced."""
    max_restarts: int = Field(default=5, ge=0, json_schema_extra=EXECUTION)
    """How often each engine of the pool may be started again within an hour; after that the others go on without it."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless you read it."""
    endpoints: list[EndpointConfig] = Field(default=[], json_schema_extra=EXECUTION)
    """Servers of the `openai` engine; the engines of the pool take them in turn, each with `max_num_seqs` requests at
    once at the most."""
    fake: FakeConfig = FakeConfig()
    """Script of the fake engine."""

    @property
    def needs_devices(self) -> bool:
        """Whether an engine gets GPUs, or cores of its own where there are none."""
        return self.fake.takes_gpus or self._is("needs_devices")

    @property
    def loads_model(self) -> bool:
        """Whether an engine loads ``model`` itself: a hub id, folder, GGUF file or package."""
        return self._is("loads_model")

    def _is(self, what: str) -> bool:
        """What the class of an engine says of it. Builtin ones are known without their imports."""
        if is_import_path(self.engine):
            return bool(getattr(load_class(self.engine, "generator.engine"), what, False))
        return self.engine == "vllm"


class StudentConfig(Section):
    """The small model and its training. It starts from the base checkpoint in every round."""

    preset: Literal["paper-imdb", "paper-qnli", "paper-rte", "paper-adversarial_qa"] | None = Field(
        default=None, json_schema_extra=EXECUTION
    )
    """The paper's hyper-parameters for one of its tasks: they take the place of the defaults below."""
    model: str = "distilbert/distilbert-base-uncased"
    """Hub id, folder, or package:NAME."""
    learning_rate: PositiveFloat = 5.0e-5
    """Peak rate of AdamW; linear warm-up, linear decay."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW weight decay."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps spent warming up."""
    batch_size: PositiveInt = 16
    """Rows per optimiser step, over all workers."""
    epochs: PositiveInt = 4
    """Passes over the training set; the best one on the selection part is kept."""
    min_steps: int = Field(default=0, ge=0)
    """At least this many optimiser steps: small sets get more epochs."""
    patience: PositiveInt | None = None
    """Stop after so many epochs without a better score on the selection part; null: never."""
    max_length: PositiveInt = 128
    """Longest input in tokens; longer ones are cut (span tasks: windows with a stride)."""
    rows_at_once: PositiveInt | None = Field(default=None, json_schema_extra=EXECUTION)
    """Rows of a batch that a worker computes at once, where its memory is short of a whole share: their gradients are
    added up. null: all of its share."""
    workers: PositiveInt = Field(default=1, json_schema_extra=EXECUTION)
    """Ray Train workers. Any number computes the same, but for the rounding of sums and the units that are dropped."""
    min_workers: PositiveInt | None = Field(default=None, json_schema_extra=EXECUTION)
    """Train with as many of `workers` as fit, at least so many, and with more when nodes join. null: all must fit."""
    accelerator: str | None = Field(default=None, min_length=1, json_schema_extra=EXECUTION)
    """Type of GPU that train workers need (Ray's label ray.io/accelerator-type); null: any."""
    weigh: Literal["none", "dimp"] = "none"
    """dimp: a written row weighs as much as a checker, trained on gold, believes its label more than the student does
    at that moment (DIMP loss, arXiv 2410.21526). Needs no more rows of gold than `gold.extrapolate`. Not with gold."""
    max_weight: PositiveFloat = 2.0
    """Largest such weight; gold rows weigh 1. Used by dimp alone."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless you read it."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, given: Any) -> Any:
        # What shapes the data are the fields that it fills in, and these are in the resolved config.
        return {**STUDENT_PRESETS.get(str(given.get("preset")), {}), **given} if isinstance(given, dict) else given

    @property
    def least_workers(self) -> int:
        """With fewer workers no training begins."""
        return self.min_workers or self.workers


class PlacementConfig(Section):
    """Who holds which devices when."""

    mode: Literal["split", "swap"] = Field(default="swap", json_schema_extra=EXECUTION)
    """split: engines and train workers on disjoint devices. swap: all devices generate, then all train."""
    leave: Literal["stop", "sleep_1", "sleep_2"] = Field(default="stop", json_schema_extra=EXECUTION)
    """How engines on GPUs make way in swap. stop: they end and start again. sleep_1: their weights wait in the host's
    memory. sleep_2: weights are dropped and read again. Asleep they keep a part of their GPU's reservation."""

    @property
    def sleep_level(self) -> int:
        """The level of sleep in which engines leave; 0 where they stop."""
        return {"stop": 0, "sleep_1": 1, "sleep_2": 2}[self.leave]


class ClusterConfig(Section):
    """The Ray cluster to run on."""

    address: str = Field(default="auto", json_schema_extra=EXECUTION)
    """auto: the cluster that RAY_ADDRESS names or that `ray start` started on this machine, else one is started here.
    local: always start one here. HOST:PORT: that cluster."""


class RunConfig(Section):
    """One run: one task, one strategy, one generator, one student, one seed."""

    name: str = Field(pattern=NAME_PATTERN, max_length=100, json_schema_extra=EXECUTION)
    """Name of the run and of its folder."""
    task: str
    """Name of a builtin task, or path of a task YAML."""
    data: str | None = Field(default=None, json_schema_extra=EXECUTION)
    """Folder with train, validation and test files (.jsonl, .csv or .parquet), or one such file with all rows, of which
    a fifth is the test split; replaces the task's own source."""
    gold: GoldConfig = GoldConfig()
    """The labelled data."""
    strategy: StrategyConfig = StrategyConfig()
    """Where the prompts come from."""
    generator: GeneratorConfig = GeneratorConfig()
    """The large language model."""
    curation: CurationConfig = CurationConfig()
    """Which generations are kept."""
    student: StudentConfig = StudentConfig()
    """The small model."""
    placement: PlacementConfig = PlacementConfig()
    """Who holds which devices when."""
    cluster: ClusterConfig = ClusterConfig()
    """Where it runs."""
    store: str = Field(default="runs", json_schema_extra=EXECUTION)
    """Folder that gets one folder per run, or an fsspec URL such as s3://bucket/runs; every node must reach it."""
    seed: int = 0
    """Seed of generation and training."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, given: Any) -> Any:
        strategy = given.get("strategy") if isinstance(given, dict) else None
        preset = METHOD_PRESETS.get(str(strategy.get("name")), {}) if isinstance(strategy, dict) else {}
        # What is no section at all is left for the check of types to complain about.
        own = {part: given.get(part, {}) for part in preset}
        filled = {part: {**preset[part], **own[part]} for part in preset if isinstance(own[part], dict)}
        return {**given, **filled} if filled else given

    @property
    def generates(self) -> bool:
        """Whether this run needs a generator at all."""
        return self.strategy.name != "gold"


def data_shaping(section: BaseModel) -> dict[str, Any]:
    """The settings of a config that shape the data, as plain values; execution settings are left out."""
    shaping: dict[str, Any] = {}
    for name, info in type(section).model_fields.items():
        extra = info.json_schema_extra
        if isinstance(extra, dict) and extra.get("execution"):
            continue
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            nested = data_shaping(value)
            if nested:
                shaping[name] = nested
        else:
            shaping[name] = value
    return shaping


def fingerprint(shaping: Mapping[str, Any]) -> str:
    """A short, stable name (16 hex digits) for settings that shape the data."""
    text = json.dumps(shaping, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def seed_fingerprint(shaping: Mapping[str, Any], seed_settings: Mapping[str, object]) -> str:
    """The fingerprint of what shapes the seed set: neither the student nor what the strategy does afterwards.

    ``seed_settings`` stands for the whole of ``strategy``.
    """
    return fingerprint({**shaping, "student": None, "strategy": dict(seed_settings)})


def to_yaml(config: BaseModel) -> str:
    """The resolved config, every default spelled out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def data_changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two trees of data-shaping settings, one line per field."""
    lines: list[str] = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += data_changes(before, after, f"{prefix}{name}.")
        elif before != after:
            lines.append(f"{prefix}{name} was {before!r}, is {after!r}")
    return lines
