"""The HTML file around a page: its style, its few lines of script, and the rule that nothing is fetched."""

import pathlib

from hcl_jax.report.html import Html

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def document(title: Html, body: Html) -> str:
    """The whole file."""
    here = pathlib.Path(__file__)
    style, script = (here.with_name(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{style}</style></head>\n<body>{body}<script>{script}</script></body></html>\n"
    )
