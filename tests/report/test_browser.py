"""Pages on a picture, a series and a graph run and on two at once, also as a browser shows them, where there is one."""

import numpy as np
import pytest
from report import chromium
from report.outline import Outline

from hcl_jax.compare import logged
from hcl_jax.main import main as train
from hcl_jax.report.page import page as page_of
from hcl_jax.report.written import part_of

PARTS = ["Results", "Curves", "Views", "Features", "Neighbours", "Confusion", "Card"]
SHORT = ["--config.train.steps=2", "--config.log.every=1", "--config.log.tensorboard=false", "--config.mesh.data=1"]


@pytest.fixture(scope="module")
def pages(shared_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    series, graphs = folder / "series", folder / "graphs"
    labels = np.arange(16) % 2
    waves = np.sin(np.linspace(0, 6, 24) * (1 + labels[:, None]))[..., None] + np.arange(16)[:, None, None] / 50
    for split in ("train", "test"):
        np.savez(folder / f"{split}.npz", series=waves.astype(np.float32), label=labels)
    small = ["--config.towers.series.encoder.depth=1", "--config.data.batch_size=8", "--config.evaluate.batch_size=16"]
    flags = ["--config=simclr_series:npz", f"--config.data.dir={folder}", *small, *SHORT, f"--workdir={series}"]
    assert train([*flags, "--config.evaluate.evaluators={'knn': {'k': 3}}"]) == 0
    flags = ["--config=graphcl:motifs", "--config.data.num_examples=40", "--config.evaluate.folds=3", *SHORT]
    assert train([*flags, "--config.evaluate.evaluators={'knn': {'k': 3}}", f"--workdir={graphs}"]) == 0
    a, b, c = (part_of(run, 24, print) for run in logged.read([shared_run, series, graphs]))
    made = {"picture": [a], "series": [b], "graph": [c], "two": [b, c]}
    for name, parts in made.items():
        (folder / f"{name}.html").write_text(page_of(parts), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in made}


@pytest.mark.slow
def test_every_kind_of_run_has_every_part(pages):
    found = {name: Outline(page.read_text(encoding="utf-8")) for name, page in pages.items()}
    assert {name: outline.tabs for name, outline in found.items()} == dict.fromkeys(pages, PARTS)
    assert "one seed in common" in found["two"].text and "graphs − series" in found["two"].text
    assert "3 folds of 24 records" in found["graph"].text


@pytest.mark.slow
@pytest.mark.skipif(chromium.path() is None, reason="no Chromium on the PATH (Debian: apt-get install chromium)")
@pytest.mark.parametrize("name", ["picture", "series", "graph", "two"])
def test_a_browser_shows_every_tab_and_fetches_nothing(pages, name):
    with chromium.browser() as page:
        page.open(pages[name])
        visible = "[...document.querySelectorAll('section')].filter(s => s.offsetHeight > 40).map(s => s.id)"
        assert page.value(visible) == PARTS[:1]
        for part in PARTS:
            page.value(f"document.getElementById('tab-{part}').click()")
            assert page.value(visible) == [part]
        press = "document.getElementById('tab-Card').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft'}))"
        page.value(press)
        assert page.value(visible) == ["Confusion"]
        page.value("document.getElementById('tab-Features').click()")
        bright = "[...document.querySelectorAll('.map use')].filter(u => !u.classList.contains('dim')).length"
        before = page.value(bright)
        page.value("document.querySelector('.classes button').click()")
        assert 0 < page.value(bright) < before
        ink = "getComputedStyle(document.body).color"
        light, _ = page.value(ink), page.dark(True)
        assert page.value(ink) != light
        wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        page.size(400, 800)
        assert not page.value(wide)
        fetched = [p["request"]["url"] for method, p in page.events if method == "Network.requestWillBeSent"]
        told = [
            p for m, p in page.events if m in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        ]
    assert [url for url in fetched if not url.startswith("data:")] == [pages[name].as_uri()]
    assert told == []


@pytest.mark.slow
@pytest.mark.skipif(chromium.path() is None, reason="no Chromium on the PATH (Debian: apt-get install chromium)")
def test_this_check_can_fail(tmp_path):
    file = tmp_path / "page.html"
    file.write_text('<img src="none.png"><script>console.error("x"); missing()</script>')
    with chromium.browser() as page:
        page.open(file)
        methods = [method for method, _ in page.events]
        fetched = [p["request"]["url"] for method, p in page.events if method == "Network.requestWillBeSent"]
    assert "Runtime.consoleAPICalled" in methods and "Runtime.exceptionThrown" in methods
    assert (tmp_path / "none.png").as_uri() in fetched
