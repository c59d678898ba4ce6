"""The ranking of ProGen's rows against gradients worked out by hand and by automatic differentiation."""

import numpy as np
import pytest
import torch

from s3ray.strategies.progen import best_rows, helpfulness
from tests.strategies.given import REVIEWS, context, gold_rows, probes_of


def test_by_hand() -> None:
    """One feature, two labels; row 0 is held out, has label 0 and gets q = (0.5, 0.5).

    Its reverse cross-entropy has the gradient q_0 (q - e_0) = 0.5 (-0.5, 0.5) = (-0.25, 0.25) by the logits, its
    feature is 2, so G = [[-0.5, -0.25], [0.5, 0.25]] by weight and bias. All others get q = (0.8, 0.2).
    Row 1 (label 0, feature 1) has the errors (-0.2, 0.2): -0.2 (-0.5 - 0.25) + 0.2 (0.5 + 0.25) = 0.3, it helps.
    Row 2 is the same with label 1: the errors (0.8, -0.8) give -1.2, it harms.
    Row 3 (label 0, feature -3): -0.2 (1.5 - 0.25) + 0.2 (-1.5 + 0.25) = -0.5.
    """
    scores = helpfulness(
        probabilities=np.array([[0.5, 0.5], [0.8, 0.2], [0.8, 0.2], [0.8, 0.2]]),
        features=np.array([[2.0], [1.0], [1.0], [-3.0]], dtype=np.float32),
        labels=np.array([0, 0, 1, 0]),
        is_validation=np.array([True, False, False, False]),
    )
    assert scores[1:] == pytest.approx([0.3, -1.2, -0.5])


def test_by_automatic_differentiation() -> None:
    draw = np.random.default_rng(0)
    num, width, num_labels = 12, 5, 3
    features = torch.tensor(draw.normal(size=(num, width)), dtype=torch.float64)
    labels = torch.tensor(draw.integers(num_labels, size=num))
    is_validation = np.arange(num) < 4
    weights = torch.tensor(draw.normal(size=(num_labels, width)), requires_grad=True)
    bias = torch.tensor(draw.normal(size=num_labels), requires_grad=True)
    log_q = torch.log_softmax(features @ weights.T + bias, dim=-1)
    # Reverse cross-entropy with log 0 read as -1: one minus the probability of the label.
    reverse = (1 - log_q.exp()[torch.arange(num), labels])[torch.tensor(is_validation)].mean()
    of_validation = torch.autograd.grad(reverse, (weights, bias), retain_graph=True)
    expected = []
    for row in range(num):
        of_row = torch.autograd.grad(-log_q[row, labels[row]], (weights, bias), retain_graph=True)
        expected.append(sum(float((a * b).sum()) for a, b in zip(of_validation, of_row, strict=True)))
    found = helpfulness(
        log_q.exp().detach().numpy(), features.numpy().astype(np.float32), labels.numpy(), is_validation
    )
    assert found == pytest.approx(np.array(expected), rel=1e-5)


def test_the_pool_holds_rows_that_help_by_label_and_none_that_were_held_out() -> None:
    given = context(REVIEWS, 1)
    rows = gold_rows(REVIEWS, 300)
    probes = probes_of(rows)
    pool = best_rows(given, rows, probes)
    assert {label: len(best) for label, best in pool.items()} == {"negative": 50, "positive": 50}
    for label, best in pool.items():
        assert {row.label for row in best} == {label}
    held_out = set(given.generator("validation").sample(range(300), 30))
    assert not {rows[place].id for place in held_out} & {row.id for best in pool.values() for row in best}


def test_a_mislabelled_row_is_not_shown() -> None:
    rows = gold_rows(REVIEWS, 60)
    given, probes = context(REVIEWS, 1), probes_of(rows)
    wrong = 7
    probabilities = probes.probabilities.copy()
    probabilities[wrong] = 1 - probabilities[wrong]  # the student is sure of the other label
    features = probes.features.copy()
    features[wrong] = features[wrong - 1]  # and it looks like a row of it
    seen = type(probes)(
        ids=probes.ids,
        predicted=probes.predicted,
        target_probability=probes.target_probability,
        probabilities=probabilities,
        features=features,
    )
    pool = best_rows(given, rows, seen)
    assert rows[wrong].id not in {row.id for best in pool.values() for row in best}
    assert all(pool.values())
