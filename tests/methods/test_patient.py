import numpy as np

from tests.methods.fixtures import LABELS, Z_S, Z_T, both_precisions
from utils.methods import KD, Patient


@both_precisions
def test_worked_number_and_that_labels_do_not_matter(to, close):
    for labels in (LABELS, LABELS[::-1]):
        batch = {"label": np.ascontiguousarray(labels), "teacher": {"logits": to(Z_T)}}
        close(Patient().loss(batch, {"logits": to(Z_S)}, {})[0], 0.2779295755)
        close(Patient().loss(batch, {"logits": to(Z_T)}, {})[0], 0.0)
    close(KD(1.0, 1.0).loss(batch, {"logits": to(Z_S)}, {})[0], 0.2779295755)
