"""The part of a job that says how examples are written and which are kept: strategy and curation."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from s3ray.plugins import BuiltinOrImportPath, is_import_path
from s3ray.section import Probability, Section

NOTE_STAGES = ("reasons", "subjects", "patterns")
"""What the generator may write down before the examples of a round, one stage each; named as the prompts that ask."""
VERDICTS = "verdicts"
"""The stage in which the generator judges gold rows (``curation.calibrate``)."""
STAGES_ASIDE = (*NOTE_STAGES, VERDICTS)
"""Stages that write no examples."""


class PlusConfig(Section):
    """The parts of s3plus, each a switch, so that its worth can be measured. With all of them off it is s3."""

    contrast: bool = True
    """Show the generator what the student answered and, where labels are asked for, the gold row most like the mistake
    that really has that label and that the student got right."""
    skip_persistent: int | None = Field(default=2, ge=2)
    """Pass over gold rows that this many students in a row got wrong, as probably mislabelled; null: over none."""
    coverage: float = Field(default=0.5, ge=0, le=1)
    """Share of each round's rows that is written from gold rows which the student got right, but not surely, and which
    together cover gold (K-centre); 0: from mistakes alone, as s3."""
    variants: PositiveInt = 2
    """Rows asked for per parent at least, one after the other; more variants mean fewer parents."""
    balance: bool = True
    """Give each round to the labels of which there are fewest rows so far; else to those that mistakes have."""
    clusters: int = Field(default=4, ge=0, le=100)
    """Groups of similar mistakes that the generator describes in words first, where the task has a prompt for it; the
    description is shown with each mistake of the group. 0: no descriptions."""
    near: bool = True
    """Give prompts the most similar other context too, from the seed set on. Where the task's prompts use it (`near`),
    a text that must not go with its own context is written for that one, which a weak generator can do."""


class StrategyConfig(Section):
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
        if name != "s3plus" and self.plus != PlusConfig():
            raise ValueError(f"`plus` holds the parts of s3plus, and the strategy is {name}")
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
    calibrate: int = Field(default=200, ge=0)
    """Used with `verify` where there are labels: so many rows of gold's extrapolation part, at most, are judged by the
    generator first, and its verdicts are set right by what comes out (vector scaling). 0: verdicts count as given."""
