"""Views of large pictures are made a few rows at a time, so that what one op hands to the next stays in the cache.

A view of 64 pictures of 224 x 224 is 38 MB: of the whole batch, every op would read it from memory and write it to new
pages. A row depends on (seed, step, row) alone, so that no block changes it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from hcl_jax.errors import InputError
from hcl_jax.views import VIEWS, Draws
from hcl_jax.views.lazy import tf
from hcl_jax.views.params import sides

BLOCK_BYTES = 5 * 2**20  # of a view in float32: 8 rows of 224 x 224
SIZED = ("random_resized_crop", "centre_crop", "resize")


def rows_at_once(view: Mapping[str, Any], x: Any, views: Mapping[str, Callable[..., Any]]) -> int:
    """How many rows of a view are made together: 0 for all of them.

    Args:
      view: {kind, ops}.
      x: its field, [n, ...].
      views: op name -> function. One that is not the package's own gets all rows: it may look at several.

    Example:
      `rows_at_once({"kind": "image", "ops": ({"op": "resize", "size": 224},)}, jpegs, VIEWS)` is 8.
    """
    ops = [dict(op) for op in view.get("ops", ())]
    own = all(op.get("op") in VIEWS and views.get(op["op"]) is VIEWS[op["op"]] for op in ops)
    if view["kind"] != "image" or not own:
        return 0
    known = x.shape[1:3].as_list() if x.dtype != tf.string and x.shape.rank in (3, 4) else []
    pixels = [known[0] * known[1]] if known and None not in known else []
    for op in ops:
        if op["op"] in SIZED and "size" in op:
            try:
                tall, wide = sides("size", op["size"])
            except InputError:  # the op says so, and where
                return 0
            pixels.append(tall * wide)
    return max(1, BLOCK_BYTES // (12 * max(pixels))) if pixels else 0


def in_blocks(run: Callable[[Any, Draws], Any], x: Any, draws: Draws, most: int) -> Any:
    """run(x, draws) of at most `most` rows at a time, one block after the other: the same tensors; for graphs.

    Args:
      run: (x [k, ...], draws of these rows) -> tensors [k, ...], a view.
      x: [n, ...] of a known n.
      draws: of the n rows; its record stays empty.
      most: rows of a block, 0 for all.
    """
    if not most or (rows := x.shape[0]) <= most:
        return run(x, draws)
    blocks = -(-rows // most)
    graph = tf.compat.v1.get_default_graph()

    def program(x: Any, begin: Any) -> Any:
        return run(x, draws.part(begin, tf.shape(x)[0], graph))

    # Traced before the loop, which must know what comes out of it; its number of rows is open, for the last block.
    spec = tf.TensorSpec([None, *x.shape[1:]], x.dtype)
    one = tf.function(program, autograph=False).get_concrete_function(spec, tf.TensorSpec([], tf.int32))
    leaves = tf.nest.flatten(one.structured_outputs)
    arrays = [
        tf.TensorArray(leaf.dtype, blocks, infer_shape=False, element_shape=[None, *leaf.shape[1:]]) for leaf in leaves
    ]

    def body(block: Any, *arrays: Any) -> Any:
        begin, end = block * rows // blocks, (block + 1) * rows // blocks
        made = tf.nest.flatten(one(x[begin:end], begin))
        return block + 1, *[array.write(block, leaf) for array, leaf in zip(arrays, made, strict=True)]

    _, *arrays = tf.while_loop(lambda block, *_: block < blocks, body, (0, *arrays), parallel_iterations=1)
    made = [tf.ensure_shape(a.concat(), [rows, *leaf.shape[1:]]) for a, leaf in zip(arrays, leaves, strict=True)]
    return tf.nest.pack_sequence_as(one.structured_outputs, made)
