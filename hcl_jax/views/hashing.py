"""Random numbers by hashing: what any host can know of a record or a pair of nodes from their numbers alone."""

from typing import Any

from hcl_jax.views.lazy import tf

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def mix(value: Any) -> Any:
    """splitmix64: uint64 [...] -> uint64 [...], each output bit depends on each input bit.

    Reference: Steele, Lea, Flood, Fast splittable pseudorandom number generators, OOPSLA 2014, figure 17.
    """
    shift, word = tf.bitwise.right_shift, lambda v: tf.constant(v, tf.uint64)
    z = value + word(GOLDEN)
    z = (z ^ shift(z, word(30))) * word(FIRST)
    z = (z ^ shift(z, word(27))) * word(SECOND)
    return z ^ shift(z, word(31))


def uniform(value: Any, word: Any) -> Any:
    """u(value, word) uniform in [0, 1): float64 like `value`, uint64 [...]; `word` is a mixed seed, uint64.

    u = floor(mix(value xor word) / 2^11) / 2^53, exact in float64
    """
    bits = mix(value ^ word)
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(11, tf.uint64)), tf.float64) * 2.0**-53
