"""Bad input as a user meets it: one line that says where, what was found and what is allowed."""

import pytest

from hcl_jax import data
from hcl_jax.errors import InputError
from hcl_jax.main import main


def refused(capsys, *flags):
    """The line with which the command line refuses these flags; it exits with 2."""
    assert main([str(f) for f in flags]) == 2
    text = capsys.readouterr().err.strip()
    assert text.startswith("hcl_jax: ") and "\n" not in text, text
    return text


def refused_source(pattern, config, split="train"):
    """Opening a split of these data fields is refused by a line that matches."""
    with pytest.raises(InputError, match=pattern) as error:
        data.open_source(config, split)
    assert "\n" not in str(error.value)
