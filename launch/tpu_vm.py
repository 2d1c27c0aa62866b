"""Cloud TPU VMs through gcloud: creates a slice, installs this very commit on all its workers, runs, and deletes it.

  python -m launch.tpu_vm --type=v5litepod-256 --zone=us-west4-a --spot -- \\
      --config=simclr:imagenet --config.data.dir=gs://BUCKET/tfds --workdir=gs://BUCKET/runs/simclr
  python -m launch.tpu_vm --type=v6e:16x16 --zone=us-east5-b --queued --dry-run -- --config=simclr:imagenet --workdir=gs://...

`git archive` packs HEAD, a tarball goes to every worker and is installed there with constraints.txt. The run lives on
the workers and not in the connection (launch/worker.py): when ssh is cut it goes on, and is followed again. What the
first worker says is printed; what all say is kept in --logs. If this launcher dies, left.json in --logs says what is
there and how to delete it, and the same command takes it up and follows the run again.

A slice that is preempted is deleted and created again, a crash is started again, both with the same command: the run
goes on from its --workdir. A Python error or bad input ends it. Ctrl-C, SIGTERM and (not under nohup) SIGHUP tell the
run to save, wait --grace seconds and delete the slice; a second one leaves it and says how to delete it. The status is
that of the run.

gcloud must be signed in with a project. It asks nothing here (--quiet), and makes an ssh key when there is none. A key
with a passphrase must be in an agent: ssh-add ~/.ssh/google_compute_engine. Slices without external addresses
(--create-flag=--internal-ips) need Cloud NAT, for pip, and --internal-ip or --iap, for ssh.
"""

import argparse
import datetime
import pathlib
import re
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from hcl_jax.errors import InputError, nearest
from hcl_jax.plan.slices import GENERATIONS, find
from launch import cleanup, cli, subprocesses
from launch.gcloud import Machine
from launch.local import group_status
from launch.logs import Logs, stream
from launch.restart import AGAIN, LIVED, pause

READY = ("READY",)
COMING = ("CREATING", "STARTING", "RESTARTING", "REPAIRING", "STATE_UNSPECIFIED")
GOING = ("DELETING", "STOPPING", "SUSPENDING")
QUEUED = ("ACCEPTED", "CREATING", "PROVISIONING", "WAITING_FOR_RESOURCES", "STATE_UNSPECIFIED")
SETTLE = 60  # seconds for the other workers to end after the first
SAID = re.compile(r"hcl_jax-run (\S+) (\S+) (running|ended|absent) (\d+)")


class Options(NamedTuple):
    """What to run, and how often to restart it."""

    run: list[str]
    logs: pathlib.Path
    most: int
    grace: int
    poll: float
    keep: bool
    reuse: bool
    wait: float


def steps(m: Machine, o: Options) -> Iterator[str]:
    """What a run without trouble does, line by line, and what happens in trouble; the dry run prints it."""
    pack, file = cli.archive(m.commit, o.logs)
    yield f"# {m.tpu.accelerator} = {m.tpu.topology}: {m.tpu.chips} chips, {m.tpu.hosts} hosts"
    yield cli.shown(pack)
    if not o.reuse:
        yield cli.shown(m.request() if m.queued else m.describe()) + "  # must not exist"
        yield cli.shown(m.create("STAMP"))
    if m.queued and not o.reuse:
        yield cli.shown(m.request()) + "  # until ACTIVE"
    yield cli.shown(m.describe()) + "  # until READY"
    yield cli.shown(m.ssh("true")) + "  # until all workers answer"
    yield cli.shown(m.copy(file))
    yield cli.shown(m.ssh(m.install(file)))
    yield cli.shown(m.ssh(m.worker("start", "STAMP-1", *o.run)))
    yield cli.shown(m.ssh(m.worker("follow", "STAMP-1"))) + f"  # {o.logs}/STAMP-1/HOST.log; the first is printed"
    yield cli.shown(m.describe()) + f"  # every {o.poll:g} seconds meanwhile"
    yield cli.shown(m.ssh(m.worker("wait", "STAMP-1", str(SETTLE)))) + "  # the statuses of all"
    yield "# Ctrl-C, or a crash of one of them:"
    yield cli.shown(m.ssh(m.worker("stop", "STAMP-1", str(o.grace))))
    yield f"# {o.logs}/left.json says what is there until it is deleted; with it the same command goes on"
    yield f"# at the end, and after a preemption before it is created again{', unless --keep' if not o.keep else ''}:"
    yield ("# nothing is deleted: --keep; this would: " if o.keep else "") + cli.shown(m.delete())
    yield "# STAMP is the time of the launch; a restart is STAMP-2, and so on"


