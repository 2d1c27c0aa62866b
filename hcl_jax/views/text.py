"""Text: raw strings [n] -> token ids int32 [n, L], and changes of both. 0 is padding, but where `keep_ids` says so.

Ids of "bytes": 0 padding, 1 start, 2 end, byte + 3, 259 mask: 260 in all. A tokenizer.json that `train_bpe` wrote has
0 padding, 1 start, 2 end, 3 mask. Files: tokenizers.py.
"""

from typing import Any

import numpy as np

from hcl_jax.errors import InputError
from hcl_jax.views.lazy import tf
from hcl_jax.views.params import number, span, whole
from hcl_jax.views.tokenizers import BYTES_MASK, BYTES_VOCABULARY, END, FIRST_BYTE, PADDING, START, encode_batch, load


def tokens(x: Any, draws: Any, *, tokenizer: str = "bytes", length: int = 64, keep_ids: bool = False) -> Any:
    """Token ids of one length, cut or padded at the end.

    Args:
      x: strings [n] in UTF-8, or ids made before, int [n, L0].
      draws: not used.
      tokenizer: "bytes" (start, the bytes, end); the path of a Hugging Face tokenizer.json, whose own template
        says which special tokens there are; or that of CLIP's merges (bpe_simple_vocab_16e6.txt.gz: lower case, start,
        end). `data.tokenizer` where the spec does not give it.
      length: L. Cut texts keep the end token, but a letter of several bytes may be cut in two.
      keep_ids: of a file whose id 0 is a token: the published ids, for published weights (CLIP's "!" is 0, and so is
        what fills a row: for encoders with `hide_padding` False). Else they move up by one, and 0 is padding alone.

    Returns:
      int32 [n, length].

    Raises:
      InputError: no such file, no tokenizer in it, or x is neither strings nor ids.
    """
    del draws
    length = whole("tokens.length", length, 2)
    if x.dtype.is_integer and x.shape.rank == 2:
        x = tf.cast(x[:, :length], tf.int32)
        return tf.ensure_shape(tf.pad(x, [[0, 0], [0, length - tf.shape(x)[1]]]), [x.shape[0], length])
    if x.dtype != tf.string or x.shape.rank != 1:
        raise InputError("tokens", f"{x.dtype.name} of shape {x.shape}", "strings [n], or ids int [n, L]")
    if tokenizer == "bytes":
        return _bytes(x, length)
    # The first use fails at graph build, with the path, not in the middle of a run.
    load(tokenizer)

    def encode(strings: np.ndarray) -> np.ndarray:
        return encode_batch([s.decode("utf-8", "replace") for s in strings], tokenizer, length, keep_ids)

    return tf.ensure_shape(tf.numpy_function(encode, [x], tf.int32, stateful=False), [x.shape[0], length])


def _bytes(x: Any, length: int) -> Any:
    count = tf.minimum(tf.strings.length(x), length - 2)[:, None]
    raw = tf.io.decode_raw(x, tf.uint8, fixed_length=length - 1)  # one more than fits: the width may not be 0
    at = tf.range(length)
    padded = tf.pad(tf.cast(raw, tf.int32) + FIRST_BYTE, [[0, 0], [1, 0]])
    ids = tf.where(at <= count, padded, tf.where(at == count + 1, END, PADDING))
    return tf.ensure_shape(tf.where(at == 0, START, ids), [x.shape[0], length])


def drop_words(x: Any, draws: Any, *, p: float = 0.1, most: int = 64) -> Any:
    """Drops words of raw text, each with probability p; the first kept if all would go. White space becomes one blank.

    Args:
      x: strings [n].
      draws: "drop" [n, most] (dropped below p).
      p: probability for each word.
      most: words after this many are always kept.

    Returns:
      strings [n].
    """
    if x.dtype != tf.string or x.shape.rank != 1:
        raise InputError("drop_words", f"{x.dtype.name} of shape {x.shape}", "strings [n]; put it before tokens")
    p, most = number("drop_words.p", p, 0.0, 1.0), whole("drop_words.most", most, 1)
    drawn = draws.uniform("drop", (most,))
    words = tf.strings.split(x).to_tensor()
    is_word = words != ""
    drawn = tf.pad(drawn, [[0, 0], [0, tf.maximum(tf.shape(words)[1] - most, 0)]], constant_values=1.0)
    keep_mask = is_word & (drawn[:, : tf.shape(words)[1]] >= p)
    keep_mask = keep_mask | (
        ~tf.reduce_any(keep_mask, axis=1, keepdims=True) & (tf.range(tf.shape(words)[1]) == 0) & is_word
    )
    joined = tf.strings.reduce_join(tf.ragged.boolean_mask(words, keep_mask), axis=-1, separator=" ")
    return tf.ensure_shape(joined, x.shape)


def _ids(x: Any, op: str) -> Any:
    if not x.dtype.is_integer or x.shape.rank != 2 or x.shape[1] is None:
        raise InputError(op, f"{x.dtype.name} of shape {x.shape}", "token ids int [n, L]; put it after tokens")
    return tf.cast(x, tf.int32)


