"""Docstrings as the site's reader expects them: an example is code, and the bracket of a shape, [n, d], is no link."""

import re

import griffe


class Plain(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Of a module, a class or a function."""
        if obj.docstring is not None:
            obj.docstring.value = "\n".join(map(line, obj.docstring.value.splitlines()))


def line(text: str) -> str:
    """One line of a docstring; what stands between backticks or behind >>> stays."""
    if text.strip() == "Example:":
        return text.replace("Example:", "Examples:")
    if ">>>" in text or text.startswith("    "):
        return text
    name = re.match(r"  [\w*, ]+: |", text)[0]  # a parameter's
    parts = re.split(r"(`[^`]*`)", text.removeprefix(name))
    return name + "".join(p if p.startswith("`") else re.sub(r"([\[\]*<])", r"\\\1", p) for p in parts)
