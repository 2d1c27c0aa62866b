"""What a page holds, for the tests of this folder."""

import html.parser

from hcl_jax.report.html import VOID


class Outline(html.parser.HTMLParser):
    """Fails on an element that is not closed; keeps tabs, texts and addresses."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tabs, self.text, self.addresses = [], [], "", []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, name, attributes):
        self.open += [] if name in (*VOID, "meta") else [name]
        found = dict(attributes)
        self.tabs += [found["aria-controls"]] if found.get("role") == "tab" else []
        self.addresses += [found[k] for k in ("src", "href") if k in found]

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.text += data
