"""The fields of a job file with their descriptions."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PositiveFloat, PositiveInt, model_validator
from pydantic.functional_validators import BeforeValidator

from s3ray.config.dialect import dump
from s3ray.config.plugins import BuiltinOrImportPath, is_import_path, load_class
from s3ray.config.presets import METHOD_PRESETS, STUDENT_PRESETS

Probability = Annotated[float, Field(gt=0, le=1)]
EXECUTION: dict[str, Any] = {"execution": True}
"""Marks a field that may change between two starts of a run; all other fields shape the data."""
ADDED: dict[str, Any] = {"added": True}
"""Marks a field that came after the first runs, which go on: at its default it does not shape the data."""
ENGINE_ARGS: dict[str, Any] = {"added": True, "shapes": "data or execution"}
"""Marks the arguments of vLLM's engine, of which some shape the data (``config.engine_args``)."""
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Names that become names of folders."""


class StrictModel(BaseModel):
    """A part of a file that users write: strict, and unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


AUTO_NUM_SEQS = 256
"""``max_num_seqs: auto`` where there is no GPU."""
NOTE_STAGES = ("reasons", "subjects", "patterns")
"""The notes that the generator can write before the examples of a round, one stage each; named like their prompts."""
VERDICTS = "verdicts"
"""The stage in which the generator judges gold rows (``curation.calibrate``)."""
STAGES_ASIDE = (*NOTE_STAGES, VERDICTS)
"""Stages that write no examples."""


class PlusConfig(StrictModel):
    """The parts of s3plus, each a switch, so that its worth can be measured. With all of them off it is s3."""

    contrast: bool = True
    """Show the generator the student's wrong answer and, in tasks with labels, the most similar gold row that really
    has that label and that the student got right."""
    skip_persistent: int | None = Field(default=2, ge=2)
    """Skip gold rows that this many students in a row got wrong, as probably mislabelled; null: skip none."""
    coverage: float = Field(default=0.5, ge=0, le=1)
    """Share of each round's rows that is written from gold rows which the student got right without being sure, and
    which together cover gold (K-centre); 0: all rows are written from mistakes, as in s3."""
    variants: PositiveInt = 2
    """Fewest rows requested per parent; more variants mean fewer parents."""
    balance: bool = True
    """Write each round's rows for the labels that have the fewest rows so far; else for the labels of the mistakes."""
    clusters: int = Field(default=4, ge=0, le=100)
    """Groups of similar mistakes that the generator describes in words first, where the task has a prompt for it; the
    description is shown with each mistake of the group. 0: no descriptions."""
    near: bool = True
    """Give prompts the most similar other context too, from the seed set on. If the task's prompts use it (`near`), a
    text that must not fit its own context is written for the other one, which even a weak generator can do."""


