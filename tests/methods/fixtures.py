"""Logits that the worked numbers of several methods share, and what checks them in both precisions."""

import numpy as np
import pytest
import tensorflow as tf

Z_S = [[1, 2, 0.5], [0.2, -0.3, 1.1]]
Z_T = [[2, 1, 0.1], [0, 0.5, 2.5]]
LABELS = np.array([0, 2], np.int32)
T = 4.0


def both_precisions(function):
    """Runs a test with `to`, which makes tensors of float64 and then of float32, and `close` with its tolerance."""
    cases = [(tf.float64, 1e-9), (tf.float32, 1e-6)]
    return pytest.mark.parametrize(("to", "close"), [_case(*case) for case in cases], ids=["float64", "float32"])(
        function
    )


def _case(dtype, tolerance):
    def to(values):
        return tf.constant(np.asarray(values), dtype)

    def close(found, expected, scale=1.0):
        """Equal to the tolerance; worked numbers have ten decimals. `scale` widens that of float32, for large sums."""
        allowed = tolerance * (scale if dtype == tf.float32 else 1)
        np.testing.assert_allclose(found, expected, rtol=allowed, atol=allowed)

    return to, close


def gradient(function, *values):
    """Gradients of a scalar function in each of its tensors (None where it has none)."""
    with tf.GradientTape() as tape:
        for value in values:
            tape.watch(value)
        result = function(*values)
    return tape.gradient(result, values)


def finite(*gradients):
    return all(np.isfinite(g.numpy()).all() for g in gradients)
