"""Tokenizers of files: a Hugging Face tokenizer.json, or CLIP's merges; and a byte pair encoding learned here.

A file whose id 0 is no padding token has every id moved up by one, so that 0 is padding alone. `keep_ids` keeps the
published ones: 0 is then a token ("!" of CLIP) and what fills a row, for encoders that hide no padding.
"""

import functools
import gzip
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from hcl_jax.disk.reading import readable
from hcl_jax.disk.whole import write as write_whole
from hcl_jax.errors import InputError
from hcl_jax.views.clip_merges import cleaner, from_merges, merges_of
from hcl_jax.views.params import whole

PADDING, START, END = 0, 1, 2
FIRST_BYTE = 3
BYTES_MASK, BYTES_VOCABULARY = 259, 260
SPECIALS = ("[PAD]", "[START]", "[END]", "[MASK]")
# Names that padding has in published tokenizers; id 0 under another name is an ordinary token.
PADDING_NAMES = ("[PAD]", "<pad>", "<PAD>", "[pad]", "<|pad|>", "<|padding|>")
KINDS = '"bytes", or the path of a tokenizer.json or of CLIP\'s merges (bpe_simple_vocab_16e6.txt.gz)'
LEARNED = 256 + len(SPECIALS), 2**24  # fewest and most tokens; memory is taken for as many as are asked for
MOST_IDS = 2**31 - 1  # they are int32, and may move up by one
STRANGE = "\u2603\U0001f9ff \ufffd\u0e01"  # unknown to most vocabularies of words
MOST_BYTES = 2**28  # of a file, and of merges when they are unpacked: the largest published ones have 35 MB


class Tokenizer(NamedTuple):
    """What a file holds.

    Attributes:
      library: the tokenizer of the tokenizers library.
      has_padding: whether id 0 is padding, and nothing else.
      clean: what is done to a text before; None: nothing.
      digest: sha256 of the file.
    """

    library: Any
    has_padding: bool
    clean: Callable[[str], str] | None
    digest: str

    def up(self, keep_ids: bool) -> int:
        """By how much its ids move up so that 0 is padding."""
        return 0 if keep_ids or self.has_padding else 1


@functools.lru_cache(maxsize=8)
def _load(path: str, changed: tuple[int, int]) -> Tokenizer:
    del changed
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from tokenizers import Tokenizer as Library

    content = _read(path, open)
    digest = hashlib.sha256(content).hexdigest()
    if content[:2] == b"\x1f\x8b":
        content = _read(path, gzip.open)
    content = content.removeprefix(b"\xef\xbb\xbf")  # what Windows' editors put before UTF-8
    if not content.lstrip().startswith(b"{"):
        return Tokenizer(from_merges(merges_of(content, path)), False, cleaner(path), digest)
    try:
        library = Library.from_buffer(content)
    except Exception as error:  # the library raises a bare Exception
        raise InputError(path, str(error), "a tokenizer.json of the tokenizers library") from None
    library.no_padding()
    library.no_truncation()
    _check(library, path)
    return Tokenizer(library, library.id_to_token(0) in PADDING_NAMES, None, digest)


def _check(library: Any, path: str) -> None:
    """Raises InputError for a tokenizer that has no id for some texts: it would end a run where one of them comes."""
    largest = max(library.get_vocab(with_added_tokens=True).values(), default=-1)
    if not 0 <= largest < MOST_IDS:
        found = "no token" if largest < 0 else f"the id {largest}"
        raise InputError(path, found, f"a vocabulary, with ids below {MOST_IDS}")
    try:
        library.encode_batch(["", "a", STRANGE])
    except Exception as error:  # the library raises a bare Exception
        raise InputError(path, f"texts without ids ({error})", "a tokenizer with ids for any text") from None


def _read(path: str, opened: Callable[..., Any]) -> bytes:
    """The bytes of a file, not more of them than any tokenizer has."""
    with readable(path, KINDS), opened(path, "rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise InputError(path, f"more than {MOST_BYTES >> 20} MiB", KINDS)
    return content


def load(path: str, where: str = "tokens.tokenizer") -> Tokenizer:
    """The tokenizer of a file, read once. Raises InputError without one, naming `where` or the file."""
    full = os.path.expanduser(path) if isinstance(path, str) else ""
    if not os.path.isfile(full):
        raise InputError(where, repr(path), f"{KINDS}; python -m hcl_jax.tokenizer learns one")
    state = os.stat(full)
    return _load(full, (state.st_mtime_ns, state.st_size))


def digests(views: Mapping[str, Any]) -> dict[str, str]:
    """{"text.ops[0]": sha256 of the file} of the ops that name a tokenizer of their own."""
    named = {f"{view}.ops[{i}]": op.get("tokenizer") for view, v in views.items() for i, op in enumerate(v["ops"])}
    return {op: load(path).digest for op, path in named.items() if path not in (None, "bytes")}


def encode_batch(texts: list[str], path: str, length: int, keep_ids: bool = False) -> np.ndarray:
    """Ids of texts by the tokenizer of a file: int32 [n, length].

    Cut texts keep the special tokens that the tokenizer's template puts at the end.
    """
    tokenizer = load(path)
    texts = texts if tokenizer.clean is None else [tokenizer.clean(text) for text in texts]
    library, up = tokenizer.library, tokenizer.up(keep_ids)
    ids = np.zeros((len(texts), length), np.int32)
    # add_special_tokens after the cut: truncation of a shared tokenizer would be state.
    special = library.num_special_tokens_to_add(False)
    for row, encoding in enumerate(library.encode_batch(texts, add_special_tokens=False)):
        encoding.truncate(max(length - special, 0))
        found = library.post_process(encoding).ids[:length]
        ids[row, : len(found)] = np.asarray(found, np.int32) + up
    return ids


def decode_batch(ids: np.ndarray, tokenizer: str = "bytes") -> list[str]:
    """Texts of token ids [n, L], without special tokens: the way back, for people."""
    if tokenizer == "bytes":
        rows = [bytes(int(i) - FIRST_BYTE for i in row if FIRST_BYTE <= i < BYTES_MASK) for row in np.asarray(ids)]
        return [row.decode("utf-8", "replace") for row in rows]
    found = load(tokenizer)
    up = found.up(False)
    return found.library.decode_batch([[int(i) - up for i in row if i > 0] for row in np.asarray(ids)])


def vocabulary_size(tokenizer: str = "bytes", keep_ids: bool = False) -> int:
    """One more than the largest id, for an embedding table: 260 for "bytes". Ids of a tokenizer.json may have gaps."""
    if tokenizer == "bytes":
        return BYTES_VOCABULARY
    found = load(tokenizer)
    return max(found.library.get_vocab(with_added_tokens=True).values()) + 1 + found.up(keep_ids)


def train_bpe(texts: Iterable[str], vocab_size: int, path: str) -> int:
    """Learns byte pair encoding from texts and writes a tokenizer.json; needs no network.

    Args:
      texts: strings.
      vocab_size: upper limit on tokens, at least 260 (256 bytes and 4 special tokens), at most 2^24.
      path: the file to write.

    Returns:
      The number of tokens learned.

    Reference: Sennrich et al. 2016, algorithm 1, on bytes.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    vocab_size = whole("vocab_size", vocab_size, *LEARNED)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[START] $A [END]", special_tokens=[("[START]", START), ("[END]", END)]
    )
    # A reader never sees half a file. (workdir/files.py stands on a floor above the views.)
    write_whole(path, tokenizer.to_str(pretty=True))
    return tokenizer.get_vocab_size()
