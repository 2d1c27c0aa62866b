"""docs/reliability.md names tests that are there, for each of R1 to R38, and fields that are there."""

import pathlib
import re

from hcl_jax import config as configs

TESTS = pathlib.Path(__file__).resolve().parents[1]
TEXT = (TESTS.parent / "docs" / "reliability.md").read_text()
ROWS = [line.strip("| ").split(" | ") for line in TEXT.splitlines() if re.match(r"\| R\d+ \|", line)]


def test_every_number_has_its_tests():
    assert [row[0] for row in ROWS] == [f"R{n}" for n in range(1, 39)]
    for number, *_, tests in ROWS:
        # A file, and the names that follow it.
        named = re.findall(r"(?:(\S+\.py)|`(test_\w+)`)", tests)
        assert named and named[0][0], number
        for path, name in named:
            if path:
                text = (TESTS / path).read_text()
            else:
                assert f"def {name}(" in text, f"{number}: {name}"


def test_fields_of_the_page_exist():
    known = configs.flatten(configs.defaults().to_dict())
    for section, field in re.findall(r"`(train|data|checkpoint|limits|log)\.(\w+)", TEXT):
        assert f"{section}.{field}" in known, f"{section}.{field}"
