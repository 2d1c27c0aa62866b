"""What a run says of the commit that was launched, and of its end; the slices that can be rented."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

from hcl_jax.errors import InputError
from hcl_jax.plan.slices import SLICES, find
from hcl_jax.runtime import preemption
from hcl_jax.workdir import card
from launch import worker
from launch.logs import Logs


def test_the_commit_is_part_of_what_hosts_must_have_in_common(monkeypatch):
    monkeypatch.delenv("HCL_JAX_COMMIT", raising=False)
    plain = card.code()
    monkeypatch.setenv("HCL_JAX_COMMIT", "abc")
    assert card.code() == {**plain, "the commit": "abc"} and "the commit" not in plain


def test_a_run_that_was_told_to_end_can_say_so(monkeypatch):
    """0 for a person who sends SIGTERM; another status for a launcher, which starts the run again."""
    monkeypatch.setattr(preemption.Interruption, "stopped", False)
    monkeypatch.setattr(preemption.multihost_utils, "reached_preemption_sync_point", lambda tick: tick == 2)
    monkeypatch.setenv("HCL_JAX_STOPPED", "75")
    asked = preemption.Interruption()
    asked._has_service = True
    assert not asked.due() and preemption.status_of_end() == 0
    assert asked.due() and preemption.status_of_end() == 75
    monkeypatch.delenv("HCL_JAX_STOPPED")
    assert preemption.status_of_end() == 0


@pytest.mark.parametrize(
    ("accelerator", "topology", "chips", "hosts"),
    [  # as the pages of Cloud TPU have them
        ("v4-8", "v4:2x2x1", 4, 1),
        ("v4-128", "v4:4x4x4", 64, 16),
        ("v5litepod-8", "v5e:2x4", 8, 1),
        ("v5litepod-16", "v5e:4x4", 16, 4),
        ("v5litepod-256", "v5e:16x16", 256, 64),
        ("v5p-32", "v5p:2x2x4", 16, 4),
        ("v5p-2048", "v5p:8x8x16", 1024, 256),
        ("v5p-12288", "v5p:16x16x24", 6144, 1536),
        ("v6e-1", "v6e:1x1", 1, 1),
        ("v6e-4", "v6e:2x2", 4, 1),
        ("v6e-128", "v6e:8x16", 128, 32),
    ],
)
def test_the_slices(accelerator, topology, chips, hosts):
    tpu = find(accelerator)
    assert tpu == find(topology) and (tpu.accelerator, tpu.topology) == (accelerator, topology)
    assert (tpu.chips, tpu.hosts) == (chips, hosts)


def test_every_slice_has_one_name_of_each_kind():
    names = [name for each in SLICES for name in (each.accelerator, each.topology)]
    assert len(set(names)) == len(names) and all(each.hosts * each.chips_a_host == each.chips for each in SLICES)
    with pytest.raises(InputError, match=r"^--topology: found 'v5e:16x17'; allowed: v5e:16x16, "):
        find("v5e:16x17", "--topology")


def test_no_jax_is_needed_to_launch():
    code = "import sys, launch.tpu_vm, launch.gke; sys.exit('jax' in sys.modules or 'flax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_worker_can_be_read_by_an_old_python():
    """The images of TPU VMs have 3.10 and older; the run has a Python of its own."""
    text = pathlib.Path(worker.__file__).read_text()
    ast.parse(text, feature_version=(3, 8))
    used = {node.names[0].name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import)}
    assert used <= sys.stdlib_module_names


def test_the_logs_of_many_are_told_apart(tmp_path, capsys):
    """Lines in pieces, a connection that begins again, another that is made: each line is filed and printed once."""
    logs = Logs(tmp_path, re.compile(r"\[([\w.-]+)\] "), re.compile(r"-w-0$"))
    begin = b"[h-w-0] hcl_jax-follow\n"
    for data in (begin, b"noise\n[h-w-0] on", b"e\n[h-w-1] 1\n", begin + b"[h-w-0] one\n[h-w-0] two\n[h-w-1"):
        logs.take(data)
    logs.connect()
    logs.take(b"[h-w-1] hcl_jax-follow\n[h-w-1] 1\n" + begin + b"[h-w-1] 2\n[h-w-0] one\n[h-w-0] two\n[h-w-0] three\n")
    logs.close()
    assert capsys.readouterr().out == "one\ntwo\nthree\n"
    assert (tmp_path / "h-w-0.log").read_text() == "one\ntwo\nthree\n" and (
        tmp_path / "h-w-1.log"
    ).read_text() == "1\n2\n"