class StrategyConfig(StrictModel):
    """Where the prompts come from (docs/strategies.md)."""

    name: Annotated[
        str, BuiltinOrImportPath(("gold", "zerogen", "goldgen", "progen", "s3", "transfer", "llm2llm", "s3plus"))
    ] = "s3"
    """gold: train on gold. zerogen: labels only. goldgen: imitate any gold row. progen: show the generator the rows
    that helped most. s3: extrapolate mistakes. transfer: s3, whose additions then join a zerogen seed set. llm2llm:
    begin with gold, extrapolate mistakes with the wrong answer shown. s3plus: s3 with the parts of `plus`.
    An import path is that of a strategy of your own (docs/extending.md)."""
    rounds: int = Field(default=2, ge=0, le=20)
    """Rounds of feedback from a student, after the seed set (paper: R = 2). Not used by gold, zerogen and goldgen."""
    seed_examples: int = Field(default=400, ge=0)
    """Accepted examples of the seed set, and of the zerogen set that ends transfer. Used by all but gold, zerogen and
    llm2llm."""
    per_mistake: PositiveInt = 1
    """Examples per mistake (paper: 1). Used by s3, transfer, llm2llm and s3plus where `rows` is not given."""
    rows: PositiveInt | None = None
    """Accepted examples that the last student learns from, for comparisons at equal size. Required by zerogen, goldgen
    and progen; elsewhere it replaces `per_mistake`: the rounds share what the seed set leaves, going over the mistakes
    as often as it takes."""
    rationales: bool = True
    """Ask for reasons behind each label first and put some into every seed prompt (paper, Algorithm 1). Never used by
    zerogen and progen."""
    two_stage: bool | None = None
    """Let the generator list what seed examples are about first (films, things bought), then write examples about each,
    as ZeroGen does, where the task has the prompt `subjects`. null: zerogen does (in transfer too), others do not."""
    train_on_gold: bool = False
    """Train students on the extrapolation part of gold too, beside what was written. gold and llm2llm always do."""
    reasons_per_label: PositiveInt = 20
    """Reasons kept per label (K in Algorithm 1)."""
    reasons_per_prompt: PositiveInt = 3
    """Reasons drawn into one seed prompt (k in Algorithm 1)."""
    candidates_per_row: float = Field(default=8.0, ge=1)
    """How many requests may be spent per accepted example before a stage gives up and says so."""
    ahead: float = Field(default=0.0, ge=0, le=1, json_schema_extra=ADDED)
    """Share of each round from the second on that is written from mistakes of the student before the last one, while
    the last one is trained; 0: none, as in the paper (docs/strategies.md). For s3, transfer and llm2llm."""
    plus: PlusConfig = PlusConfig()
    """The parts of s3plus. Used by s3plus alone."""

    @model_validator(mode="after")
    def _fits_together(self) -> "StrategyConfig":
        name, rows, seeds = self.name, self.rows, self.seed_examples
        if is_import_path(name):
            return self  # what it derives from is known where it is imported (strategies.like_builtin)
        if name in ("zerogen", "goldgen", "progen") and rows is None:
            raise ValueError(f"strategy {name} needs `rows`, the number of examples to write")
        if name in ("s3", "s3plus", "transfer", "progen") and not seeds:
            raise ValueError(f"strategy {name} needs `seed_examples`, or its first student has nothing to learn from")
        if rows is not None and name not in ("gold", "zerogen", "llm2llm") and rows < seeds:
            raise ValueError(f"`rows` ({rows}) is less than `seed_examples` ({seeds})")
        if name in ("progen", "transfer", "llm2llm", "s3plus") and not self.rounds:
            raise ValueError(f"strategy {name} needs `rounds`, 1 or more: without a student's feedback it is another")
        if name == "s3" and not self.rounds and rows not in (None, seeds):
            raise ValueError(f"with `rounds` 0 only the {seeds} `seed_examples` are written, not `rows`")
        if name in ("gold", "llm2llm") and self.two_stage:
            raise ValueError(f"strategy {name} writes no seed examples, so `two_stage` has nothing to do")
        if self.ahead and name not in ("s3", "transfer", "llm2llm"):
            raise ValueError(f"`ahead` is for s3, transfer and llm2llm, and the strategy is {name}")
        if name != "s3plus" and self.plus != PlusConfig():
            raise ValueError(f"`plus` holds the parts of s3plus, and the strategy is {name}")
        return self


class CurationConfig(StrictModel):
    """Which generations are kept."""

    clean: bool = True
    """Reject refusals and truncated texts, strip prefaces and quotes, apply the task's word limits."""
    near_duplicate: Probability | None = 0.95
    """Similarity (0 to 1, normalised edit similarity) from which a text counts as a copy; null: exact copies only."""
    search: Literal["auto", "exact", "sketch"] = Field(default="auto", json_schema_extra=ADDED)
    """How copies are found. exact: none is missed. sketch: for millions of rows; a few near copies may be missed. auto:
    sketch for more than 20,000 rows if `near_duplicate` is 0.9 or more (docs/curation.md)."""
    rouge_l: Probability | None = None
    """ROUGE-L (F-measure over words, 0 to 1) from which a text counts as a copy of another one, in any part of gold or
    among the rows written so far (LLM2LLM: 0.95); null: ignored."""
    verify: Literal["none", "drop", "soft"] = "none"
    """Ask the generator for the label of what it wrote, as a choice among the labels with their probabilities. drop:
    what it doubts (`verify_least`) is rejected. soft: likewise, and students learn its probabilities as soft labels."""
    verify_least: Probability = 0.5
    """Least probability that the generator must give to the label that was asked for."""
    calibrate: int = Field(default=200, ge=0)
    """Used with `verify` in tasks with labels: the generator first judges at most so many rows of gold's extrapolation
    part, and its verdicts are calibrated on these (vector scaling). 0: verdicts are not calibrated."""


MIN_SPAN_LENGTH = 32
"""Tokens that a student of a span task must read at least: question and passage share them."""


class GoldConfig(StrictModel):
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


