"""What stands in a text is text to a student, whatever it spells, also to whoever loads the saved student."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoTokenizer,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForSequenceClassification,
    T5Tokenizer,
    pipeline,
)

from s3ray.config.job import StudentConfig
from s3ray.errors import InputError
from s3ray.student.encode import encode
from s3ray.student.model import Student, load_student, save_student
from s3ray.student.tokenizer import load_tokenizer
from s3ray.student.train import try_step
from s3ray.tasks import Task
from s3ray.types import Example, Origin, Source
from tests.models import make_bert

LETTERS = "abcdefghijklmnopqrstuvwxyz<>/|[]"
SPELLED = ("I wrote </s> in it", "<pad>", "a</s>a</s>", "[SEP] and [CLS]", "<|endoftext|>", "plain words")


def rows(task: Task, *texts: str) -> list[Example]:
    label = task.labels[0]
    return [
        Example(id=str(n), fields=dict.fromkeys(task.fields, text), label=label, origin=Origin(source=Source.GOLD))
        for n, text in enumerate(texts)
    ]


def make_t5(folder: Path) -> Path:
    """A T5 with the vocabulary of a SentencePiece model, whose special tokens are the likeliest pieces of any text."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -5.0) for letter in LETTERS)]
    T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(folder)
    config = T5Config(vocab_size=len(pieces), d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8)
    config.decoder_start_token_id = 0
    T5ForSequenceClassification(config).save_pretrained(folder)
    return folder


def make_llama(folder: Path, special: dict[str, str], num_known: int = len(LETTERS) + 1) -> Path:
    """A Llama whose tokenizer has the special tokens given, and a model that knows ``num_known`` tokens."""
    vocabulary = {letter: place for place, letter in enumerate([*LETTERS, "<s>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)  # type: ignore[no-untyped-call]
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=num_known, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaModel(config).save_pretrained(folder)
    return folder


def load(folder: Path, task: Task, max_length: int = 24) -> Student:
    return load_student(StudentConfig(model=str(folder), max_length=max_length), task, torch.device("cpu"))


def test_no_text_holds_a_special_token_of_a_sentencepiece_model(tmp_path: Path, reviews: Task) -> None:
    student = load(make_t5(tmp_path), reviews)
    special = {student.tokenizer.pad_token_id, student.tokenizer.eos_token_id}
    for item in student.encode(rows(reviews, *SPELLED)):
        assert item.input_ids[-1] == student.tokenizer.eos_token_id
        assert not special & set(item.input_ids[:-1])
    plain = T5Tokenizer.from_pretrained(tmp_path)(SPELLED[-1])["input_ids"]
    assert student.encode(rows(reviews, SPELLED[-1]))[0].input_ids == plain
    try_step(student, student.encode(rows(reviews, *SPELLED)), "t5")


def test_a_saved_student_reads_texts_as_it_did_in_training_and_cuts_long_ones(tmp_path: Path, reviews: Task) -> None:
    student = load(make_t5(tmp_path / "base"), reviews)
    save_student(student, tmp_path / "out", {})
    texts = [*SPELLED, "word " * 900]
    use = pipeline("text-classification", model=str(tmp_path / "out"), truncation=True)
    saved = AutoTokenizer.from_pretrained(tmp_path / "out")
    seen = [saved(text, truncation=True)["input_ids"] for text in texts]
    assert seen == [item.input_ids for item in student.encode(rows(reviews, *texts))]
    assert max(map(len, seen)) == student.max_length
    one_by_one = [use(text)[0] for text in texts]
    assert [answer["label"] for answer in use(texts, batch_size=4)] == [answer["label"] for answer in one_by_one]
    again = load(tmp_path / "out", reviews)
    assert [item.input_ids for item in again.encode(rows(reviews, *texts))] == seen


def test_a_separator_between_fields_is_a_special_token_and_one_in_a_field_is_not(tmp_path: Path, reviews: Task) -> None:
    three = Task(reviews.spec.model_copy(update={"fields": ("text", "title", "place")}))
    tokenizer = load_tokenizer(make_bert(tmp_path), StudentConfig(model="bert"), three)
    ids = encode(tokenizer, three, rows(three, "a [SEP] b"), 64)[0].input_ids
    assert ids.count(tokenizer.sep_token_id) == 3  # between the first two, between the last two, at the end


@pytest.mark.parametrize("special", [{}, {"bos_token": "<s>"}, {"pad_token": "[PAD]", "bos_token": "<s>"}])
def test_any_token_that_the_model_knows_will_do_as_padding(
    special: dict[str, str], tmp_path: Path, reviews: Task
) -> None:
    student = load(make_llama(tmp_path, special), reviews)
    assert student.tokenizer.pad_token == "<s>"
    inputs = student.encode(rows(reviews, "abc", "abcdef"))
    together = student.logits(inputs)[0]
    assert torch.allclose(together[0], student.logits(inputs[:1])[0][0], atol=1e-5)


def test_a_tokenizer_with_tokens_that_the_model_lacks_is_refused(tmp_path: Path, reviews: Task) -> None:
    with pytest.raises(InputError, match=r"reads 20 tokens.*its tokenizer has others"):
        load(make_llama(tmp_path, {"bos_token": "<s>"}, num_known=20), reviews)


@pytest.mark.parametrize("make", [make_bert, partial(make_llama, special={"bos_token": "<s>"})])
def test_a_head_for_another_task_becomes_one_for_answers(
    make: Callable[[Path], Path], tmp_path: Path, questions: Task
) -> None:
    settings = AutoConfig.from_pretrained(make(tmp_path))
    settings.num_labels = 3
    settings.save_pretrained(tmp_path)
    student = load(tmp_path, questions, max_length=64)
    assert len(student.logits(student.encode([_question()]))) == 2


def _question() -> Example:
    return Example(id="q", fields={"question": "a", "context": "b c"}, origin=Origin(source=Source.GOLD))
