"""Guards of the step: clipping by the global norm, and the decision whether an update may be applied."""

import tensorflow as tf


def clip(gradients, norm: float):
    """Gradients scaled so that their global norm is at most `norm` (0 = never), and the norm before."""
    found = tf.linalg.global_norm(gradients)
    if not norm:
        return gradients, found
    scale = tf.minimum(1.0, norm / tf.maximum(found, 1e-30))
    return [gradient * tf.cast(scale, gradient.dtype) for gradient in gradients], found


def healthy(loss, norm) -> tf.Tensor:
    """Whether the mean loss and the gradient's norm are both finite."""
    return tf.math.is_finite(loss) & tf.math.is_finite(norm)
