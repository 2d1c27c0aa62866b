"""Whether the ids of a tokenizer fit the encoder that reads them: only a rare word would show that they do not."""

from collections.abc import Iterator, Mapping
from typing import Any

from hcl_jax.data.source import Source
from hcl_jax.errors import InputError
from hcl_jax.run import Run
from hcl_jax.views import tokenizers


def check_tokenizers(run: Run, source: Source) -> None:
    """Raises InputError for a tokenizer that no op reads, or of a file whose ids an encoder has no vector for, or takes
    for padding."""
    views = (*run.config.views.values(), *run.config.evaluate.views.values())
    ops = [op for view in views for op in view["ops"]]
    if source.tokenizer != "bytes" and not any(op["op"] == "tokens" and "tokenizer" not in op for op in ops):
        raise InputError("config.data.tokenizer", repr(source.tokenizer), "'bytes', for no op tokens takes it")
    for name, tower in run.config.towers.items():
        made = run.model.towers[name].encoder
        if not hasattr(made, "vocab_size"):
            continue
        where = f"config.towers.{name}.encoder"
        for path, keep_ids in sorted(set(_read(run.config, name, tower, source))):
            size = tokenizers.vocabulary_size(path, keep_ids)
            found = tokenizers.load(path)
            if size > made.vocab_size:
                moved = " (moved up by one: its 0 is a token; keep_ids keeps them)" if found.up(keep_ids) else ""
                raise InputError(
                    f"{where}.vocab_size", made.vocab_size, f"at least {size}, for the ids of {path}{moved}"
                )
            if keep_ids and not found.has_padding and getattr(made, "hide_padding", False):
                word = found.library.id_to_token(0)
                allowed = f"False, for 0 is the token {word!r} of {path}; or tokens without keep_ids"
                raise InputError(f"{where}.hide_padding", True, allowed)


def without_bytes(views: Mapping[str, Any]) -> dict[str, Any]:
    """The same views, in which no op names the tokenizer "bytes", where that is the data's too."""

    def plain(op: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in op.items() if (k, v) != ("tokenizer", "bytes")}

    return {name: {**view, "ops": tuple(map(plain, view["ops"]))} for name, view in views.items()}


def _read(config: Any, tower: str, spec: Mapping[str, Any], source: Source) -> Iterator[tuple[str, bool]]:
    """(file, keep_ids) of each op that makes ids from the texts of a tower's views."""
    evaluated = [view for view in config.evaluate.views.values() if view["tower"] == tower]
    for view in [config.views[name] for name in spec["views"] if name in config.views] + evaluated:
        if source.fields.get(view["field"], ((), ""))[1] != "string":
            continue
        for op in view["ops"]:
            path = op.get("tokenizer", source.tokenizer)
            if op["op"] == "tokens" and path != "bytes":
                yield path, op.get("keep_ids", False)