class Refused(subprocesses.Failed):
    """No slice can be created."""


class Launch:
    """A run on a slice, from its creation to its end."""

    def __init__(self, m: Machine, o: Options, c: subprocesses.Commands):
        self.m, self.o, self.c = m, o, c
        self.ours = False  # whether this launcher may have created the slice, or a request for it
        self.stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
        self.run_id = ""  # of the run that may be under way
        self.logs: Logs | None = None
        self.broken = False  # READY, and some of its workers cannot be reached
        self.label = self.why = ""  # of the existing slice; of a request that failed
        self.noted = False  # left.json describes this launch
        self.seen: str | None = None  # its last state
        self.attempt = 0

    def state(self, command: list[str]) -> str | None:
        """What `describe` says first, the rest in label and why; None where there is no such thing."""
        for attempt in range(1, self.c.tries + 1):
            done = self.c.once(command, quiet=True)
            if done.status == 0:
                state, self.label, self.why = (*done.out.strip("\n").split("\t"), "", "", "")[:3]
                return state or "STATE_UNSPECIFIED"
            if "NOT_FOUND" in done.err or "not found" in done.err:
                return None
            if any(text in done.err for text in subprocesses.FINAL) or attempt == self.c.tries:
                break
            self.c.sleep(pause(self.c.wait, attempt))
        raise subprocesses.Failed(f"describe {self.m.name}: {subprocesses.reason(done)}")

    def note(self) -> dict[str, Any]:
        """What is left if this process dies."""
        deletes = cli.shown(self.m.delete())[2:]
        slice_ = {"delete": deletes, "commit": self.m.commit, "run": self.o.run}
        return {**slice_, "label": self.stamp, "run_id": self.run_id}

    def write_note(self) -> None:
        """Writes left.json, before anything is created."""
        cleanup.write_note(self.o.logs, self.note())
        self.noted = True

    def take_up(self) -> None:
        """Goes on with what a launcher of this very command left when it died; refuses the slice of another.

        Raises:
          InputError: there is a slice of that name, and it is not such a one.
        """
        state, before = self.whole(), cleanup.read_note(self.o.logs) or {}
        if state is None:
            return
        same = {key for key, value in self.note().items() if before.get(key) == value}
        if {"delete", "commit", "run"} <= same and (self.o.reuse or before.get("label") == self.label):
            cli.say(f"{self.m.name} is there ({state}), left by a launcher that ended early; its run goes on")
            self.ours, self.noted, self.stamp = not self.o.reuse, True, str(before.get("label"))
            number = str(before.get("run_id")).rpartition("-")[2]
            if number.isdecimal():
                self.attempt = int(number) - 1  # a run that was started is not started twice
        elif not self.o.reuse:
            allowed = "another name, or --reuse"
            if "delete" in same and before.get("label") == self.label:
                allowed = f"the commit and arguments that it was made for, which go on; or {self.note()['delete']}"
            raise InputError("--name", f"{self.m.name}, which is there already ({state})", allowed)

    def whole(self) -> str | None:
        """The state of slice and request together: None, "coming", "READY", or the name of a state that is no good."""
        if self.m.queued and not self.o.reuse:
            request = self.state(self.m.request())
            if request is None or request in QUEUED:
                return None if request is None else "coming"
            if request != "ACTIVE":
                return request
        state = self.state(self.m.describe())
        if state is None and self.m.queued and not self.o.reuse:
            return "coming"  # a request that is active, its node not listed yet
        return "coming" if state in COMING else state

    def ready(self) -> None:
        """Brings the slice to READY: creates a missing one, deletes a failed one.

        Raises:
          Refused: it fails again and again, or cannot be created.
        """
        failures = bad = 0
        while True:
            state = self.whole()
            if state != self.seen:
                cli.say(f"{self.m.name} is {state or 'not there'}{self.why and f': {self.why}'}")
            self.seen = state
            if state in READY and not self.broken:
                return
            if self.o.reuse:
                raise subprocesses.Failed(f"--reuse: {self.m.name} is {state or 'not there'}, and is not created again")
            if state == "coming" or state in GOING:
                self.c.sleep(self.o.poll)
            elif state is not None:
                bad += 1
                if bad > self.o.most or self.limited(self.why):
                    raise Refused(f"{self.m.name} is {state}{self.why and f': {self.why}'}")
                self.c.retried(self.m.delete())
                self.broken = False
                if bad > 1:  # the first may be what a preemption left
                    self.c.sleep(pause(self.o.wait, bad - 1))
            else:
                failures += 1
                self.create(failures)

    def create(self, failures: int) -> None:
        """Asks for the slice, or waits after a refusal."""
        self.ours = True  # from here on something may be left, even by a command that fails
        self.write_note()
        cli.say(f"if this launcher dies, the same command goes on; {cli.shown(self.m.delete())[2:]} deletes")
        done = self.c.once(self.m.create(self.stamp))
        if done.status == 0:
            return
        last = subprocesses.reason(done)
        if failures == 1 and re.search("ALREADY_EXISTS|already exists", done.err):
            self.ours = (
                False  # created by someone else since the look; later tries may meet what an earlier one created
            )
            raise Refused(f"create {self.m.name}: {last}; that one is left alone")
        final = done.status == 2 or any(text in done.err for text in subprocesses.FINAL) or self.limited(done.err)
        if final or failures > self.o.most:
            raise Refused(f"create {self.m.name}: {last}")
        seconds = pause(self.o.wait, failures)
        cli.say(f"create: {last}; again in {seconds:g} seconds, {failures} of at most {self.o.most}")
        self.c.sleep(seconds)

    def limited(self, text: str) -> bool:
        """Whether the project may not have such a slice; when it had one, what was deleted may still be counted."""
        return self.attempt == 0 and subprocesses.QUOTA.search(text) is not None

    def lost(self) -> bool:
        """Whether the slice is no longer there to be used.

        Without an answer, as when this machine has no network or the sign-in has expired, it waits: the run needs
        neither.
        """
        reported = ""
        while True:
            try:
                return self.whole() not in READY
            except subprocesses.Failed as error:
                if str(error) != reported:
                    cli.say(f"{error}; asking until it answers, the run goes on meanwhile")
                reported = str(error)
                self.c.sleep(self.o.poll)

    def prepare(self, file: pathlib.Path) -> None:
        """Brings the commit to all workers; each command may be repeated."""
        # READY says that the machines run, not that sshd does or that the key has arrived.
        self.c.retried(self.m.ssh("true"), tries=10, between=self.lost)
        self.c.retried(self.m.copy(file), between=self.lost)
        self.c.retried(self.m.ssh(self.m.install(file)), between=self.lost)

    def follow(self) -> None:
        """Prints what the first worker says until all have ended, or the slice is lost."""
        assert self.logs is not None
        command, errors, quick = self.m.ssh(self.m.worker("follow", self.run_id)), self.o.logs / "gcloud.txt", 0
        while quick < 10:  # then `statuses` finds out what is the matter
            began = time.monotonic()
            status = stream(self.c, command, self.logs, errors, self.o.poll, self.lost)
            if status in (0, None) or self.lost():
                return
            quick = quick + 1 if time.monotonic() - began < 60 else 1
            cli.say(f"the connection was lost; {errors} has what gcloud says")
            self.c.sleep(pause(self.c.wait, quick))

    def statuses(self, *words: str) -> list[int] | None:
        """The status of each worker, or None where not all answer; words: "wait" or "stop", and seconds."""
        try:
            done = self.c.retried(self.m.ssh(self.m.worker(words[0], self.run_id, *words[1:])), between=self.lost)
        except subprocesses.Failed as error:
            cli.say(str(error))
            return None
        workers = {match[0]: match for match in SAID.findall(done.out) if match[1] == self.run_id}
        if len(workers) < self.m.tpu.hosts or any(match[2] == "absent" for match in workers.values()):
            return None
        return [-1 if match[2] == "running" else int(match[3]) for match in workers.values()]

    def once(self, file: pathlib.Path) -> tuple[str, int]:
        """One start of the run: ("done", 0), ("failed", status) or ("again", status)."""
        self.run_id = ""
        self.ready()
        self.prepare(file)
        self.attempt += 1
        self.run_id = f"{self.stamp}-{self.attempt}"
        first = re.compile("" if self.m.tpu.hosts == 1 else r"-w-0$")
        self.write_note()
        self.logs = Logs(self.o.logs / self.run_id, re.compile(r"\[([\w.-]+)\] "), first)
        self.c.retried(self.m.ssh(self.m.worker("start", self.run_id, *self.o.run)), between=self.lost)
        self.follow()
        statuses = None if self.lost() else self.statuses("wait", str(SETTLE))
        if statuses and -1 in statuses:  # some have ended, others wait for them
            statuses = [s for s in statuses if s > 0] + (self.statuses("stop", str(self.o.grace)) or [])
        self.run_id = ""
        if self.lost():  # perhaps ended by the preemption itself
            return "again", 0
        if not statuses:
            self.broken = True
            return "again", 0
        if cli.STOPPED in statuses:
            return "again", cli.STOPPED
        status = group_status(statuses)
        if status == 0:
            return "done", 0
        return ("again" if status in AGAIN else "failed"), status

    def keep_going(self, file: pathlib.Path) -> int:
        """Starts the run until it is done or cannot be; returns its status."""
        restarts = 0
        while True:
            began = time.monotonic()
            try:
                how, status = self.once(file)
            except subprocesses.Failed as error:
                # A command that fails on a slice which is there would fail on the next one too.
                if isinstance(error, Refused) or not self.ours or not self.lost():
                    raise
                how, status = "again", 0
                cli.say(str(error))
            if how != "again":
                return status
            reason = {0: "the slice was lost", cli.STOPPED: "the run was told to end, and saved"}.get(status)
            reason = reason or f"status {status} ({AGAIN[status]})"
            restarts = 1 if time.monotonic() - began > LIVED else restarts + 1
            if restarts > self.o.most:
                cli.say(f"gives up: {reason}, after {self.o.most} restarts in a row")
                return status or 1
            seconds = pause(self.o.wait, restarts)
            cli.say(f"{reason}; restart {restarts} of at most {self.o.most} in a row, in {seconds:g} seconds")
            self.c.sleep(seconds)

    def absent(self) -> bool:
        """Whether it is certain that nothing is left."""
        try:
            return self.whole() is None
        except subprocesses.Failed:
            return False

    def stop(self) -> None:
        """Asks the run to save and end, and fetches its last lines."""
        cli.say(f"telling the run to save; at most {self.o.grace} seconds")
        if self.statuses("stop", str(self.o.grace)) is not None:
            self.follow()

    def leave(self) -> bool:
        """Deletes the slice unless it is to be kept; whether that succeeded."""
        if not self.ours or self.o.keep:
            kept = f"{self.m.name} is left as it is, and costs; {cli.shown(self.m.delete())[2:]}"
            cli.say(kept if self.ours or self.o.reuse else "nothing was created")
            if self.noted:
                cleanup.clear_note(self.o.logs)
            elif (before := cleanup.read_note(self.o.logs)) is not None:
                cli.say(f"of an earlier launch something may be there, and cost; {before.get('delete')}")
            return True
        try:
            self.c.retried(self.m.delete(), tries=2 * self.c.tries, between=lambda: self.whole() is None)
        except subprocesses.Failed as error:
            if not self.absent():
                cli.say(f"NOT DELETED, and costs: {error}; {cli.shown(self.m.delete())[2:]}")
                return False
        cli.say(f"{self.m.name} is deleted")
        cleanup.clear_note(self.o.logs)
        return True

    def end(self) -> bool:
        """Tells a run that is under way to save, and leaves; whether nothing is there that should not be."""
        try:
            if self.run_id:
                self.stop()
        except subprocesses.Interrupted:
            cli.say(f"left behind, and costs: {cli.shown(self.m.delete())[2:]}")
            return False
        except Exception as error:  # a full disk here must not leave a slice there
            cli.say(f"{type(error).__name__}: {error}")
        try:
            return self.leave()
        except subprocesses.Interrupted:
            cli.say(f"left behind, and costs: {cli.shown(self.m.delete())[2:]}")
            return False


