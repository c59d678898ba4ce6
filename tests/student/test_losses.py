"""What a row costs: soft labels, and weights by what a checker thinks of the row."""

from math import log

import pytest
import torch

from s3ray.student.encode import Encoded
from s3ray.student.losses import row_losses, target_probabilities, weights


def item(target: tuple[int, ...], soft: tuple[float, ...] = (), believed: float | None = None) -> Encoded:
    return Encoded(row=0, input_ids=[1], token_type_ids=None, target=target, soft=soft, believed=believed)


def logits_of(*rows: list[float]) -> torch.Tensor:
    """Logits whose softmax is these probabilities."""
    return torch.tensor(rows).log().requires_grad_()


def test_soft_and_hard_rows_of_a_batch_each_cost_what_they_should() -> None:
    logits = (logits_of([0.2, 0.8], [0.2, 0.8], [0.5, 0.5]),)
    batch = [item((0,)), item((0,), soft=(0.75, 0.25)), item((1,), soft=(0.0, 1.0))]
    expected = [-log(0.2), -0.75 * log(0.2) - 0.25 * log(0.8), -log(0.5)]
    assert row_losses(logits, batch, 2.0).tolist() == pytest.approx(expected)


def test_a_span_costs_the_mean_of_its_ends() -> None:
    logits = (logits_of([0.2, 0.7, 0.1]), logits_of([0.1, 0.4, 0.5]))
    assert row_losses(logits, [item((1, 2))], 2.0).tolist() == pytest.approx([-(log(0.7) + log(0.5)) / 2])
    assert target_probabilities(logits, [item((1, 2))]).tolist() == pytest.approx([0.7 * 0.5])


def test_weights_are_what_the_checker_believes_by_what_the_student_does() -> None:
    logits = (logits_of([0.2, 0.8], [0.2, 0.8], [0.2, 0.8], [0.2, 0.8]),)
    batch = [item((0,), believed=0.3), item((0,), believed=0.9), item((1,), believed=0.2), item((1,))]
    assert weights(logits, batch, 2.0).tolist() == pytest.approx([1.5, 2.0, 0.25, 1.0]), "gold weighs 1"
    assert row_losses(logits, batch, 2.0).tolist() == pytest.approx(
        [-1.5 * log(0.2), -2 * log(0.2), -0.25 * log(0.8), -log(0.8)]
    )


def test_a_span_s_weight_is_of_both_ends_together() -> None:
    logits = (logits_of([0.2, 0.7, 0.1]), logits_of([0.1, 0.4, 0.5]))
    assert weights(logits, [item((1, 2), believed=0.14)], 2.0).tolist() == pytest.approx([0.14 / 0.35])


def test_a_soft_row_is_weighed_by_its_own_label() -> None:
    batch = [item((0,), soft=(0.5, 0.5), believed=0.1)]
    assert row_losses((logits_of([0.2, 0.8]),), batch, 2.0).tolist() == pytest.approx(
        [0.5 * (-0.5 * log(0.2) - 0.5 * log(0.8))]
    )


def test_no_gradient_flows_through_a_weight() -> None:
    logits = logits_of([0.2, 0.8])
    torch.autograd.backward(row_losses((logits,), [item((0,), believed=0.3)], 2.0).sum())
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([1.5 * (0.2 - 1), 1.5 * 0.8])


def test_an_answer_that_the_student_rules_out_still_has_a_weight() -> None:
    logits = torch.tensor([[-1e4, 0.0]])
    assert weights((logits,), [item((0,), believed=0.5)], 2.0).tolist() == [2.0]
    assert weights((logits,), [item((0,), believed=0.0)], 2.0).tolist() == [0.0]