def _inner(x: Any) -> Any:
    """Tokens that an op may touch, bool [n, L]: neither padding, nor the first, nor the last one (start and end)."""
    at = tf.range(x.shape[1])
    count = tf.reduce_sum(tf.cast(x != PADDING, tf.int32), axis=1, keepdims=True)
    return (at > 0) & (at < count - 1)


def _close_up(x: Any, keep_mask: Any) -> Any:
    """Moves the kept tokens to the front, padding behind."""
    at = tf.range(x.shape[1])
    order = tf.argsort(tf.where(keep_mask, at, at + x.shape[1]), axis=1)
    return tf.gather(tf.where(keep_mask, x, PADDING), order, batch_dims=1)


def drop_tokens(x: Any, draws: Any, *, p: float = 0.1) -> Any:
    """Drops tokens between the first and the last, each with probability p, and closes the gaps.

    Args:
      x: token ids [n, L].
      draws: "drop" [n, L] (dropped below p).
      p: probability for each token.

    Returns:
      int32 [n, L].

    Reference: Wu et al. 2020 (CLEAR), section 3.2, word deletion.
    """
    x = _ids(x, "drop_tokens")
    drop = (draws.uniform("drop", (x.shape[1],)) < number("drop_tokens.p", p, 0.0, 1.0)) & _inner(x)
    return _close_up(x, (x != PADDING) & ~drop)


def crop_tokens(x: Any, draws: Any, *, fraction: Any = (0.5, 1.0)) -> Any:
    """Keeps one random run of the tokens between the first and the last.

    Args:
      x: token ids [n, L].
      draws: "fraction" [n], "start" [n] (0..1).
      fraction: range of the run's share; at least one token stays.

    Returns:
      int32 [n, L].

    Reference: Giorgi et al. 2021 (DeCLUTR), section 3.2.
    """
    x = _ids(x, "crop_tokens")
    low, high = span("crop_tokens.fraction", fraction, 0.0, 1.0)
    inner = _inner(x)
    count = tf.reduce_sum(tf.cast(inner, tf.float32), axis=1)
    run = tf.clip_by_value(tf.round(draws.uniform("fraction", (), low, high) * count), tf.minimum(count, 1.0), count)
    start = tf.minimum(tf.floor(draws.uniform("start") * (count - run + 1.0)), count - run) + 1.0
    at = tf.range(x.shape[1], dtype=tf.float32)
    inside = (at >= start[:, None]) & (at < (start + run)[:, None])
    return _close_up(x, (x != PADDING) & (~inner | inside))


def mask_tokens(
    x: Any,
    draws: Any,
    *,
    p: float = 0.15,
    mask: int = BYTES_MASK,
    vocabulary: int = BYTES_VOCABULARY,
    first: int = FIRST_BYTE,
    target: str = "masked",
) -> Any:
    """Hides tokens for a model to guess: of those chosen, 80 % become `mask`, 10 % any token, 10 % stay.

    Args:
      x: token ids [n, L]; the first and the last token are never chosen.
      draws: "chosen" [n, L] (below p), "how" [n, L] (below 0.8 mask, below 0.9 any), "other" [n, L] (0..1, over ids).
      p: probability for each token.
      mask: id of the mask; 259 for "bytes", 3 for train_bpe.
      vocabulary, first: any token is one of first..vocabulary - 1, without the mask's id where that is last.
      target: name of the target, int32 [n, L]: the true id where chosen, -1 elsewhere; "" makes none.

    Returns:
      int32 [n, L].

    Reference: Devlin et al. 2019 (BERT), section 3.1.
    """
    x = _ids(x, "mask_tokens")
    p, mask = number("mask_tokens.p", p, 0.0, 1.0), whole("mask_tokens.mask", mask)
    first = whole("mask_tokens.first", first)
    last = whole("mask_tokens.vocabulary", vocabulary, first + 2) - 1 - (mask == vocabulary - 1)
    shape = (x.shape[1],)
    chosen = (draws.uniform("chosen", shape) < p) & _inner(x)
    how = draws.uniform("how", shape)
    other = first + tf.cast(tf.floor(draws.uniform("other", shape) * (last - first + 1)), tf.int32)
    if target:
        draws.target(target, tf.where(chosen, x, -1))
    return tf.where(chosen & (how < 0.8), mask, tf.where(chosen & (how < 0.9), tf.minimum(other, last), x))


def after(x: Any, draws: Any, *, token: int, target: str = "response") -> Any:
    """Marks the tokens behind the first `token` (a separator) that are not padding: the response to a prompt.

    Args:
      x: token ids [n, L].
      draws: not used, but makes the target, bool [n, L].
      token: id of the separator, at least 1. In a row without it nothing is marked.
      target: name of the target.

    Returns:
      int32 [n, L], unchanged.
    """
    x = _ids(x, "after")
    found = tf.cast(x == whole("after.token", token, 1), tf.int32)
    draws.target(target, (tf.cumsum(found, axis=1, exclusive=True) > 0) & (x != PADDING))
    return x
