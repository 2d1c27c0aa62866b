"""HTML text that is escaped unless it was made here."""

import html

VOID = ("img",)  # elements without an end


class Html(str):
    """Text that is HTML already; any other str is escaped where it enters an element."""

    __slots__ = ()


def join(*parts: str) -> Html:
    """The parts one after the other, each escaped unless it is Html."""
    return Html("".join(p if isinstance(p, Html) else html.escape(str(p)) for p in parts))


def tag(name: str, *children: str, **attributes: object) -> Html:
    """An element; `class_` and `for_` lose their underscore, `aria_label` is `aria-label`; None and False are left out.

    Example:
      >>> tag("b", "a < b", class_="n")
      '<b class="n">a &lt; b</b>'
    """
    said = ""
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        said += f" {key}" if value is True else f' {key}="{html.escape(str(value))}"'
    return Html(f"<{name}{said}>" if name in VOID else f"<{name}{said}>{join(*children)}</{name}>")
