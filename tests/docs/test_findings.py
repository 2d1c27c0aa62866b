"""findings/: each script is listed, pins what it installs, and runs without hcl_jax. What it shows is run by hand."""

import pathlib
import re

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "findings"


def faults(text):
    """What a script must not do, or lacks."""
    header = text.partition("\nset -euo pipefail\n")[0]
    installed = re.findall(r"pip install (.*)", text)
    packages = [word for line in installed for word in line.split() if not word.startswith("-")]
    return [
        *(["no header that says what was seen"] if "# Seen with" not in header else []),
        *([f"not pinned: {p}" for p in packages if "==" not in p]),
        *(["installs nothing"] if not packages else []),
        *(["leaves its folder behind"] if "trap 'rm -rf \"$folder\"' EXIT" not in text else []),
        *(["names an index"] if re.search(r"https?://|--index|--extra-index", text) else []),
        *(["uses hcl_jax"] if re.search(r"(import|from|install) hcl_jax", text) else []),
        *(["always succeeds"] if "sys.exit(not (" not in text else []),
    ]


def test_scripts():
    scripts = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.sh")}
    assert len(scripts) >= 4 and {name: bad for name, text in scripts.items() if (bad := faults(text))} == {}


def test_every_script_is_listed():
    listed = re.findall(r"^\| `([\w-]+)`", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in FOLDER.glob("*.sh"))


def test_the_check_can_fail():
    right = (FOLDER / "restore-casts.sh").read_text()
    assert not faults(right)
    for old, new in (
        ("numpy==2.3.5", "numpy"),
        ("Seen with", "With"),
        ("import jax\n", "import hcl_jax\n"),
        ("not (", ""),
    ):
        assert faults(right.replace(old, new)), old
