"""Which written rows help a student most: influence on a synthetic validation set (ProGen, arXiv 2210.12329). Pure.

The influence of a training row z on the validation loss is ``-g_val . H^-1 . g_z`` (Koh and Liang, 2017), where g are
gradients of the loss and H is its Hessian. Validation labels are synthetic too and may be wrong, so ProGen takes the
reverse cross-entropy there, which is linear in the probability of the label and so bounded.

Two simplifications. Gradients are those of the student's last layer alone. And H is left out: the authors' code damps
it by 50 (5e-3 times a scale of 1e4), so their ranking too is that of the inner products ``g_val . g_z`` as far as the
eigenvalues of H are small beside 50.
"""

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


def helpfulness(
    probabilities: Matrix,
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    is_validation: npt.NDArray[np.bool_],
) -> Matrix:
    """How much a step on each row lowers the mean validation loss, to first order; above 0 it helps.

    Shapes: ``probabilities`` (rows, labels), ``features`` (rows, width) as the last layer reads them, ``labels`` (rows)
    as column numbers of ``probabilities``, ``is_validation`` (rows). Answers (rows).

    For logits ``z = W f + b`` with probabilities q and label y, d CE/dz = q - e_y and d RCE/dz = q_y (q - e_y), up to
    a factor that is the same for all rows. The gradients of W and b are these times the features and times 1.
    """
    one_hot = np.eye(probabilities.shape[1])[labels]
    inputs = np.hstack([features.astype(np.float64), np.ones((len(features), 1))])
    errors = probabilities - one_hot
    of_truth = np.sum(probabilities * one_hot, axis=1, keepdims=True)
    held_out = np.flatnonzero(is_validation)
    validation = (of_truth * errors)[held_out].T @ inputs[held_out] / max(1, len(held_out))
    result: Matrix = np.einsum("nl,lw,nw->n", errors, validation, inputs, optimize=True)
    return result
