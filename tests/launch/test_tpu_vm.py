"""Cloud TPU VMs: what is asked of gcloud, in which order, and what is left when something breaks."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess

import pytest
from cloud import same_as_golden
from heard import DEAF, HEARD

RUN = ["--config=simclr:imagenet", '--config.mesh.rules=(("a b", "$(rm x)\'"),)', "--workdir=gs://b/run"]
LEFT = "runs/launch/hcl-jax/left.json"
QUICK = ["--type=v4-16", "--zone=us-central2-b", "--poll=0.3", "--wait=0.1"]


def launched(cloud, *flags, run=RUN):
    return cloud.run("tpu_vm", *QUICK, *flags, "--", *run)


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("tpu_vm", ["--type=v5litepod-256", "--zone=us-west4-a", "--spot", "--logs=out"]),
        ("tpu_vm_queued", ["--type=v6e:16x16", "--zone=us-east5-b", "--queued", "--iap", "--project=p", "--name=mine",
                           "--create-flag=--reserved", "--runtime-version=image", "--keep"]),
    ],
)  # fmt: skip
def test_the_dry_run_prints_all_and_runs_nothing(cloud, name, flags):
    done = cloud.run("tpu_vm", *flags, "--dry-run", "--", *RUN)
    assert done.returncode == 0 and done.stderr == "" and cloud.calls() == []
    same_as_golden(name, cloud.plain(done.stdout))
    start = next(line for line in done.stdout.splitlines() if "worker.py start" in line)
    remote = next(w for w in shlex.split(start, comments=True) if w.startswith("--command=")).partition("=")[2]
    assert shlex.split(remote)[-3:] == RUN  # through both shells, as it was


@pytest.mark.slow
def test_the_whole_sequence(cloud):
    """Creates, waits, copies, installs, runs on all, follows, deletes, with the very commands of the dry run."""
    dry = launched(cloud, "--dry-run").stdout
    (cloud.root / "created").write_text("CREATING,READY")
    done = launched(cloud)
    assert done.returncode == 0, done.stderr
    wanted = ["describe", "create", "describe", "true", "scp", "install", "start", "follow", "describe", "wait",
              "describe", "delete"]  # fmt: skip
    assert cloud.verbs() == wanted
    assert done.stdout == "start 0 of worker 0\nend 0 of worker 0\n"
    logs = cloud.clone / "runs/launch/hcl-jax"
    stamp = next(path.name for path in logs.iterdir() if path.is_dir())
    assert (logs / stamp / "t1v-n-w-1.log").read_text() == "start 0 of worker 1\nend 0 of worker 1\n"
    printed = [shlex.split(line, comments=True)[1:] for line in dry.splitlines() if line.startswith("$")]
    called = [["gcloud", *(w.replace(stamp[:-2], "STAMP") for w in words)] for words in cloud.calls()]
    assert all(words in printed for words in called)
    unused = [words for words in printed if words not in called]
    assert [words[0] for words in unused] == ["git", "gcloud"] and "stop" in unused[1][-1]
    for worker in "01":
        words, folder, seen = json.loads((cloud.root / f"seen_{worker}_0").read_text())
        assert words == RUN and folder.endswith(f"/homes/{worker}/hcl_jax/{cloud.commit}")
        assert seen == {"HCL_JAX_COMMIT": cloud.commit, "HCL_JAX_STOPPED": "75", "JAX_PLATFORMS": "tpu,cpu"}
    pip = [json.loads(line) for line in (cloud.root / "pip.jsonl").read_text().splitlines()]
    assert len(pip) == 2 and pip[0][-4:] == ["--constraint", "constraints.txt", "--editable", ".[gs,tpu]"]


@pytest.mark.slow
def test_what_fails_is_tried_again(cloud):
    cloud.fault("create", 1, "ERROR: There is no more capacity in the zone")
    cloud.fault("ssh", 255, "ERROR: connection refused", part="=true")
    cloud.fault("scp", 1, "ERROR: lost connection")
    cloud.fault("ssh", 1, "ERROR: a mirror is away", part="install")
    cloud.fault("ssh", 255, "ERROR: connection reset", part="follow")
    cloud.fault("delete", 1, "ERROR: backend error")
    done = launched(cloud)
    assert done.returncode == 0, done.stderr
    verbs = [v for v in cloud.verbs() if v != "describe"]
    assert verbs == ["create", "create", "true", "true", "scp", "scp", "install", "install", "start", "follow",
                     "follow", "wait", "delete", "delete"]  # fmt: skip
    assert "no more capacity" in done.stderr and not (cloud.root / "state").exists()
    assert done.stdout == "start 0 of worker 0\nend 0 of worker 0\n"


@pytest.mark.slow
def test_a_lost_connection_does_not_start_the_run_again(cloud):
    """What was printed is not printed twice, and the run that went on is found again."""
    cloud.play("slow")
    child = cloud.start("tpu_vm", *QUICK, "--", *RUN)
    cloud.wait_for("seen_0_0", "seen_1_0")
    cloud.wait_for_call("follow")
    cloud.cut(child)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert out == "start 0 of worker 0\nend 0 of worker 0\n"
    verbs = cloud.verbs()
    assert verbs.count("start") == 1 and verbs.count("follow") == 2
    assert not (cloud.root / "saved_0").exists()


@pytest.mark.slow
def test_a_preempted_slice_is_created_again_and_the_run_goes_on(cloud):
    cloud.play("preempt", "done")
    done = launched(cloud, "--spot")
    assert done.returncode == 0, done.stderr
    verbs = [v for v in cloud.verbs() if v != "describe"]
    once = ["create", "true", "scp", "install", "start", "follow"]
    assert verbs == [*once, "delete", *once, "wait", "delete"]
    assert "PREEMPTED" in done.stderr and done.stdout.splitlines()[-1] == "end 1 of worker 0"
    runs = [json.loads((cloud.root / f"seen_0_{n}").read_text())[0] for n in (0, 1)]
    assert runs == [RUN, RUN]  # the same command: it resumes from its workdir


@pytest.mark.slow
def test_a_run_that_was_told_to_end_or_crashed_is_started_again(cloud):
    """SIGTERM at a preemption makes a run save and end: that is no success, and a crash is no end."""
    cloud.play(75, "kill", "done")
    done = launched(cloud)
    assert done.returncode == 0, done.stderr
    assert "the run was told to end, and saved; restart 1" in done.stderr and "status 137 (killed" in done.stderr
    verbs = [v for v in cloud.verbs() if v != "describe"]
    assert verbs.count("create") == 1 and verbs.count("start") == 3 and verbs[-1] == "delete"
    assert len((cloud.root / "pip.jsonl").read_text().splitlines()) == 2  # installed once a worker


@pytest.mark.slow
@pytest.mark.parametrize(("play", "status", "starts"), [(2, 2, 1), ("kill", 137, 2)])
def test_a_run_that_cannot_go_on_ends(cloud, play, status, starts):
    cloud.play(play)
    done = launched(cloud, "--most=1")
    assert done.returncode == status, done.stderr
    assert cloud.verbs().count("start") == starts and cloud.verbs()[-1] == "delete"


@pytest.mark.slow
@pytest.mark.parametrize("keep", [False, True])
def test_ctrl_c_saves_and_cleans_up(cloud, keep):
    cloud.play("wait")
    child = cloud.start("tpu_vm", *QUICK, *(["--keep"] if keep else []), "--", *RUN)
    cloud.wait_for("running_0", "running_1")
    cloud.wait_for_call("follow")
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert (cloud.root / "saved_0").exists() and (cloud.root / "saved_1").exists()
    verbs = [v for v in cloud.verbs() if v != "describe"][5:]
    assert verbs == ["follow", "stop", "follow", *([] if keep else ["delete"])]
    assert (cloud.root / "state").exists() == keep
    assert ("left as it is, and costs" if keep else "hcl-jax is deleted") in err
    logs = cloud.clone / "runs/launch/hcl-jax"
    assert next(logs.glob("*-1/t1v-n-w-1.log")).read_text().endswith("saved\n")


def test_ctrl_c_while_the_slice_is_made(cloud):
    (cloud.root / "created").write_text("CREATING")
    child = cloud.start("tpu_vm", *QUICK, "--", *RUN)
    cloud.wait_for("state")
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 143 and not (cloud.root / "state").exists(), err
    assert cloud.verbs()[-1] == "delete" and "start" not in cloud.verbs()


@pytest.mark.slow
def test_what_cannot_be_deleted_is_told(cloud):
    cloud.fault("delete", 1, "ERROR: PERMISSION_DENIED")
    done = launched(cloud)
    assert done.returncode == 1
    assert "NOT DELETED, and costs" in done.stderr and "gcloud compute tpus tpu-vm delete hcl-jax" in done.stderr
    assert "gcloud compute tpus tpu-vm delete" in json.loads((cloud.clone / LEFT).read_text())["delete"]
    done = launched(cloud)  # takes it up: the run had ended, and what is left is to delete
    assert done.returncode == 0 and not (cloud.root / "state").exists(), done.stderr
    assert not (cloud.root / "seen_0_1").exists() and not (cloud.clone / LEFT).exists()


QUOTA = "Quota limit 'TPUV5sLitepodPerProjectPerZoneForTPUAPI' has been exceeded. Limit: 0 in zone us-west4-a."


@pytest.mark.parametrize("said", ["ERROR: PERMISSION_DENIED: ask your administrator", f"ERROR: (gcloud) {QUOTA}"])
def test_what_no_second_try_mends_is_not_tried_again(cloud, said):
    cloud.fault("create", 1, f"{said}\n- advice of gcloud")
    done = launched(cloud)
    assert done.returncode == 1 and cloud.verbs().count("create") == 1
    assert f"create hcl-jax: {said}" in done.stderr and "hcl-jax is deleted" in done.stderr


def test_no_project(cloud):
    cloud.fault(
        "describe", 1, "ERROR: (gcloud) Error parsing [tpu].\nFailed to find attribute [project]. It can be set\n-"
    )
    done = launched(cloud)
    assert done.returncode == 1 and len(cloud.calls()) == 1
    assert done.stderr.splitlines()[-2:] == [
        "launch: describe hcl-jax: Failed to find attribute [project]. It can be set",
        "launch: nothing was created",
    ]


@pytest.mark.parametrize(("why", "creates"), [("no resources", 3), (QUOTA, 1)])
def test_a_request_that_fails_is_not_made_for_ever(cloud, why, creates):
    (cloud.root / "requested").write_text(f"FAILED\t{why}")
    done = launched(cloud, "--queued", "--most=2")
    assert done.returncode == 1 and cloud.verbs().count("create") == creates, done.stderr
    assert f"hcl-jax is FAILED: {why}" in done.stderr and not (cloud.root / "request").exists()


def test_what_somebody_made_meanwhile_is_not_touched(cloud):
    cloud.fault("create", 1, "ERROR: (gcloud) ALREADY_EXISTS: Resource already exists")
    done = launched(cloud)
    assert done.returncode == 1 and cloud.verbs() == ["describe", "create"], done.stderr
    assert "that one is left alone" in done.stderr and not (cloud.clone / LEFT).exists()


@pytest.mark.slow
def test_a_launcher_that_was_killed_is_taken_up_by_the_same_command(cloud):
    """The run goes on without it, is not started twice, and what it said is printed from where it was."""
    cloud.play("slow")
    child = cloud.start("tpu_vm", *QUICK, "--", *RUN)
    cloud.wait_for("seen_0_0", "seen_1_0")
    cloud.wait_for_call("follow")
    second = launched(cloud)
    assert second.returncode == 2 and f"which process {child.pid} is launching" in second.stderr
    child.kill()
    _, err = child.communicate()
    assert "if this launcher dies, the same command goes on; gcloud compute tpus tpu-vm delete hcl-jax" in err
    label = (cloud.root / "label").read_text()
    (cloud.root / "label").write_text("of-somebody-else")  # who made another one of that name meanwhile
    other = launched(cloud)
    assert other.returncode == 2 and "allowed: another name, or --reuse" in other.stderr
    (cloud.root / "label").write_text(label)
    other = launched(cloud, run=[*RUN, "--config.seed=1"])
    assert other.returncode == 2 and "the commit and arguments that it was made for, which go on" in other.stderr
    done = launched(cloud)
    assert done.returncode == 0 and "its run goes on" in done.stderr, done.stderr
    assert cloud.verbs().count("create") == 1 and not (cloud.root / "seen_0_1").exists()
    logs = cloud.clone / "runs/launch/hcl-jax"
    assert [p.read_text() for p in logs.glob("*-1/t1v-n-w-0.log")] == ["start 0 of worker 0\nend 0 of worker 0\n"]
    assert not (cloud.root / "state").exists() and not (cloud.clone / LEFT).exists()


@pytest.mark.slow
def test_nohup_and_sigterm(cloud):
    """A hangup leaves the launcher alone, which nohup asks for; SIGTERM cleans up."""
    cloud.play("wait")
    child = cloud.start_under(DEAF, "tpu_vm", *QUICK, "--", *RUN)
    cloud.wait_for("running_0", "running_1")
    cloud.wait_for_call("follow")
    child.send_signal(signal.SIGINT)
    child.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(1)
    child.terminate()
    _, err = child.communicate(timeout=60)
    assert child.returncode == 143 and (cloud.root / "saved_0").exists() and not (cloud.root / "state").exists(), err


@pytest.mark.slow
def test_a_terminal_that_goes_cleans_up(cloud):
    """SIGHUP comes when nothing can be printed any more."""
    cloud.play("wait")
    master, slave = os.openpty()
    child = cloud.start_under(HEARD, "tpu_vm", *QUICK, "--", *RUN, stdout=slave, stderr=slave)
    os.close(slave)
    cloud.wait_for("running_0", "running_1")
    cloud.wait_for_call("follow")
    os.close(master)
    child.send_signal(signal.SIGHUP)
    assert child.wait(60) == 129
    assert (cloud.root / "saved_0").exists() and not (cloud.root / "state").exists()


@pytest.mark.slow
def test_a_slice_of_somebody_else_is_not_touched(cloud):
    (cloud.root / "state").write_text("READY")
    done = launched(cloud)
    assert done.returncode == 2 and cloud.verbs() == ["describe"]
    assert done.stderr.splitlines()[-1].startswith(
        "launch.tpu_vm: --name: found hcl-jax, which is there already (READY)"
    )
    done = launched(cloud, "--reuse")
    assert done.returncode == 0, done.stderr
    assert not {"create", "delete"} & set(cloud.verbs()) and (cloud.root / "state").exists()


@pytest.mark.slow
def test_a_slice_that_is_busy_is_left_alone(cloud):
    """--reuse on a slice where a run goes on: nothing is started, and nothing is ended."""
    cloud.play("wait")
    child = cloud.start("tpu_vm", *QUICK, "--keep", "--", *RUN)
    cloud.wait_for("running_0", "running_1")
    child.kill()  # the launcher alone: the run does not need it
    child.communicate()
    done = launched(cloud, "--reuse", run=[*RUN, "--config.seed=1"])
    assert done.returncode == 1 and "a run is under way here" in done.stderr, done.stderr
    assert not (cloud.root / "saved_0").exists() and "seen_0_1" not in [p.name for p in cloud.root.iterdir()]


@pytest.mark.slow
def test_a_queued_slice_that_is_preempted(cloud):
    """Waits for the request, and deletes it with its slice, for it cannot be used again."""
    cloud.play("preempt", "done")
    done = launched(cloud, "--queued")
    assert done.returncode == 0, done.stderr
    made = [words[2:4] for words in cloud.calls() if words[3] in ("create", "delete")]
    assert made == [["queued-resources", "create"], ["queued-resources", "delete"]] * 2
    assert not (cloud.root / "state").exists() and not (cloud.root / "request").exists()


@pytest.mark.parametrize(
    ("flags", "run", "line"),
    [
        (["--type=v5litepod-255"], RUN, "--type: found 'v5litepod-255'; allowed: v5litepod-256, "),
        (["--type=v5e:3x3"], RUN, "--type: found 'v5e:3x3'; allowed: v5e:"),
        (["--type=tpu7x-8"], RUN, "--type: found tpu7x-8, which is not rented as TPU VMs; allowed: launch.gke"),
        (["--zone=us-moon1-a"], RUN, "--zone: found 'us-moon1-a'; allowed: us-central2-b for this type"),
        (["--name=Mine"], RUN, "--name: found 'Mine'; allowed: "),
        (["--python=3.10"], RUN, "--python: found 3.10; allowed: 3.11 to 3.13"),
        (["--iap", "--internal-ip"], RUN, "--iap: found --internal-ip too; allowed: one of them"),
        (["--batch-size=0"], RUN, "--batch-size: found 0; allowed: "),
        (["--most=-1"], RUN, "--most, --grace, --poll: found -1, 300, 0.3; "),
        (["--most=x"], RUN, "argument --most: invalid int value: 'x'"),
        (["--nope"], RUN, "unrecognized arguments: --nope"),
        ([], ["--config=simclr:digits"], "--workdir: found nothing; allowed: --workdir=gs://"),
        ([], ["--config=simclr:digits", "--workdir", "runs/x"], "--workdir: found runs/x; allowed: gs://"),
        ([], ["--config=mine.py:x", "--workdir=gs://b/x"], "--config: found mine.py; allowed: a file of the commit "),
        ([], ["--config=simcrl:digits", "--workdir=gs://b/x"], "--config: found 'simcrl'; allowed: simclr, or a file"),
        ([], ["--config=simclr:digits", "--workdir=gs://"], "--workdir: found gs://; allowed: gs://BUCKET/FOLDER"),
        ([], [*RUN, "--dry-run"], "after --: found '--dry-run'; allowed: arguments of hcl_jax.main alone; "),
        ([], ["python", *RUN], "after --: found 'python'; allowed: arguments of hcl_jax.main alone; "),
        ([], [*RUN, "--steps"], "after --: found --steps without a value; allowed: --steps=VALUE"),
        (["--wait=nan"], RUN, "--wait: found nan; allowed: seconds, 0 or more"),
        (["--create-flag=reserved"], RUN, "--create-flag: found ['reserved']; allowed: a flag each"),
        (["--logs=setup.py"], RUN, "--logs: found setup.py, File exists; allowed: a folder that this user may write"),
    ],
)
def test_bad_input_is_one_line(cloud, flags, run, line):
    done = launched(cloud, *flags, run=run)
    assert done.returncode == 2 and done.stdout == "" and cloud.calls() == []
    assert done.stderr.startswith(f"launch.tpu_vm: {line}") and done.stderr.count("\n") == 1, done.stderr


def test_no_arguments_and_no_gcloud(cloud):
    done = cloud.run("tpu_vm", *QUICK)
    assert done.returncode == 2 and done.stderr == "launch.tpu_vm: the arguments of hcl_jax.main are needed after --\n"
    (cloud.root / "bin/gcloud").unlink()
    (cloud.root / "bin/git").symlink_to(shutil.which("git"))
    cloud.environment["PATH"] = f"{cloud.root}/bin"
    done = launched(cloud)
    assert done.returncode == 2 and "launch.tpu_vm: gcloud: found nothing on PATH" in done.stderr
    assert cloud.run("tpu_vm", "--help").returncode == 0


@pytest.mark.slow(one=True)
def test_what_is_not_committed_is_refused_or_left_behind(cloud):
    (cloud.clone / "mine.py").write_text("")
    (cloud.clone / "setup.py").write_text("")
    done = launched(cloud)
    assert done.returncode == 2 and cloud.calls() == [] and done.stderr.count("\n") == 1
    assert done.stderr.startswith(
        "launch.tpu_vm: git status: found not committed: setup.py, mine.py; allowed: a clean tree"
    )
    done = launched(cloud, "--allow-dirty", "--keep")
    assert done.returncode == 0, done.stderr
    assert "not committed, and not sent: setup.py, mine.py; HEAD is launched" in done.stderr
    tree = cloud.root / "homes/0/hcl_jax" / cloud.commit
    assert not (tree / "mine.py").exists() and (tree / "setup.py").read_text()


def test_steps_without_a_workdir(cloud):
    done = launched(cloud, "--dry-run", run=["--config=simclr:imagenet", "--steps=2"])
    assert done.returncode == 0 and re.search(r"start STAMP-1 --config=simclr:imagenet --steps=2'", done.stdout)
