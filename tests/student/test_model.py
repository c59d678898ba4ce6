"""A student computes in bfloat16 where that pays, keeps float32, and is blamed for what its own code raises."""

from collections.abc import Callable

import pytest
import torch

from s3ray.config.job import StudentConfig
from s3ray.errors import InputError
from s3ray.student.evaluate import head_of
from s3ray.student.model import blaming_model, computes_in_bfloat16, cuda_has_bfloat16, load_student
from s3ray.tasks import Task
from s3ray.types import Example


@pytest.mark.parametrize(
    ("device", "cuda_has_it", "flags", "in_bfloat16"),
    [
        ("cuda", True, set(), True),
        ("cuda", False, {"avx512_bf16"}, False),
        ("cpu", False, {"avx2", "avx512_bf16"}, True),
        ("cpu", False, {"asimd", "bf16"}, True),
        ("cpu", True, {"avx2"}, False),
        ("mps", True, {"bf16"}, False),
    ],
)
def test_the_number_format_follows_the_device(
    device: str, cuda_has_it: bool, flags: set[str], in_bfloat16: bool
) -> None:
    assert computes_in_bfloat16(device, cuda_has_it, flags) == in_bfloat16


def test_words_of_a_library_that_no_file_can_hold_are_told_with_what_can_be_held_of_them() -> None:
    with pytest.raises(InputError, match="ValueError: half \ufffd of it"), blaming_model("m"):
        raise ValueError("half \ud83d of it")


def test_a_gpu_that_only_emulates_bfloat16_does_not_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def said_of_a_t4(including_emulation: bool = True) -> bool:
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", said_of_a_t4)
    assert not cuda_has_bfloat16()


@pytest.mark.parametrize(("flags", "head_gives"), [((), torch.float32), (("amx_bf16",), torch.bfloat16)])
def test_logits_gradients_and_weights_are_float32_whatever_the_model_computes_in(
    flags: tuple[str, ...],
    head_gives: torch.dtype,
    config: StudentConfig,
    reviews: Task,
    toy_reviews: Callable[[range], list[Example]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("s3ray.student.model.cpu_flags", lambda: frozenset(flags))
    student = load_student(config, reviews, torch.device("cpu"))
    gave: list[torch.dtype] = []
    head_of(student).register_forward_hook(lambda layer, given, scores: gave.append(scores.dtype))
    (logits,) = student.logits(student.encode(toy_reviews(range(4))))
    torch.autograd.backward(logits.sum())
    assert (gave, logits.dtype) == ([head_gives], torch.float32)
    weights = list(student.model.parameters())
    assert {weight.dtype for weight in weights} == {torch.float32}
    assert {weight.grad.dtype for weight in weights if weight.grad is not None} == {torch.float32}


@pytest.mark.parametrize(
    "error",
    [
        IndexError("index out of range in self"),
        ValueError("All examples must have the same number of <eos> tokens."),
        RuntimeError("Could not infer dtype of NoneType"),
    ],
)
def test_what_the_code_of_a_model_raises_is_its_fault(error: Exception) -> None:
    with pytest.raises(InputError) as refused, blaming_model("bert"):
        raise error
    assert f"cannot be this task's student: {type(error).__name__}: {error}" in refused.value.problem
    assert (refused.value.field, refused.value.value) == ("student.model", "bert")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: unspecified launch failure"),
        RuntimeError("NCCL error: unhandled system error"),
        ConnectionError("the hub is away"),
    ],
)
def test_what_a_machine_raises_is_no_fault_of_the_model(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, blaming_model("bert"):
        raise error
    assert raised.value is error
