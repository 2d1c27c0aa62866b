"""DINO: a student matches the centred and sharpened output of its moving average on other views."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.errors import InputError
from hcl_jax.losses import masking


def dino(
    centre: Float[Array, " k"],
    *outputs: Float[Array, "n k"],
    teachers: int = 2,
    student_temperature: float | Array = 0.1,
    teacher_temperature: float | Array = 0.04,
    ids: Integer[Array, " n"] | None = None,
    row_weights: Float[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Mean cross entropy between teachers and the students of other views.

    loss = mean_{(t, s), s != t} mean_i -sum_k P_ik^t log softmax_k(g_i^s / t_s)
    P^t = softmax((g^t - centre) / t_t), no gradient

    Args:
      centre: [K], a running mean of the teachers' outputs (a memory slot of kind mean_ema); no gradient.
      outputs: the T teachers' outputs and then the S students', [N, K] each. Student i sees the view of teacher i for
        i < T, and the pair of the two is left out; the students after these see views of their own (small crops).
      teachers: T.
      student_temperature: t_s > 0.
      teacher_temperature: t_t > 0, a number or a traced scalar (a schedule).
      ids: int [N]; -1 = ignored row. Other values change nothing.
      row_weights: [N], scale the loss of each row.

    Returns:
      Scalar; mean over valid rows, weights not renormalised.

    Raises:
      InputError: shapes that differ, fewer students than teachers, no pair, a temperature not above 0.

    Example:
      >>> x = jnp.eye(2)
      >>> print(f"{dino(jnp.zeros(2), x, x, x, x, student_temperature=1.0):.4f}")  # sharp teachers: log(e + 1) - 1
      0.3133

    Reference: Caron et al. 2021, arXiv 2104.14294, equations 1 to 4 and algorithm 1; the mean over pairs is the
    authors' code's.
    """
    if isinstance(teachers, bool) or not isinstance(teachers, int) or teachers < 1:
        raise InputError("teachers", repr(teachers), "a whole number of at least 1")
    count = len(outputs) - teachers
    if count < max(teachers, 2):
        found = f"{len(outputs)} arrays after the centre"
        raise InputError("outputs", found, f"{teachers} of teachers, then {max(teachers, 2)} or more of students")
    names = [f"teacher[{i}]" for i in range(teachers)] + [f"student[{i}]" for i in range(count)]
    n, k = masking.check_matrices(**dict(zip(names, outputs, strict=True)))
    if jnp.shape(centre) != (k,):
        raise InputError("centre", f"shape {jnp.shape(centre)}", f"shape {(k,)}, one number a feature of the outputs")
    masking.check_positive("student_temperature", student_temperature)
    masking.check_positive("teacher_temperature", teacher_temperature)
    valid = masking.valid_rows(ids, n)
    clean = [masking.mask(g, valid) for g in outputs]
    dtype = clean[0].dtype
    centre = jnp.asarray(centre).astype(dtype)[None, :]
    log_p = [jax.nn.log_softmax(g / jnp.asarray(student_temperature, dtype), axis=1) for g in clean[teachers:]]
    values = jnp.zeros((n,), dtype)
    for t, g in enumerate(clean[:teachers]):
        target = jax.nn.softmax((g - centre) / jnp.asarray(teacher_temperature, dtype), axis=1)
        others = sum((p for s, p in enumerate(log_p) if s != t), jnp.zeros_like(target))
        values -= jnp.sum(jax.lax.stop_gradient(target) * others, axis=1)
    return masking.mean(values / (teachers * (count - 1)), valid, row_weights)
