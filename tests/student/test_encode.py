"""Rows become inputs without loss, answers survive the way to tokens and back, batches use every input once."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from s3ray.errors import InputError
from s3ray.student.encode import NO_ANSWER, answer_positions, collate, encode, plan_batches
from s3ray.tasks import Task
from s3ray.types import Example, Origin, Source, Span


@dataclass(frozen=True)
class Fields:
    """A classification task with other fields than the builtin ones."""

    fields: tuple[str, ...]
    labels: tuple[str, ...] = ("no", "yes")
    has_labels: bool = True


@pytest.fixture(scope="module")
def tokenizer(tiny_bert: str) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tiny_bert)
    return loaded


def example(label: str | None = None, answers: tuple[Span, ...] = (), **fields: str) -> Example:
    return Example(id="1", fields=fields, label=label, answers=answers, origin=Origin(source=Source.GOLD))


def test_one_text_becomes_one_input_with_its_label(tokenizer: PreTrainedTokenizerBase, reviews: Task) -> None:
    rows = [example(label=label, text="the film was dull") for label in reviews.labels]
    encoded = encode(tokenizer, reviews, rows, 16)
    assert [item.target for item in encoded] == [(0,), (1,)]
    assert tokenizer.decode(encoded[0].input_ids) == "[CLS] the film was dull [SEP]"


def test_a_pair_is_cut_at_the_longer_text_first(tokenizer: PreTrainedTokenizerBase) -> None:
    task = Fields(fields=("premise", "hypothesis"))
    (item,) = encode(tokenizer, task, [example(premise="film " * 50, hypothesis="the soup")], 16)  # type: ignore[arg-type]
    assert len(item.input_ids) == 16
    assert str(tokenizer.decode(item.input_ids)).endswith("[SEP] the soup [SEP]")
    assert item.token_type_ids is not None
    assert item.token_type_ids[-3:] == [1, 1, 1]


def test_further_texts_follow_the_second_behind_a_separator(tokenizer: PreTrainedTokenizerBase) -> None:
    task = Fields(fields=("a", "b", "c"))
    (item,) = encode(tokenizer, task, [example(label="yes", a="film", b="soup", c="song")], 16)  # type: ignore[arg-type]
    assert tokenizer.decode(item.input_ids) == "[CLS] film [SEP] soup [SEP] song [SEP]"
    assert item.target == (1,)


@given(place=st.integers(0, 79), num_words=st.integers(1, 4))
def test_an_answer_is_the_same_text_after_the_way_through_tokens(
    tokenizer: PreTrainedTokenizerBase, questions: Task, place: int, num_words: int
) -> None:
    words = [f"{'ab'[number % 2]}{number}" for number in range(80)]
    context = " ".join(words)
    answer = " ".join(words[place : place + num_words])
    start = len(" ".join(words[:place])) + bool(place)
    row = example(question="the soup?", context=context, answers=(Span(text=answer, start=start),))
    windows = encode(tokenizer, questions, [row], 64)
    assert len(windows) > 3
    held = [item for item in windows if item.target != NO_ANSWER]
    assert held, "the stride must leave the answer whole in some window"
    for item in held:
        first, last = item.target
        assert item.offsets is not None
        begin, end = item.offsets[first], item.offsets[last]
        assert begin is not None
        assert end is not None
        assert context[begin[0] : end[1]] == answer


def test_windows_cover_the_whole_context(tokenizer: PreTrainedTokenizerBase, questions: Task) -> None:
    context = " ".join(f"x{number}" for number in range(100))
    windows = encode(tokenizer, questions, [example(question="the soup?", context=context)], 48)
    seen = {place for item in windows for span in item.offsets or () if span for place in range(*span)}
    assert {place for place, letter in enumerate(context) if letter != " "} <= seen
    assert all(len(item.input_ids) <= 48 for item in windows)


def test_a_long_question_leaves_room_for_the_context(tokenizer: PreTrainedTokenizerBase, questions: Task) -> None:
    row = example(question="why " * 200, context="the soup was dull", answers=(Span(text="soup", start=4),))
    (window,) = encode(tokenizer, questions, [row], 48)
    assert window.target != NO_ANSWER
    assert len(window.input_ids) <= 48


def test_a_window_too_short_for_questions_is_refused(tokenizer: PreTrainedTokenizerBase, questions: Task) -> None:
    with pytest.raises(InputError, match=r"student\.max_length.*16"):
        encode(tokenizer, questions, [example(question="a", context="b")], 16)


def test_an_answer_that_is_cut_by_the_window_is_no_answer() -> None:
    offsets = [None, (0, 3), (4, 8), None]
    assert answer_positions(offsets, Span(text="film was", start=4)) == NO_ANSWER
    assert answer_positions(offsets, Span(text="film", start=4)) == (2, 2)


@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=300),
    batch_size=st.integers(1, 17),
    epoch=st.integers(1, 3),
    workers=st.sampled_from([1, 2, 3]),
)
def test_every_input_is_used_once_per_epoch(lengths: list[int], batch_size: int, epoch: int, workers: int) -> None:
    batches = plan_batches(lengths, batch_size, 0, epoch)
    dealt = Counter(place for batch in batches for rank in range(workers) for place in batch[rank::workers])
    assert dealt == Counter(range(len(lengths)))
    assert sum(len(batch) < batch_size for batch in batches) <= 1


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    lengths = list(range(100))
    assert plan_batches(lengths, 8, 1, 1) == plan_batches(lengths, 8, 1, 1)
    assert plan_batches(lengths, 8, 1, 1) != plan_batches(lengths, 8, 1, 2)
    assert plan_batches(lengths, 8, 1, 1) != plan_batches(lengths, 8, 2, 1)


def test_batches_hold_inputs_of_similar_length(toy_reviews: Callable[[range], list[Example]]) -> None:
    lengths = [len(row.fields["text"]) for row in toy_reviews(range(160))]
    longest = sum(max(lengths[place] for place in batch) * len(batch) for batch in plan_batches(lengths, 8, 0, 1))
    assert longest < 1.1 * sum(lengths)


def test_a_batch_is_padded_to_its_longest_input_only(tokenizer: PreTrainedTokenizerBase, reviews: Task) -> None:
    rows = [example(text="the film"), example(text="the film was dull")]
    batch = collate(encode(tokenizer, reviews, rows, 128), 0, torch.device("cpu"))
    assert batch["input_ids"].shape == (2, 6)
    assert batch["attention_mask"].sum(dim=1).tolist() == [4, 6]
