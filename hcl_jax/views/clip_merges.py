"""CLIP's merges file (bpe_simple_vocab_16e6.txt.gz) as a tokenizer with the ids of open_clip's SimpleTokenizer.

Ids: 0..255 bytes, 256..511 bytes at the end of a word, 512.. the merges in their order, then start and end: 49408 in
all. Id 0 is "!". The merging is that of the tokenizers library; what is done to a text before is here.
"""

import html
from collections.abc import Callable
from typing import Any

from hcl_jax.errors import InputError

ALLOWED = "CLIP's merges: a line with a version, then two symbols a line"
MERGES = 49152 - 256 - 2  # the lines that are read of a longer file
WORD_END, START, END = "</w>", "<start_of_text>", "<end_of_text>"
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


def byte_symbols() -> list[str]:
    """The characters that stand for bytes in the file, in the order of the ids; printable ones are themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + n) for n in range(len(others))]


def merges_of(content: bytes, path: str) -> list[tuple[str, str]]:
    """The pairs of a merges file, first merged first. Raises InputError naming the file and the line."""
    try:
        lines = content.decode("utf-8").rstrip().split("\n")
    except UnicodeDecodeError:
        raise InputError(path, "no text in UTF-8", ALLOWED) from None
    known, pairs = set(byte_symbols()), []
    known |= {symbol + WORD_END for symbol in known}
    for number, line in enumerate(lines[1 : MERGES + 1], 2):
        pair = tuple(line.split())
        if len(pair) != 2 or not known.issuperset(pair):
            shown = line if len(line) <= 40 else line[:40] + "..."
            raise InputError(f"{path} line {number}", repr(shown), f"two symbols, bytes or merged above; {ALLOWED}")
        pairs.append(pair)
        known.add("".join(pair))
    if not pairs:
        raise InputError(path, "no merge", ALLOWED)
    return pairs


def from_merges(pairs: list[tuple[str, str]]) -> Any:
    """The tokenizer of the tokenizers library that merges these pairs, start and end around each text."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    symbols = byte_symbols()
    names = [*symbols, *(s + WORD_END for s in symbols), *map("".join, pairs), START, END]
    ids = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=pairs, end_of_word_suffix=WORD_END))
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in (START, END)])
    words = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, as_bytes])
    tokenizer.decoder = decoders.Sequence([decoders.Replace(WORD_END, " "), decoders.ByteLevel()])
    around = [(START, ids[START]), (END, ids[END])]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=around)
    return tokenizer


def cleaner(path: str) -> Callable[[str], str]:
    """What CLIP does to a text before: repaired Unicode, HTML's signs, single blanks, lower case.

    Raises:
      InputError: ftfy, which repairs, is not installed. Without it some texts would have other ids, unseen.
    """
    try:
        from ftfy import fix_text
    except ImportError:
        raise InputError(path, "CLIP's merges, but ftfy is not installed", "pip install -e '.[text]'") from None

    def clean(text: str) -> str:
        # Printable ASCII has nothing to repair; it is most captions, and ftfy most of the time.
        if not (text.isascii() and text.isprintable() and "&" not in text):
            text = html.unescape(html.unescape(fix_text(text)))
        return " ".join(text.split()).lower()

    return clean
