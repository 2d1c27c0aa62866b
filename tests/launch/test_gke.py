"""GKE: the JobSet against its published schema, what is asked of kubectl, and what is left when something breaks."""

import copy
import json
import pathlib
import shlex
import signal
import tarfile

import jsonschema
import pytest
import yaml
from cloud import same_as_golden
from heard import DEAF

from hcl_jax.plan.slices import SLICES, find
from launch.gke import Job, jobset, text_of

SCHEMA = json.loads((pathlib.Path(__file__).parent / "jobset.schema.json").read_text())
RUN = ["--config=simclr:imagenet", '--config.mesh.rules=(("a b", "$(HOME)\'"),)', "--workdir=gs://b/run"]
JOB = Job("hcl-jax", find("v5litepod-16"), 1, 4, "image:1", None, RUN, 10, 300, False, None, None)
QUICK = ["--type=v4-16", "--image=reg/hcl_jax", "--poll=0.2"]
LARGE = JOB._replace(tpu=find("v5p-1024"), slices=2, commit="c" * 40, spot=True, queue="q", service_account="s")


def launched(cloud, *flags, run=RUN):
    return cloud.run("gke", *QUICK, *flags, "--", *run)


@pytest.mark.parametrize("job", [JOB, LARGE, JOB._replace(tpu=find("v6e-8"), chips_a_node=8)])
def test_the_jobset_is_valid(job):
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    made = yaml.safe_load(text_of(job))
    assert made == jobset(job)
    jsonschema.validate(made, SCHEMA, jsonschema.Draft7Validator)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("apiVersion",), 2),
        (("spec", "failurePolicy", "rules", 0, "name"), None),
        (("spec", "failurePolicy", "rules", 0, "action"), "Restart"),
        (("spec", "failurePolicy", "maxRestarts"), "10"),
        (("spec", "replicatedJobs", 0, "template", "spec", "parallelism"), 4.5),
        (("spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "nodeselector"), {}),
        (("spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "containers", 0, "env", 0, "value"), 75),
    ],
)
def test_the_schema_refuses_what_the_cluster_would(path, value):
    made = copy.deepcopy(jobset(JOB))
    node = made
    for key in path[:-1]:
        node = node[key]
    if value is None:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(made, SCHEMA, jsonschema.Draft7Validator)


@pytest.mark.parametrize("tpu", SLICES, ids=lambda tpu: tpu.topology)
def test_a_pod_for_every_machine(tpu):
    spec = jobset(JOB._replace(tpu=tpu, chips_a_node=tpu.chips_a_host))["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = spec["template"]["spec"]
    limit = pod["containers"][0]["resources"]["limits"]["google.com/tpu"]
    assert spec["parallelism"] == spec["completions"] == tpu.hosts and limit * tpu.hosts == tpu.chips
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == tpu.shape


def test_what_a_pod_runs():
    container = jobset(JOB)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    # As Kubernetes reads it: $$( is $(.
    assert [w.replace("$$(", "$(") for w in container["command"]] == ["python", "-m", "hcl_jax.main", *RUN]
    assert "$$(HOME)" in container["command"][4]
    assert {"name": "HCL_JAX_STOPPED", "value": "75"} in container["env"]


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("gke", ["--type=v5litepod-256", "--image=reg:5000/p/hcl_jax", "--build", "--logs=out"]),
        ("gke_two_slices", ["--type=v6e:16x16", "--image=reg/p/hcl_jax:mine", "--slices=2", "--spot", "--queue=q",
                            "--keep", "--service-account=s", "--context=c", "--namespace=n", "--name=mine",
                            "--detach"]),
        ("gke_xpk", ["--type=v5p-128", "--image=reg/p/hcl_jax@sha256:0", "--through=xpk", "--cluster=c", "--zone=z",
                     "--project=p"]),
    ],
)  # fmt: skip
def test_the_dry_run_prints_all_and_runs_nothing(cloud, name, flags):
    done = cloud.run("gke", *flags, "--dry-run", "--", *RUN)
    assert done.returncode == 0 and done.stderr == "" and cloud.calls() == []
    assert not (cloud.clone / "runs").exists() and not (cloud.clone / "out").exists()
    same_as_golden(name, cloud.plain(done.stdout))
    text = done.stdout.partition("jobset.yaml:\n")[2].partition("\n$ ")[0]
    if text:
        jsonschema.validate(yaml.safe_load(text), SCHEMA, jsonschema.Draft7Validator)
    else:
        line = next(line for line in done.stdout.splitlines() if line.startswith("$ xpk workload create"))
        command = next(w for w in shlex.split(line) if w.startswith("--command=")).partition("=")[2]
        assert shlex.split(command)[-3:] == RUN


@pytest.mark.slow(one=True)
def test_the_whole_sequence(cloud):
    """Builds, pushes, creates, waits for the pods, follows, starts again after a failure, deletes."""
    cloud.play("kill", "cut")
    (cloud.root / "pending").touch()
    done = launched(cloud, "--build")
    assert done.returncode == 0, done.stderr
    kinds = [words[1] if words[1] != "get" else words[2] for words in cloud.calls()]
    assert kinds[0] == "jobset"  # that there is none
    kinds = [kind for kind in kinds if kind != "jobset"]
    shorter = [kind for i, kind in enumerate(kinds) if kinds[i - 1 : i] != [kind]]
    assert shorter == ["build", "push", "create", *["pods", "logs"] * 3, "delete"]
    assert done.stdout == "start 0\nend 0\nstart 1\nend 1\n"  # once, though the second connection was cut
    assert "0 of 2 pods run" in done.stderr and "restart 1 of at most 10" in done.stderr
    logs = cloud.clone / "runs/launch/hcl-jax"
    assert {p.name for p in logs.glob("*.log")} == {f"hcl-jax-slice-0-{i}-{n}.log" for i in (0, 1) for n in (0, 1)}
    assert (logs / "hcl-jax-slice-0-1-1.log").read_text() == "start 1\nend 1\n"
    made = yaml.safe_load((logs / "jobset.yaml").read_text())
    image = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == f"reg/hcl_jax:{cloud.commit[:12]}" and f"--tag={image}" in cloud.calls()[1]
    with tarfile.open(cloud.root / "context") as context:
        assert {"launch/Dockerfile", "constraints.txt", "setup.py"} <= set(context.getnames())
    assert not (cloud.root / "jobset").exists()


@pytest.mark.slow
def test_a_run_that_fails_ends(cloud):
    cloud.play("fail")
    cloud.fault("delete", 1, "the server is busy")
    done = launched(cloud)
    assert done.returncode == 1 and "hcl-jax: Failed" in done.stderr and not (cloud.root / "jobset").exists()
    assert [words[1] for words in cloud.calls()][-2:] == ["delete", "delete"]


@pytest.mark.parametrize("keep", [False, True])
def test_ctrl_c_cleans_up(cloud, keep):
    cloud.play("wait")
    child = cloud.start("gke", *QUICK, *(["--keep"] if keep else []), "--", *RUN)
    cloud.wait_for("running_0")
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert cloud.calls()[-1][1] == ("patch" if keep else "delete")
    assert (cloud.root / "jobset").exists() == keep and (cloud.root / "suspended").exists() == keep


def test_nohup_and_sigterm(cloud):
    cloud.play("wait")
    child = cloud.start_under(DEAF, "gke", *QUICK, "--", *RUN)
    cloud.wait_for("running_0")
    child.send_signal(signal.SIGHUP)
    child.terminate()
    _, err = child.communicate(timeout=60)
    assert child.returncode == 143 and not (cloud.root / "jobset").exists(), err


@pytest.mark.slow
def test_a_launcher_that_was_killed_is_followed_by_the_same_command(cloud):
    cloud.play("wait")
    child = cloud.start("gke", *QUICK, "--", *RUN)
    cloud.wait_for("running_0")
    child.kill()
    _, err = child.communicate()
    assert "if this launcher dies, the same command goes on; kubectl delete jobset hcl-jax" in err
    cloud.play("done")
    other = launched(cloud, run=[*RUN, "--config.seed=1"])
    assert other.returncode == 2 and (cloud.root / "jobset").exists() and "which is there already" in other.stderr
    uid = (cloud.root / "uid").read_text()
    (cloud.root / "uid").write_text("of-somebody-else")
    assert launched(cloud).returncode == 2 and (cloud.root / "jobset").exists()
    (cloud.root / "uid").write_text(uid)
    done = launched(cloud)
    assert done.returncode == 0 and "made by this very command" in done.stderr, done.stderr
    assert [words[1] for words in cloud.calls()].count("create") == 1 and not (cloud.root / "jobset").exists()
    assert launched(cloud).returncode == 0 and [words[1] for words in cloud.calls()].count("create") == 2


def test_what_somebody_made_meanwhile_is_not_touched(cloud):
    cloud.fault("create", 1, 'Error from server (AlreadyExists): jobsets.jobset.x-k8s.io "hcl-jax" already exists')
    done = launched(cloud)
    assert done.returncode == 1 and "delete" not in [words[1] for words in cloud.calls()], done.stderr


@pytest.mark.slow
def test_through_xpk(cloud):
    done = launched(cloud, "--through=xpk", "--cluster=c", "--zone=z")
    assert done.returncode == 0, done.stderr
    made = [words[1:3] for words in cloud.calls() if words[0] == "xpk"]
    assert made == [["workload", "create"], ["workload", "delete"]] and done.stdout == "start 0\nend 0\n"


def test_a_run_of_that_name_is_not_touched(cloud):
    (cloud.root / "jobset").write_text("/0")
    done = launched(cloud)
    assert done.returncode == 2 and (cloud.root / "jobset").exists()
    assert done.stderr.splitlines()[-1].startswith("launch.gke: --name: found hcl-jax, which is there already")


def test_a_cluster_without_jobsets_is_told(cloud):
    cloud.fault("get", 1, 'error: the server doesn\'t have a resource type "jobset"')
    done = launched(cloud)
    assert done.returncode == 1 and len(cloud.calls()) == 1 and "doesn't have a resource type" in done.stderr


@pytest.mark.slow
def test_detached(cloud):
    done = launched(cloud, "--detach")
    assert done.returncode == 0 and [words[1] for words in cloud.calls()] == ["get", "create", "get"]
    assert "follow: kubectl logs" in done.stderr and "delete: kubectl delete jobset hcl-jax" in done.stderr
    done = launched(cloud)
    assert done.returncode == 0 and done.stdout == "start 0\nend 0\n" and not (cloud.root / "jobset").exists()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--type=v9-8"], "--type: found 'v9-8'; allowed: "),
        (["--slices=0"], "--slices: found 0; allowed: a number from 1"),
        (["--chips-per-node=3"], "--chips-per-node: found 3; allowed: 1, 4 or 8, of 8 chips a slice"),
        (["--build", "--image=reg/x:1"], "--image: found reg/x:1; allowed: a name without a tag"),
        (["--through=xpk"], "--through: found xpk; allowed: xpk with --cluster and --zone"),
        (["--cluster=c", "--zone=z"], "--through: found kubectl; allowed: "),
        (["--through=ray"], "argument --through: invalid choice: 'ray'"),
        (
            ["--through=xpk", "--cluster=c", "--zone=z", "--queue=q"],
            "--through: found xpk; allowed: kubectl for --queue",
        ),
    ],
)
def test_bad_input_is_one_line(cloud, flags, line):
    done = launched(cloud, *flags)
    assert done.returncode == 2 and done.stdout == "" and cloud.calls() == []
    assert done.stderr.startswith(f"launch.gke: {line}") and done.stderr.count("\n") == 1, done.stderr
