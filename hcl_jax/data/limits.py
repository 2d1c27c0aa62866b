"""Files that ask for more memory than a run allows."""

from hcl_jax.errors import InputError


def check_bytes(where: str, size: int, most: int) -> None:
    """Raises InputError for arrays of more bytes than `data.max_array_bytes`."""
    if size > most:
        raise InputError(where, f"{size} bytes of arrays", f"at most {most}, config.data.max_array_bytes")
