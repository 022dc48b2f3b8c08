"""Distilling an ensemble of teachers (Bucila, Caruana, Niculescu-Mizil 2006; Hinton, Vinyals, Dean 2015)."""

from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from utils import losses
from utils.methods.kd import KD


def ensemble_logits(members, temperature):
    """Logits [B, C] whose softmax at temperature T is the mean of the members' [B, M, C] softened probabilities."""
    losses.check_temperature(temperature)
    log_p = tf.nn.log_softmax(tf.stop_gradient(members) / temperature)
    return temperature * (tf.reduce_logsumexp(log_p, axis=1) - tf.math.log(tf.cast(tf.shape(members)[1], log_p.dtype)))


@dataclass(frozen=True)
class Ensemble(KD):
    """KD from several teachers, given as `teacher=(run, run, run)`: their mean probability at T, or mean logits."""

    average: str = "probabilities"  # or "logits"
    several_teachers: ClassVar[bool] = True

    name: ClassVar[str] = "ensemble"
    paper: ClassVar[str] = "Bucila, Caruana, Niculescu-Mizil. Model Compression. KDD 2006; Hinton et al. 2015"

    def __post_init__(self):
        super().__post_init__()
        if self.average not in ("probabilities", "logits"):
            raise ValueError(f"average is {self.average!r}; it can be 'probabilities' or 'logits'.")

    def loss(self, batch, outputs, heads):
        if "members" not in batch["teacher"]:
            raise ValueError("'ensemble' distils several teachers: pass a tuple, teacher=(first, second, third).")
        members = batch["teacher"]["members"]
        by_probability = self.average == "probabilities"
        target = ensemble_logits(members, self.temperature) if by_probability else tf.reduce_mean(members, axis=1)
        return super().loss(batch | {"teacher": {"logits": target}}, outputs, heads)