def launch(m: Machine, o: Options, c: subprocesses.Commands) -> int:
    """Runs, and leaves nothing behind; returns the status."""
    pack, file = cli.archive(m.commit, o.logs)
    with cleanup.exclusive(o.logs, m.name), c:
        it = Launch(m, o, c)
        try:
            c.retried(pack, tries=1)
            it.take_up()
            status = it.keep_going(file)
        except subprocesses.Interrupted as error:
            status = 128 + error.number
        except subprocesses.Failed as error:
            cli.say(str(error))
            status = 1
        finally:
            c.cleaning()
            gone = it.end()
    return status if gone else status or 1


def arguments_of(arguments: list[str]) -> tuple[argparse.Namespace, Machine, Options]:
    """The command line, checked."""
    parser = cli.parser("tpu_vm", __doc__)
    add = parser.add_argument
    add("--zone", metavar="ZONE", help="where; the zones of a type are listed when it is left out")
    add("--any-zone", action="store_true", help="take a zone that is not listed")
    add("--project", metavar="ID", help="in place of gcloud's own")
    add("--runtime-version", metavar="NAME", help="image of the machines, in place of the type's own")
    add("--queued", action="store_true", help="through queued-resources: waits until there is capacity")
    add("--spot", action="store_true", help="cheaper, and preempted at any time")
    add(
        "--create-flag",
        action="append",
        default=[],
        metavar="FLAG",
        help="of gcloud's create, such as --reserved",
    )
    add("--reuse", action="store_true", help="take the slice of that name as it is, and keep it")
    add("--internal-ip", action="store_true", help="ssh to internal addresses, from a machine of the same network")
    add("--iap", action="store_true", help="ssh through the Identity-Aware Proxy (gcloud alpha)")
    add("--batch-size", metavar="N", help="workers that gcloud talks to at once: a number or all (gcloud alpha)")
    add("--python", default="3.11", metavar="VERSION", help="of the environment on the workers (default 3.11)")
    add("--wait", type=float, default=30.0, metavar="SECONDS", help="before the first restart; then twice as long")
    known, run = cli.parse(parser, arguments)
    tpu = find(known.type)
    generation = GENERATIONS[tpu.generation]
    if not generation.runtime and not known.runtime_version:
        raise InputError("--type", f"{known.type}, which is not rented as TPU VMs", "launch.gke")
    if known.zone is None or (known.zone not in generation.zones and not known.any_zone):
        listed = nearest(known.zone or "", generation.zones) + " for this type; --any-zone takes another"
        raise InputError("--zone", repr(known.zone) if known.zone else "nothing", listed)
    if not re.fullmatch(r"3\.1[123]", known.python):
        raise InputError("--python", known.python, "3.11 to 3.13")
    if not known.wait >= 0:
        raise InputError("--wait", known.wait, "seconds, 0 or more")
    if any(not flag.startswith("--") for flag in known.create_flag):
        raise InputError("--create-flag", repr(known.create_flag), "a flag each, as --create-flag=--reserved")
    if known.batch_size is not None and not re.fullmatch(r"all|[1-9]\d*", known.batch_size):
        raise InputError("--batch-size", known.batch_size, "a number from 1, or all")
    if known.iap and known.internal_ip:
        raise InputError("--iap", "--internal-ip too", "one of them")
    reach = ["--internal-ip"] if known.internal_ip else ["--tunnel-through-iap"] if known.iap else []
    if known.iap or known.batch_size:
        reach.append(f"--batch-size={known.batch_size or 'all'}")
    commit = cli.commit_of(known.allow_dirty)
    cli.check_run(run, commit)
    m = Machine(
        known.name, known.zone, tpu, known.runtime_version or generation.runtime, known.project, known.queued,
        known.spot, tuple(known.create_flag), tuple(reach), commit, known.python,
    )  # fmt: skip
    keep = known.keep or known.reuse
    return known, m, Options(run, known.logs, known.most, known.grace, known.poll, keep, known.reuse, known.wait)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    try:
        known, m, o = arguments_of(sys.argv[1:] if arguments is None else arguments)
        if known.dry_run:
            print("\n".join(steps(m, o)))
            return 0
        return launch(m, o, subprocesses.Commands(wait=min(o.wait, 5.0)))
    except InputError as error:
        print(f"launch.tpu_vm: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
