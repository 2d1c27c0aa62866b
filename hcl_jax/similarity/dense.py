"""The engine that forms the whole similarity matrix, in plain jax: the definition that the other engines equal."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from hcl_jax.errors import InputError
from hcl_jax.similarity.tiles import (
    IGNORED,
    BestRows,
    Nearest,
    Over,
    SoftmaxRows,
    entering,
    lowest,
    masks,
    off_diagonal,
    product,
)


@dataclasses.dataclass(frozen=True)
class Dense:
    """The engine that forms the whole R x K matrix: fastest while it is small.

    Memory: about 4 R K numbers with the gradient. With rows sharded over a data axis, R is the local number of rows:
    the compiler gathers the keys and keeps the rows where they are.
    """

    precision: str = "highest"

    def softmax_rows(
        self,
        query: Float[Array, "r d"],
        key: Float[Array, "k d"] | None = None,
        *,
        query_ids: Integer[Array, " r"],
        key_ids: Integer[Array, " k"] | None = None,
        over: Over = "all",
    ) -> SoftmaxRows:
        """Log-sum-exp over the keys of each query row, with the sum and the number of its positive logits.

        s_ij = q_i . k_j,   lse_i = log sum_{j in over(i)} exp s_ij,   positive_sum_i = sum_{j: id_i = id_j} s_ij

        Args:
          query: [R, D], with the temperature in it.
          key: [K, D], same dtype. None: the query rows are compared with each other, none with itself; the square root
            of the scale is then in the rows, and the matrix is symmetric.
          query_ids: int [R]; -1 = ignored.
          key_ids: int [K]; -1 = ignored. None with `key` None.
          over: which keys enter `lse`: "all", "negatives" (other ids) or "positives" (same id).

        Returns:
          SoftmaxRows(lse, positive_sum, positive_count, key_count), [R] each; key_count is the number of keys in lse.
          A row without such keys has lse = finfo.min (finite, gradient zero) and key_count 0.

        Example:
          >>> x, ids = jnp.eye(2), jnp.array([0, 1])
          >>> sums = Dense().softmax_rows(x, x, query_ids=ids, key_ids=ids)
          >>> print(np.asarray(sums.lse).round(4), sums.positive_sum, sums.key_count)  # log(e + 1)
          [1.3133 1.3133] [1. 1.] [2. 2.]
        """
        logits, counted, positive = self._matrix(query, key, query_ids, key_ids)
        counts = _counts(query_ids, query_ids if key_ids is None else key_ids, key is None, over)
        return _softmax(_terms(logits, counted, positive, over), counts, axis=1)

    def softmax_both(
        self,
        a: Float[Array, "r d"],
        b: Float[Array, "k d"],
        *,
        a_ids: Integer[Array, " r"],
        b_ids: Integer[Array, " k"],
        over: Over = "all",
    ) -> tuple[SoftmaxRows, SoftmaxRows]:
        """`softmax_rows(a, b)` and `softmax_rows(b, a)`: the rows and the columns of one matrix, which is formed once.

        Args:
          a: [R, D], with the temperature in it.
          b: [K, D], same dtype.
          a_ids, b_ids: int [R], [K]; -1 = ignored.
          over: as in `softmax_rows`.

        Returns:
          SoftmaxRows of a [R] and of b [K].

        Example:
          >>> x, ids = jnp.eye(2), jnp.array([0, 1])
          >>> rows, columns = Dense().softmax_both(x, 2 * x, a_ids=ids, b_ids=ids)
          >>> print(np.asarray(rows.lse).round(4))  # log(e^2 + 1)
          [2.1269 2.1269]
          >>> bool((rows.lse == columns.lse).all())  # of a symmetric matrix
          True
        """
        terms = _terms(*self._matrix(a, b, a_ids, b_ids), over)
        of_a = _softmax(terms, _counts(a_ids, b_ids, False, over), axis=1)
        return of_a, _softmax(terms, _counts(b_ids, a_ids, False, over), axis=0)

    def sigmoid_rows(
        self,
        query: Float[Array, "r d"],
        key: Float[Array, "k d"],
        *,
        bias: Float[Array, ""],
        query_ids: Integer[Array, " r"],
        key_ids: Integer[Array, " k"],
    ) -> Float[Array, " r"]:
        """Sum over keys of the logistic loss of each pair: is it a positive?

        r_i = sum_j -log sigmoid(y_ij (q_i . k_j + b)),   y_ij = +1 where id_i = id_j, else -1

        Args:
          query: [R, D], already multiplied by the scale.
          key: [K, D], same dtype.
          bias: scalar b.
          query_ids: int [R]; -1 = ignored.
          key_ids: int [K]; -1 = ignored.

        Returns:
          [R]; 0 for an ignored row.

        Example:
          >>> x, ids = jnp.eye(2), jnp.array([0, 1])
          >>> losses = Dense().sigmoid_rows(x, x, bias=jnp.float32(0), query_ids=ids, key_ids=ids)
          >>> print(np.asarray(losses).round(4))  # log(1 + 1 / e) + log 2
          [1.0064 1.0064]
        """
        logits, counted, positive = self._matrix(query, key, query_ids, key_ids)
        logits = logits + bias
        return jnp.sum(jnp.where(counted, jax.nn.softplus(jnp.where(positive, -logits, logits)), 0), axis=1)

    def best_rows(
        self,
        query: Float[Array, "r d"],
        key: Float[Array, "k d"] | None = None,
        *,
        query_ids: Integer[Array, " r"],
        key_ids: Integer[Array, " k"] | None = None,
    ) -> BestRows:
        """Largest positive and largest negative logit of each query row, for accuracies; no gradient.

        Args:
          query, key, query_ids, key_ids: as in `softmax_rows`.

        Returns:
          BestRows(positive, negative), [R] each; finfo.min where a row has none.

        Example:
          >>> x, ids = jnp.eye(2), jnp.array([0, 1])
          >>> best = Dense().best_rows(x, x, query_ids=ids, key_ids=ids)
          >>> print(best.positive, best.negative)
          [1. 1.] [0. 0.]
        """
        logits, counted, positive = self._matrix(query, key, query_ids, key_ids)
        logits, floor = jax.lax.stop_gradient(logits), lowest(logits.dtype)
        return BestRows(
            positive=jnp.max(jnp.where(positive, logits, floor), axis=1, initial=floor),
            negative=jnp.max(jnp.where(counted & ~positive, logits, floor), axis=1, initial=floor),
        )

    def negatives_from(
        self,
        query: Float[Array, "r d"],
        key: Float[Array, "k d"],
        *,
        least: Float[Array, " r"],
        query_ids: Integer[Array, " r"],
        key_ids: Integer[Array, " k"],
    ) -> Integer[Array, " r"]:
        """How many negatives of each query row have a logit of at least its `least`, for ranks; no gradient.

        Args:
          query: [R, D].
          key: [K, D], same dtype.
          least: [R].
          query_ids, key_ids: int [R], [K]; -1 = ignored.

        Returns:
          int32 [R].

        Example:
          >>> x, ids = jnp.eye(2), jnp.array([0, 1])
          >>> print(Dense().negatives_from(x, x, least=jnp.array([0.0, 0.5]), query_ids=ids, key_ids=ids))
          [1 0]
        """
        logits, counted, positive = self._matrix(query, key, query_ids, key_ids)
        return jnp.sum(counted & ~positive & (logits >= least[:, None]), axis=1, dtype=jnp.int32)

    def nearest(
        self,
        query: Float[Array, "r d"],
        key: Float[Array, "k d"] | None = None,
        *,
        k: int,
        query_ids: Integer[Array, " r"],
        key_ids: Integer[Array, " k"] | None = None,
        over: Over = "all",
    ) -> Nearest:
        """The k keys with the largest logits of each query row; no gradient. Of equal logits the lower row is first.

        Args:
          query, key, query_ids, key_ids: as in `softmax_rows`.
          k: how many, 1 to K.
          over: which keys are looked at.

        Returns:
          Nearest(logits, rows), [R, k] each; where a row has fewer keys, finfo.min and a row that means nothing.

        Raises:
          InputError: k is not in 1..K.

        Example:
          >>> x, ids = jnp.eye(2), jnp.array([0, 1])
          >>> print(Dense().nearest(x, x, k=2, query_ids=ids, key_ids=ids).rows)
          [[0 1]
           [1 0]]
        """
        logits, counted, positive = self._matrix(query, key, query_ids, key_ids)
        check_k(k, logits.shape[1])
        logits = jnp.where(entering(counted, positive, over), logits, lowest(logits.dtype))
        return Nearest(*jax.lax.top_k(jax.lax.stop_gradient(logits), k))

    def _matrix(
        self, query: Array, key: Array | None, query_ids: Array, key_ids: Array | None
    ) -> tuple[Array, Array, Array]:
        check_keys(key, key_ids)
        if key is None or key_ids is None:
            key, key_ids, different = query, query_ids, off_diagonal(query.shape[0])
            return (product(query, key.T, self.precision), *masks(query_ids, key_ids, different))
        return (product(query, key.T, self.precision), *masks(query_ids, key_ids, True))


def check_keys(key: Array | None, key_ids: Array | None) -> None:
    """Refuses keys without ids, or ids of another length."""
    if (key is None) != (key_ids is None) or (
        key is not None and key_ids is not None and jnp.shape(key_ids) != jnp.shape(key)[:1]
    ):
        found = "none" if key_ids is None else f"shape {jnp.shape(key_ids)}"
        rows = "none, as there are no keys" if key is None else f"shape {jnp.shape(key)[:1]}, one id a key"
        raise InputError("key_ids", found, rows)


def check_k(k: int, keys: int) -> None:
    """Refuses a number of neighbours that is not in 1..keys."""
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= keys:
        raise InputError("k", repr(k), f"a whole number in 1..{keys}, the number of keys")


def _terms(logits: Array, counted: Array, positive: Array, over: Over) -> tuple[Array, Array]:
    """The logits that enter the log-sum-exp, and those of positives; the others do not count in either.

    The mask comes before exp: a logit that does not count may be large enough to overflow.
    """
    entered = jnp.where(entering(counted, positive, over), logits, lowest(logits.dtype))
    return entered, jnp.where(positive, logits, 0)


def _counts(ids: Array, others: Array, same: bool, over: Over) -> tuple[Array, Array]:
    """How many of the others are positives of each row, and how many enter: by a sort of the ids, as a matrix of ones
    takes as much memory as the logits and a pass of its own."""
    ordered = jnp.sort(others)
    ends = [jnp.searchsorted(ordered, ids, side=side, method="sort") for side in ("left", "right")]
    valid, itself = ids != IGNORED, int(same)
    positive = jnp.where(valid, ends[1] - ends[0] - itself, 0)
    every = jnp.where(valid, jnp.sum(others != IGNORED) - itself, 0)
    return positive, {"all": every, "positives": positive, "negatives": every - positive}[over]


def _softmax(terms: tuple[Array, Array], counts: tuple[Array, Array], axis: int) -> SoftmaxRows:
    """The sums along an axis; columns are summed where they are, for a transposed copy costs as much as a matrix."""
    entered, of_positives = terms
    floor, some = lowest(entered.dtype), counts[1] > 0
    highest = jax.lax.stop_gradient(jnp.max(entered, axis=axis, initial=floor))
    total = jnp.sum(jnp.exp(entered - jnp.expand_dims(highest, axis)), axis=axis)
    return SoftmaxRows(
        lse=jnp.where(some, jnp.log(jnp.where(some, total, 1)) + highest, floor),
        positive_sum=jnp.sum(of_positives, axis=axis),
        positive_count=counts[0].astype(entered.dtype),
        key_count=counts[1].astype(entered.dtype),
    )