class SamplingConfig(StrictModel):
    """How the generator decodes (paper: nucleus sampling at temperature 0.9)."""

    temperature: float = Field(default=0.9, ge=0, le=5)
    """Randomness; 0 is greedy."""
    top_p: Probability = 0.9
    """Nucleus mass."""
    top_k: int = Field(default=0, ge=0, json_schema_extra=ADDED)
    """Draw from so many likeliest tokens; 0: from all."""
    min_p: float = Field(default=0.0, ge=0, le=1, json_schema_extra=ADDED)
    """Draw from tokens that have at least this share of the likeliest one's probability; 0: from all."""
    repetition_penalty: float = Field(default=1.0, gt=0, le=10, json_schema_extra=ADDED)
    """Above 1 makes tokens of the prompt and of the text so far less likely; 1: off."""
    presence_penalty: float = Field(default=0.0, ge=-2, le=2, json_schema_extra=ADDED)
    """Above 0 makes tokens that the text has already less likely; 0: off."""
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2, json_schema_extra=ADDED)
    """Above 0 makes tokens less likely the more often the text has them; 0: off."""
    max_tokens: PositiveInt = 256
    """Longest generation, in tokens; what is cut there is written once more with `retry_max_tokens`."""
    retry_max_tokens: PositiveInt | None = None
    """Limit of that second try; what is cut there too is rejected as truncated. null: twice `max_tokens`; the same as
    `max_tokens`: no second try."""

    @property
    def switched_on(self) -> dict[str, float]:
        """The settings that are off by default, as far as they are on, by the names that vLLM and its server use."""
        fields = type(self).model_fields.items()
        return {
            name: getattr(self, name)
            for name, info in fields
            if info.json_schema_extra == ADDED and getattr(self, name) != info.default
        }


class FakeConfig(StrictModel):
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


SentParameter = Literal[
    "max_tokens", "temperature", "top_p", "seed", "stop", "logprobs", "top_logprobs",
    "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
]  # fmt: skip


class EndpointConfig(StrictModel):
    """A server that speaks OpenAI's protocol."""

    url: str
    """Base URL, such as https://api.openai.com/v1, without user and password; /chat/completions at its end is cut. Of
    what follows a ? only Azure's api-version may stand here."""
    model: str = ""
    """The name under which this server serves `generator.model`; empty: that very name."""
    key_env: str = "OPENAI_API_KEY"
    """The environment variable (capitals) that holds the key where the engine runs. Servers without keys need none."""
    headers: dict[str, str] = {}
    """Headers of each request. `${NAME}` stands for an environment variable of the engine, the only place for secrets:
    `{X-Api-Key: "${GATEWAY_KEY}"}`. Azure's `api-key` is set from `key_env` by itself."""
    query: dict[str, str] = {}
    """What is added to the URL of each request (`?name=value`), such as `{api-version: 2024-10-21}`; `${NAME}` as in
    `headers`."""
    parameters: dict[SentParameter, Annotated[str, Field(min_length=1)] | None] = {}
    """Other names of what requests say, null to leave it out: `{max_tokens: max_completion_tokens, seed: null}`. What a
    server refuses at the start is left out or renamed without this, and said (docs/endpoints.md)."""
    extra_body: dict[str, JsonValue] = {}
    """What is added to the body of each request, such as `{service_tier: flex}`."""
    requests_per_minute: PositiveInt | None = None
    """Most requests a minute, shared by the engines that take this endpoint; null: no limit."""
    tokens_per_minute: PositiveInt | None = None
    """Most tokens a minute, of prompts and answers together, likewise."""


def _read_off(value: object) -> object:
    """YAML takes the word ``off`` for a boolean."""
    return "off" if value is False else value


