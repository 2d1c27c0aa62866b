"""Functions that refuse what the shapes in their signatures do not describe."""

from beartype import beartype
from jaxtyping import jaxtyped


def checked(function):
    """The function, refusing arguments and results that its annotations do not describe."""
    return jaxtyped(function, typechecker=beartype)
