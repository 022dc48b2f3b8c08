"""Losses as pure functions on logits: nothing here holds a model, a variable or a hyperparameter.

Conventions: logits are [batch, classes] before any softmax, in float32 or float64; labels are
integers [batch]; every function returns a scalar, the mean over the batch; KL divergences are
summed over the classes. Probabilities are always formed through `log_softmax`, never as
log(softmax), which underflows for confident models.

The four functions the assignment names carry its names. They take logits where the course
template reads a global model: a loss that closes over a model keeps training the old one after
the model is rebuilt.
"""

from numbers import Real

import tensorflow as tf


def _check_logits(labels, logits, name: str):
    """Raise a ValueError unless labels are [batch] and logits [batch, classes] of a float type."""
    logits = tf.convert_to_tensor(logits)
    labels = tf.convert_to_tensor(labels)
    if not logits.dtype.is_floating or logits.shape.rank != 2:
        raise ValueError(
            f"{name} are {logits.dtype.name} of shape {logits.shape}; expected floating-point [batch, classes]."
        )
    if not labels.dtype.is_integer or labels.shape.rank != 1:
        raise ValueError(
            f"labels are {labels.dtype.name} of shape {labels.shape}; expected integer class numbers of shape "
            "[batch]. Turn one-hot rows into numbers with argmax first."
        )
    if not labels.shape.is_compatible_with(logits.shape[:1]):
        raise ValueError(f"There are {labels.shape[0]} labels for {logits.shape[0]} rows of {name}; expected as many.")
    return labels, logits


def check_temperature(temperature) -> None:
    """Raise a ValueError unless the temperature is above 0."""
    if isinstance(temperature, Real) and not 0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}; it divides the logits and must be a finite number above 0.")


def check_alpha(alpha) -> None:
    """Raise a ValueError unless alpha, the weight of the distillation term, lies in [0, 1]."""
    if isinstance(alpha, Real) and not 0 <= alpha <= 1:
        raise ValueError(
            f"alpha is {alpha}; it is the share of the distillation term and must lie in [0, 1]: "
            "0 is plain cross-entropy, 1 uses the teacher alone."
        )


def compute_plain_cross_entropy_loss(labels, student_logits):
    """Cross-entropy of the student with the true labels: the loss of the student from scratch.

    CE = -(1/B) Σ_i log softmax(z_i)[y_i], with z = `student_logits` [B, C] and y = `labels` [B].
    """
    labels, logits = _check_logits(labels, student_logits, "student_logits")
    # The sparse op is log_softmax and a gather in one, with a gradient that stays finite at any logits.
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))


def compute_teacher_loss(labels, teacher_logits):
    """Cross-entropy of the teacher with the true labels: the teacher is an ordinary classifier."""
    labels, logits = _check_logits(labels, teacher_logits, "teacher_logits")
    return compute_plain_cross_entropy_loss(labels, logits)


def softened_kl(teacher_logits, student_logits, temperature):
    """KL(p ‖ q) of each row [B], with p = softmax(z_T / T) and q = softmax(z_S / T): not yet scaled by T²."""
    check_temperature(temperature)
    teacher_logits = tf.convert_to_tensor(teacher_logits)
    student_logits = tf.convert_to_tensor(student_logits)
    if teacher_logits.shape.rank != 2 or not teacher_logits.shape.is_compatible_with(student_logits.shape):
        raise ValueError(
            f"teacher_logits have shape {teacher_logits.shape} and student_logits {student_logits.shape}; "
            "expected the same [batch, classes] for both. Do both networks end in the same classes?"
        )
    if teacher_logits.dtype != student_logits.dtype:
        raise ValueError(
            f"teacher_logits are {teacher_logits.dtype.name} and student_logits {student_logits.dtype.name}; "
            "expected one type. Cast one of them."
        )
    log_p = tf.nn.log_softmax(tf.stop_gradient(teacher_logits) / temperature)
    log_q = tf.nn.log_softmax(student_logits / temperature)
    return tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)


def distillation_loss(teacher_logits, student_logits, temperature):
    """Hinton's distillation term: T² · KL(softmax(z_T / T) ‖ softmax(z_S / T)), averaged over the batch.

    Args:
        teacher_logits: z_T, [B, C]. No gradient flows into them.
        student_logits: z_S, [B, C].
        temperature: T > 0, dividing both.

    Each row's gradient in z_S is T (q - p) / B. As T grows, q - p shrinks like 1/T and the gradient of
    the KL alone like 1/T²; the factor T² keeps the term's pull level with the cross-entropy's while T
    is swept. For T → ∞ the term becomes the squared distance of the centred logits, over 2C.

    >>> float(distillation_loss([[2.0, 1.0, 0.1]], [[1.0, 2.0, 0.5]], 4.0))  # doctest: +ELLIPSIS
    0.384...

    G. Hinton, O. Vinyals, J. Dean. Distilling the Knowledge in a Neural Network. arXiv:1503.02531, 2015.
    """
    return temperature**2 * tf.reduce_mean(softened_kl(teacher_logits, student_logits, temperature))


def compute_student_loss(labels, teacher_logits, student_logits, alpha, temperature):
    """The student's loss under distillation: (1 - alpha) · CE(labels, z_S) + alpha · T² · KL(p ‖ q).

    alpha in [0, 1] weighs the distillation term: 0 is `compute_plain_cross_entropy_loss`, and alpha = 1
    at T = 1 with a teacher that is certain of the right label is cross-entropy again.
    """
    check_alpha(alpha)
    hard = compute_plain_cross_entropy_loss(labels, student_logits)
    soft = distillation_loss(teacher_logits, student_logits, temperature)
    return (1 - alpha) * hard + alpha * soft