class GeneratorConfig(StrictModel):
    """The large language model and the engines that host it."""

    engine: Annotated[str, BuiltinOrImportPath(("vllm", "openai", "fake"))] = "vllm"
    """vllm: the real thing. openai: servers that speak OpenAI's protocol. fake: deterministic text from the request.
    An import path is that of an engine of your own (docs/extending.md)."""
    model: str = ""
    """Hub id, folder, GGUF file, or package:NAME (weights inside an installed package); with `openai` the name that the
    endpoints know. The fake engine needs none. `org/name@REVISION` names a branch, tag or commit of the hub; without it
    a run keeps the commit that it began with."""
    prompt_form: Literal["chat", "completion"] = "chat"
    """chat: messages through the model's chat template. completion: a text to continue, for base and tiny models."""
    thinking: Annotated[Literal["auto", "off"], BeforeValidator(_read_off)] = Field(
        default="auto", json_schema_extra=ADDED
    )
    """Models that think aloud before they answer. auto: as the model's chat template has it; thoughts are cut off from
    what is written. off: the template is told not to let the model think (`enable_thinking: false`), or the thought is
    left empty where it has no switch; endpoints are sent `chat_template_kwargs`. For prompt form `chat`."""
    adapter: str = Field(default="", json_schema_extra=ADDED)
    """LoRA adapter of the model: hub id, or folder with adapter_config.json and safetensors. For engine vllm; the fake
    engine leaves it aside. Empty: none."""
    sampling: SamplingConfig = SamplingConfig()
    """How the model decodes."""
    max_model_len: PositiveInt = 2048
    """Longest prompt plus generation, in tokens."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(default="auto", json_schema_extra=EXECUTION)
    """auto: the model's own on a GPU; on a CPU bfloat16 where the CPU has it, else float32."""
    engines: PositiveInt = Field(default=1, le=10_000, json_schema_extra=EXECUTION)
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
    max_num_seqs: PositiveInt | Literal["auto"] = Field(default="auto", json_schema_extra=EXECUTION)
    """Sequences that one engine decodes at once. auto: on a GPU by its memory, 32 to 1024 (docs/generator.md); 256 on a
    CPU, at an endpoint and by the fake engine."""
    max_num_batched_tokens: PositiveInt = Field(default=8192, json_schema_extra=EXECUTION)
    """Tokens that one engine step may process."""
    gpu_memory_utilization: Probability = Field(default=0.9, json_schema_extra=EXECUTION)
    """Part of a GPU's memory that one engine may take; where `gpu_share` is below 1, part of its share of it."""
    kv_cache_gib: PositiveInt = Field(default=1, json_schema_extra=EXECUTION)
    """Memory for the KV cache of one engine on a CPU, in GiB."""
    request_s: PositiveFloat = Field(default=600.0, json_schema_extra=EXECUTION)
    """How long one request may take; after that it ends as failed (timeout)."""
    ready_s: PositiveFloat = Field(default=900.0, json_schema_extra=EXECUTION)
    """How long an engine may take to start. Its node has fetched the model before; that does not count."""
    stall_s: PositiveFloat = Field(default=300.0, json_schema_extra=EXECUTION)
    """An engine with requests under way that finishes none and computes nothing for so long is killed and replaced."""
    max_restarts: int = Field(default=5, ge=0, json_schema_extra=EXECUTION)
    """How often each engine of the pool may be started again within an hour; after that the others go on without it."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Leave it off unless you have read that code."""
    endpoints: list[EndpointConfig] = Field(default=[], json_schema_extra=EXECUTION)
    """Servers of the `openai` engine; the engines of the pool take them in turn, each with `max_num_seqs` requests at
    once at the most."""
    engine_args: dict[str, JsonValue] = Field(default={}, json_schema_extra=ENGINE_ARGS)
    """Arguments of vLLM's engine that s3ray does not set itself, by their names in AsyncEngineArgs, such as
    `{quantization: fp8, kv_cache_dtype: fp8}`. Those that change which texts are written shape the data, others do not
    (docs/generator.md). For engine vllm; the fake engine leaves them aside."""
    engine_metrics: bool = Field(default=False, json_schema_extra=EXECUTION)
    """Export vLLM's own metrics through Ray too, as `ray_vllm_...` (docs/metrics.md). They cost the engine some of its
    time at each token."""
    fake: FakeConfig = FakeConfig()
    """Script of the fake engine."""

    @model_validator(mode="after")
    def _thinks_in_chat(self) -> "GeneratorConfig":
        if self.thinking == "off" and self.prompt_form != "chat":
            raise ValueError("`thinking` is a matter of chat templates, and prompt_form completion uses none")
        return self

    @model_validator(mode="after")
    def _has_no_server(self) -> "GeneratorConfig":
        given = [name for name in ("engine_args", "adapter", "engine_metrics") if getattr(self, name)]
        if self.engine == "openai" and given:
            raise ValueError(f"`{given[0]}` is a matter of engines that run here: a server has settings of its own")
        return self

    @property
    def num_seqs(self) -> int:
        """``max_num_seqs``; where that is auto, what it is without a GPU, and an estimate until one has been seen."""
        return AUTO_NUM_SEQS if self.max_num_seqs == "auto" else self.max_num_seqs

    @property
    def world_size(self) -> int:
        """GPUs of one engine, where ``gpu_share`` is 1."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def needs_devices(self) -> bool:
        """Whether an engine gets GPUs, or cores of its own where there are none."""
        return self.fake.takes_gpus or self._is("needs_devices")

    @property
    def loads_model(self) -> bool:
        """Whether an engine loads ``model`` itself: a hub id, folder, GGUF file or package."""
        return self._is("loads_model")

    def _is(self, what: str) -> bool:
        """A flag of the engine's class. Builtin engines are known without importing them."""
        if is_import_path(self.engine):
            return bool(getattr(load_class(self.engine, "generator.engine"), what, False))
        return self.engine == "vllm"


