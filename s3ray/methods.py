"""The part of a job that says how examples are written and which are kept: strategy and curation."""

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from s3ray.section import Probability, Section


class PlusConfig(Section):
    """The parts of s3plus, each a switch, so that its worth can be measured. Used by s3plus alone."""

    contrast: bool = True
    """Show the generator what the student answered, and the most similar row of gold that it got right."""
    skip_persistent: PositiveInt | None = 2
    """Pass over gold rows that so many students in a row got wrong, as probably mislabelled; null: none."""
    coverage: float = Field(default=0.5, ge=0, le=1)
    """Share of each round's rows that is written from moderately hard, representative gold rows instead of mistakes
    (coverage score); 0: mistakes alone, as S3."""
    variants: PositiveInt = 2
    """Rows asked for per parent, of which each differs from its siblings; more variants mean fewer parents."""
    balance: bool = True
    """Write as many rows of each label; else as many as mistakes have it."""
    clusters: int = Field(default=4, ge=0, le=100)
    """Groups of similar mistakes whose pattern the generator first describes in words; 0: no descriptions."""


class StrategyConfig(Section):
    """Where the prompts come from."""

    name: Literal["gold", "zerogen", "goldgen", "progen", "s3", "transfer", "llm2llm", "s3plus"] = "s3"
    """gold: train on gold. zerogen: labels only. goldgen: imitate any gold row. progen: show the generator the rows
    that helped most. s3: extrapolate mistakes. transfer: s3, whose additions then join a zerogen seed set. llm2llm:
    begin with gold, extrapolate mistakes with the wrong answer shown. s3plus: s3 with the parts of `plus`."""
    rounds: int = Field(default=2, ge=0, le=20)
    """Rounds after the seed set (paper: R = 2 rounds of extrapolation). Not used by gold, zerogen and goldgen."""
    seed_examples: int = Field(default=400, ge=0)
    """Accepted examples of the seed set. Used by all but gold, zerogen and llm2llm."""
    per_mistake: PositiveInt = 1
    """Examples asked for per mistake (paper: 1). Used by s3 where `rows` is not given."""
    rows: PositiveInt | None = None
    """Accepted examples in all, for comparisons at equal size. Required by zerogen and goldgen; with s3 it replaces
    `per_mistake`: the rounds share what the seed set leaves, going over the mistakes as often as it takes."""
    rationales: bool = True
    """Ask for reasons behind each label first and put some into every seed prompt (paper, Algorithm 1). Never used by
    zerogen and progen."""
    two_stage: bool | None = None
    """Let the generator write what seed examples are about first (titles of films, subjects of reviews), then an
    example for each, as ZeroGen does, where the task has a prompt for it. null: zerogen does, others do not."""
    train_on_gold: bool = False
    """Train students on the extrapolation part of gold too, beside what was written. gold and llm2llm always do."""
    reasons_per_label: PositiveInt = 20
    """Reasons kept per label (K in Algorithm 1)."""
    reasons_per_prompt: PositiveInt = 3
    """Reasons drawn into one seed prompt (k in Algorithm 1)."""
    candidates_per_row: float = Field(default=8.0, ge=1)
    """How many requests may be spent per accepted example before a stage gives up and says so."""

    plus: PlusConfig = PlusConfig()
    """The parts of s3plus."""

    @model_validator(mode="after")
    def _rows_where_needed(self) -> "StrategyConfig":
        if self.name in ("zerogen", "goldgen") and self.rows is None:
            raise ValueError(f"strategy {self.name} needs `rows`, the number of examples to write")
        if self.rows is not None and self.name in ("s3", "goldgen") and self.rows < self.seed_examples:
            raise ValueError(f"`rows` ({self.rows}) is less than `seed_examples` ({self.seed_examples})")
        if self.name == "s3" and not self.seed_examples:
            raise ValueError("strategy s3 needs `seed_examples`, or its first student has nothing to learn from")
        if self.name == "s3" and not self.rounds and self.rows not in (None, self.seed_examples):
            raise ValueError(f"with `rounds` 0 only the {self.seed_examples} `seed_examples` are written, not `rows`")
        return self


class CurationConfig(Section):
    """Which generations are kept."""

    clean: bool = True
    """Reject refusals and truncated texts, strip prefaces and quotes, apply the task's word limits."""
    near_duplicate: Probability | None = 0.95
    """Similarity (0 to 1, normalised edit similarity) from which a text counts as a copy; null: exact copies only."""
    rouge_l: Probability | None = None
    """ROUGE-L (F-measure over words, 0 to 1) from which a text counts as a copy of another one, in any part of gold or
    among the rows written so far (LLM2LLM: 0.95); null: not looked at."""
    verify: Literal["none", "drop", "soft"] = "none"
    """Ask the generator for the label of what it wrote, as a choice among the labels with their probabilities. drop:
    what it doubts (`verify_least`) is rejected. soft: so too, and students learn its probabilities as soft labels."""
    verify_least: Probability = 0.5
    """Least probability that it must give the label that was asked for."""