class StudentConfig(StrictModel):
    """The small model and its training. It starts from the base checkpoint in every round."""

    preset: Literal["paper-imdb", "paper-qnli", "paper-rte", "paper-adversarial_qa"] | None = Field(
        default=None, json_schema_extra=EXECUTION
    )
    """The paper's hyper-parameters for one of its tasks: they take the place of the defaults below."""
    model: str = "distilbert/distilbert-base-uncased"
    """Hub id (`org/name` or `org/name@REVISION`), folder, or package:NAME."""
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
    """Rows of a batch that a worker computes at once, if its whole share does not fit into memory; gradients are added
    up. null: the whole share."""
    workers: PositiveInt = Field(default=1, json_schema_extra=EXECUTION)
    """Ray Train workers. Any number computes the same, but for the rounding of sums and the units that are dropped; on
    GPUs no more are started than leave each 8 rows of `batch_size`, for more would only exchange gradients."""
    min_workers: PositiveInt | None = Field(default=None, json_schema_extra=EXECUTION)
    """Train with as many of `workers` as fit, at least so many, and with more when nodes join. null: all must fit."""
    accelerator: str | None = Field(default=None, min_length=1, json_schema_extra=EXECUTION)
    """Type of GPU that train workers need (Ray's label ray.io/accelerator-type); null: any."""
    weigh: Literal["none", "dimp"] = "none"
    """dimp: the weight of a synthetic row is the probability that a checker, trained on gold, gives to its label,
    divided by the student's own (DIMP loss, arXiv 2410.21526). Needs no gold beyond `gold.extrapolate`. Not with
    strategy gold."""
    max_weight: PositiveFloat = 2.0
    """Largest such weight; gold rows weigh 1. Used by dimp alone."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Leave it off unless you have read that code."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, given: Any) -> Any:
        # The preset's name is not data-shaping: the fields that it fills in are, and these are in the resolved config.
        return {**STUDENT_PRESETS.get(str(given.get("preset")), {}), **given} if isinstance(given, dict) else given

    @property
    def least_workers(self) -> int:
        """The fewest workers with which a training begins."""
        return self.min_workers or self.workers


class PlacementConfig(StrictModel):
    """Who holds which devices when."""

    mode: Literal["split", "swap"] = Field(default="swap", json_schema_extra=EXECUTION)
    """split: engines and train workers on disjoint devices. swap: all devices generate, then all train."""
    leave: Literal["auto", "stop", "sleep_1", "sleep_2"] = Field(default="auto", json_schema_extra=EXECUTION)
    """How engines on GPUs make way in swap. stop: they end and start again. sleep_1: their weights wait in the host's
    memory. sleep_2: weights are dropped and read again. Asleep they keep a part of their GPU's reservation. auto:
    sleep_1 for vLLM engines of one GPU where cards and hosts allow it (docs/placement.md), else stop."""
    elastic: bool = Field(default=False, json_schema_extra=EXECUTION)
    """The cluster starts nodes with GPUs when asked for them, and takes idle ones away (`ray up`, KubeRay): begin with
    `generator.min_engines` (null: 1), ask for more where they pay, give idle ones back. For one run, in swap."""

    @property
    def sleep_level(self) -> int:
        """The level at which engines sleep during training; 0 if they stop instead, or if a plan is yet to decide."""
        return {"auto": 0, "stop": 0, "sleep_1": 1, "sleep_2": 2}[self.leave]


class ClusterConfig(StrictModel):
    """The Ray cluster to run on."""

    address: str = Field(default="auto", json_schema_extra=EXECUTION)
    """auto: the cluster that RAY_ADDRESS names or that `ray start` started on this machine, else one is started here.
    local: always start one here. HOST:PORT: that cluster."""


class RunConfig(StrictModel):
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
        # A value that is not a section at all is left for pydantic to refuse.
        own = {part: given.get(part, {}) for part in preset}
        filled = {part: {**preset[part], **own[part]} for part in preset if isinstance(own[part], dict)}
        return {**given, **filled} if filled else given

    @property
    def generates(self) -> bool:
        """Whether this run needs a generator at all."""
        return self.strategy.name != "gold"


def to_yaml(config: BaseModel) -> str:
    """The resolved config, every default spelled out."""
    return dump(config.model_dump(mode="json"))
