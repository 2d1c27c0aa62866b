"""TPU slices of a GKE cluster through kubectl: writes a JobSet, applies it, follows its logs, deletes it.

  python -m launch.gke --type=v5litepod-256 --image=REGION-docker.pkg.dev/PROJECT/REPO/hcl_jax --build -- \\
      --config=simclr:imagenet --config.data.dir=gs://BUCKET/tfds --workdir=gs://BUCKET/runs/simclr
  python -m launch.gke --type=v6e:16x16 --image=IMAGE@sha256:... --dry-run -- --config=simclr:imagenet --workdir=gs://...

An image without a tag has the commit as its tag; --build packs HEAD with `git archive`, builds launch/Dockerfile and
pushes. The cluster is that of kubectl's context; it needs the JobSet controller, node pools of that type (one for each
slice), and a service account that may write to the bucket (--service-account).

JobSet starts all pods again when one fails, --most times, and the run goes on from its --workdir; a Python error (1) or
bad input (2) ends it. Pods have --grace seconds after SIGTERM to save. Ctrl-C, SIGTERM and (not under nohup) SIGHUP
delete the JobSet, which is such a SIGTERM to its pods; with --keep it is suspended, and stays. What process 0 says is
printed, what all say is kept in --logs. After a launcher that died, or with --detach, the same command follows.

--through=xpk --cluster=NAME --zone=ZONE creates and deletes through xpk, which queues with Kueue.
"""

import argparse
import contextlib
import pathlib
import re
import shlex
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from hcl_jax.disk import whole
from hcl_jax.errors import InputError
from hcl_jax.plan.slices import GENERATIONS, Slice, find
from launch import cleanup, cli, subprocesses
from launch.logs import Logs, stream
from launch.restart import AGAIN

CONTAINER = "hcl-jax"
JOB = "slice"
LABEL = "jobset.sigs.k8s.io/jobset-name"
FOLDER = "/hcl_jax"  # of the image, see launch/Dockerfile
ENDS = (1, 2, 130)  # statuses after which another start would end the same way
ABSENT = ("NotFound", "not found")  # what kubectl answers when there is no such thing
PREFIXED = re.compile(r"\[pod/([^/\]]+)/[^\]]+\] ?")


class Job(NamedTuple):
    """A run on a cluster.

    Attributes:
      name: of the JobSet.
      tpu: of each slice; slices: how many.
      chips_a_node: of a machine of the node pool.
      image: that holds the package.
      commit: which the image is known to hold, or None.
      run: arguments of hcl_jax.main.
      most: restarts of the JobSet; grace: seconds after SIGTERM.
      spot: on spot nodes.
      queue: of Kueue, or None.
      service_account: of Kubernetes, or None.
    """

    name: str
    tpu: Slice
    slices: int
    chips_a_node: int
    image: str
    commit: str | None
    run: list[str]
    most: int
    grace: int
    spot: bool
    queue: str | None
    service_account: str | None

    @property
    def nodes(self) -> int:
        """Of one slice."""
        return self.tpu.chips // self.chips_a_node

    def environment(self) -> dict[str, str]:
        """Of each pod; GKE adds who is who (TPU_WORKER_ID and its kin), which jax.distributed reads."""
        # Without a platform JAX goes on with the CPU when it cannot have the TPU.
        known = {"HCL_JAX_COMMIT": self.commit} if self.commit else {}
        return {**known, "HCL_JAX_STOPPED": str(cli.STOPPED), "JAX_PLATFORMS": "tpu,cpu", "PYTHONUNBUFFERED": "1"}

    def command(self) -> list[str]:
        """What each pod runs."""
        return ["python", "-m", "hcl_jax.main", *self.run]


def jobset(job: Job) -> dict[str, Any]:
    """The JobSet of a run: one Job a slice, one pod a machine, all started again when one fails.

    Reference:
      JobSet API v1alpha2, https://jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2; labels:
      https://cloud.google.com/kubernetes-engine/docs/how-to/tpus.
    """
    several = job.slices > 1
    selector = {
        "cloud.google.com/gke-tpu-accelerator": GENERATIONS[job.tpu.generation].gke,
        "cloud.google.com/gke-tpu-topology": job.tpu.shape,
    } | ({"cloud.google.com/gke-spot": "true"} if job.spot else {})
    container = {
        "name": CONTAINER,
        "image": job.image,
        "workingDir": FOLDER,
        # Kubernetes would put a variable in place of $(NAME).
        "command": [word.replace("$(", "$$(") for word in job.command()],
        "env": [{"name": name, "value": value} for name, value in job.environment().items()],
        "resources": {"limits": {"google.com/tpu": job.chips_a_node}},
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": job.grace,
        "shareProcessNamespace": True,  # the first process of a namespace ignores SIGTERM until it has a handler
        "nodeSelector": selector,
        "containers": [container],
    }
    if job.service_account:
        pod["serviceAccountName"] = job.service_account
    if job.spot:
        pod["tolerations"] = [{"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true",
                               "effect": "NoSchedule"}]  # fmt: skip
    if several:  # the network between slices at its full speed
        pod |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    failed = {"action": "FailJob", "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [*ENDS]}}
    work = {
        "parallelism": job.nodes,
        "completions": job.nodes,
        "completionMode": "Indexed",
        "backoffLimit": 0,  # one pod alone cannot be started again: its peers wait at a collective
        "podFailurePolicy": {"rules": [failed]},
        "template": {"spec": pod},
    }
    rule = {"name": "ends", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    metadata: dict[str, Any] = {"name": job.name}
    if job.queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": job.queue}
    if several or job.nodes > 1:  # a slice is a node pool: no two Jobs may share one, nor one Job have parts of two
        metadata["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "failurePolicy": {"maxRestarts": job.most, "rules": [rule]},
            "replicatedJobs": [{"name": JOB, "replicas": job.slices, "template": {"spec": work}}],
        },
    }


def text_of(job: Job) -> str:
    """The JobSet as YAML."""
    import yaml  # of flax and ml_collections; `--help` needs neither

    return yaml.safe_dump(jobset(job), sort_keys=False, width=1_000_000)


class Cluster(NamedTuple):
    """How a cluster is reached; its methods are the commands, as lists.

    Attributes:
      context, namespace: of kubectl, or None for its own.
      xpk: flags of xpk's cluster when the JobSet is made through xpk, else empty.
    """

    context: str | None
    namespace: str | None
    xpk: tuple[str, ...]

    def kubectl(self, *words: str) -> list[str]:
        """kubectl with the flags of this cluster."""
        flags = [f"--context={self.context}"] if self.context else []
        return ["kubectl", *flags, *([f"--namespace={self.namespace}"] if self.namespace else []), *words]

    def create(self, job: Job, file: pathlib.Path) -> list[str]:
        """Brings the run to the cluster."""
        if not self.xpk:
            return self.kubectl("create", f"--filename={file}")  # not apply: a run of that name is another one
        environment = [f"--env={name}={value}" for name, value in job.environment().items()]
        again = ",".join(map(str, sorted({cli.STOPPED, *AGAIN})))
        kind = ["--spot"] if job.spot else []
        line = f"cd {FOLDER} && exec {shlex.join(job.command())}"
        return ["xpk", "workload", "create", *self.xpk, f"--workload={job.name}", f"--tpu-type={job.tpu.accelerator}",
                f"--num-slices={job.slices}", f"--docker-image={job.image}", f"--max-restarts={job.most}",
                f"--restart-on-exit-codes={again}", f"--termination-grace-period-seconds={job.grace}", *kind,
                *environment, f"--command={line}"]  # fmt: skip

    def state(self, job: Job) -> list[str]:
        """Its final state, restarts so far, and what tells it from another of that name."""
        form = "--output=jsonpath={.status.terminalState}/{.status.restarts}/{.metadata.uid}"
        return self.kubectl("get", "jobset", job.name, form)

    def pods(self, job: Job) -> list[str]:
        """A line for each pod: its name and phase."""
        form = '--output=jsonpath={range .items[*]}{.metadata.name} {.status.phase}{"\\n"}{end}'
        return self.kubectl("get", "pods", f"--selector={LABEL}={job.name}", form)

    def logs(self, job: Job) -> list[str]:
        """What all pods say, from the beginning on."""
        most = job.nodes * job.slices
        return self.kubectl("logs", "--follow", "--prefix", "--ignore-errors", "--tail=-1",
                            f"--max-log-requests={most}", f"--selector={LABEL}={job.name}")  # fmt: skip

    def suspend(self, job: Job) -> list[str]:
        """Ends the pods and keeps the JobSet."""
        return self.kubectl("patch", "jobset", job.name, "--type=merge", '--patch={"spec":{"suspend":true}}')

    def delete(self, job: Job) -> list[str]:
        """Ends the pods, waits for them, and deletes all."""
        if self.xpk:
            return ["xpk", "workload", "delete", *self.xpk, f"--workload={job.name}", "--force"]
        return self.kubectl("delete", "jobset", job.name, "--cascade=foreground", "--ignore-not-found",
                            f"--timeout={job.grace + 120}s")  # fmt: skip


class Image(NamedTuple):
    """What builds and pushes the image: the tarball is the context, on standard input."""

    pack: list[str]
    file: pathlib.Path
    build: list[str]
    push: list[str]


def image_of(job: Job, logs: pathlib.Path, commit: str) -> Image:
    """The commands for the image of a commit."""
    pack, file = cli.archive(commit, logs)
    words = ["docker", "build", "--platform=linux/amd64", f"--tag={job.image}", f"--build-arg=COMMIT={commit}"]
    return Image(pack, file, [*words, "--file=launch/Dockerfile", "-"], ["docker", "push", job.image])


def steps(job: Job, cluster: Cluster, image: Image | None, known: argparse.Namespace) -> Iterator[str]:
    """What is done, line by line, and the file; the dry run prints it."""
    file = known.logs / "jobset.yaml"
    hosts = f"{job.slices * job.nodes} pods of {job.chips_a_node} chips"
    yield f"# {job.slices} x {job.tpu.accelerator} = {job.tpu.topology}: {job.slices * job.tpu.chips} chips, {hosts}"
    yield cli.shown(cluster.state(job)) + "  # must not exist"
    if image:
        yield cli.shown(image.pack)
        yield cli.shown(image.build, image.file)
        yield cli.shown(image.push)
    if not cluster.xpk:
        yield f"# {file}:"
        yield text_of(job).rstrip()
    yield cli.shown(cluster.create(job, file))
    yield f"# {known.logs}/left.json says what is there until it is deleted; with it the same command follows"
    if known.detach:
        yield "# --detach: follow with"
    yield cli.shown(cluster.state(job)) + f"  # every {known.poll:g} seconds"
    yield cli.shown(cluster.pods(job)) + "  # until all of them run"
    yield cli.shown(cluster.logs(job)) + f"  # {known.logs}/POD.log; that of process 0 is printed"
    if known.keep:
        yield "# on Ctrl-C, for --keep:"
        yield cli.shown(cluster.suspend(job))
        yield "# later:"
    else:
        yield "# at the end, and on Ctrl-C:"
    yield cli.shown(cluster.delete(job))


class Launch:
    """A JobSet from its creation to its end."""

    def __init__(self, job: Job, cluster: Cluster, logs: pathlib.Path, poll: float, c: subprocesses.Commands):
        self.job, self.cluster, self.poll, self.c = job, cluster, poll, c
        first = re.compile(rf"{re.escape(job.name)}-[a-z-]+-0-0-[a-z0-9]+$")
        self.kubectl_errors = logs / "kubectl.txt"
        self.logs = Logs(logs, PREFIXED, first)
        self.last = ""

    def tell(self, text: str) -> None:
        """A line, when it is another one than the last."""
        if text != self.last:
            cli.say(text)
        self.last = text

    def there(self) -> str | None:
        """The uid of the cluster's JobSet of that name; None if there is no such JobSet."""
        try:
            done = self.c.retried(self.cluster.state(self.job), tries=3, between=self.absent)
        except subprocesses.Failed as error:
            if any(text in str(error) for text in ABSENT):
                return None
            raise
        return done.out.strip().rpartition("/")[2]

    def absent(self) -> bool:
        """Whether the last answer was that there is none, or no JobSets at all."""
        return any(text in self.c.last for text in (*ABSENT, "resource type"))

    def terminal(self) -> str:
        """Its final state, Completed or Failed; "gone", or "" while it runs. Waits without an answer."""
        while True:
            done = self.c.once(self.cluster.state(self.job), quiet=True)
            if done.status == 0:
                state, restarts, _ = done.out.strip().split("/")
                if restarts not in ("", "0"):
                    self.tell(f"{self.job.name}: restart {restarts} of at most {self.job.most}")
                return state
            if any(text in done.err for text in ABSENT):
                return "gone"
            self.tell(f"{(done.err.strip().splitlines() or ['nothing said'])[-1]}; asking until it answers")
            self.c.sleep(self.poll)

    def running(self) -> bool:
        """Whether every pod has begun."""
        done = self.c.once(self.cluster.pods(self.job), quiet=True)
        begun = sum(line.endswith((" Running", " Succeeded", " Failed")) for line in done.out.splitlines())
        wanted = self.job.nodes * self.job.slices
        if begun < wanted:
            self.tell(f"{begun} of {wanted} pods run; the others wait for nodes, or for their image")
        return done.status == 0 and begun >= wanted

    def follow(self) -> None:
        """Prints and files what the pods say until their connections end, or the JobSet does."""

        def over() -> bool:
            return self.terminal() == "gone"

        stream(self.c, self.cluster.logs(self.job), self.logs, self.kubectl_errors, self.poll, over)

    def keep_going(self) -> int:
        """Follows until the JobSet has ended; returns the status."""
        while True:
            state = self.terminal()
            if state in ("Completed", "Failed"):
                self.follow()  # the last lines, or all of a run that ended before the first look
            if state in ("Completed", "Failed", "gone"):
                self.tell(f"{self.job.name}: {state}")
                return 0 if state == "Completed" else 1
            if self.running():
                self.follow()
            self.c.sleep(self.poll)


def launch(job: Job, cluster: Cluster, image: Image | None, known: argparse.Namespace, c: subprocesses.Commands) -> int:
    """Runs, and leaves nothing behind; returns the status."""
    file = known.logs / "jobset.yaml"
    note: dict[str, Any] = {"delete": shlex.join(cluster.delete(job)), "jobset": jobset(job)}
    ours, noted, detached, status, gone = False, False, False, 1, True
    with cleanup.exclusive(known.logs, job.name), c, contextlib.ExitStack() as stack:
        it = Launch(job, cluster, known.logs, known.poll, c)
        stack.callback(it.logs.close)
        try:
            if (uid := it.there()) is not None:  # before anything is created
                if cleanup.read_note(known.logs) != note | {"uid": uid}:
                    allowed = f"another name, or {note['delete']}"
                    raise InputError("--name", f"{job.name}, which is there already", allowed)
                ours = noted = True
                cli.say(f"{job.name} is there, made by this very command, whose launcher left it; following it")
            else:
                if image:
                    c.retried(image.pack, tries=1)
                    c.retried(image.build, tries=1, stdin=image.file)
                    c.retried(image.push)
                if not cluster.xpk:
                    whole.write(file, text_of(job))
                cleanup.write_note(known.logs, note)
                cli.say(f"if this launcher dies, the same command goes on; {note['delete']} deletes")
                ours = noted = True
                c.retried(cluster.create(job, file), tries=1)
                with contextlib.suppress(subprocesses.Failed):
                    cleanup.write_note(known.logs, note | {"uid": it.there()})
            if known.detach:
                cli.say(f"follow: {shlex.join(cluster.logs(job))}; delete: {shlex.join(cluster.delete(job))}")
            detached = known.detach
            status = 0 if detached else it.keep_going()
        except subprocesses.Interrupted as error:
            status = 128 + error.number
        except subprocesses.Failed as error:
            cli.say(str(error))
            if re.search("AlreadyExists|already exists", c.last):  # created by someone else since the look
                ours = False
        finally:
            c.cleaning()
            if ours and not detached:
                gone = leave(job, cluster, known.keep, c)
            if noted and gone and not detached:
                cleanup.clear_note(known.logs)
    return status if gone else status or 1


def leave(job: Job, cluster: Cluster, keep: bool, c: subprocesses.Commands) -> bool:
    """Deletes the JobSet, or keeps it, suspended when the user has ended it; whether that is done."""
    delete = shlex.join(cluster.delete(job))
    try:
        if not keep:
            c.retried(cluster.delete(job), tries=2 * c.tries)
            cli.say(f"{job.name} is deleted")
            return True
        if c.received:
            c.retried(cluster.suspend(job))
        cli.say(f"{job.name} is kept{', suspended' if c.received else ''}; {delete}")
        return True
    except (subprocesses.Failed, subprocesses.Interrupted) as error:
        cli.say(f"NOT DELETED, and may cost: {error}; {delete}")
        return False


def arguments_of(arguments: list[str]) -> tuple[argparse.Namespace, Job, Cluster, Image | None]:
    """The command line, checked."""
    parser = cli.parser("gke", __doc__)
    add = parser.add_argument
    add("--image", required=True, metavar="NAME[:TAG]", help="holds the package; without a tag the commit is its tag")
    add("--build", action="store_true", help="build and push it first, from the commit")
    add("--slices", type=int, default=1, metavar="N", help="joined by the network of the data centre (default 1)")
    add("--chips-per-node", type=int, metavar="N", help="of a machine of the node pool, where the type allows several")
    add("--spot", action="store_true", help="on spot nodes")
    add("--queue", metavar="NAME", help="a LocalQueue of Kueue")
    add("--service-account", metavar="NAME", help="of Kubernetes, that may use the bucket")
    add("--context", metavar="NAME", help="of kubectl, in place of its own")
    add("--namespace", metavar="NAME", help="of kubectl, in place of its own")
    add("--detach", action="store_true", help="create and leave it")
    add("--through", choices=("kubectl", "xpk"), default="kubectl", help="what creates and deletes (default kubectl)")
    add("--cluster", metavar="NAME", help="for xpk")
    add("--zone", metavar="ZONE", help="of the cluster, for xpk")
    add("--project", metavar="ID", help="for xpk, in place of gcloud's own")
    known, run = cli.parse(parser, arguments)
    tpu = find(known.type)
    if known.slices < 1:
        raise InputError("--slices", known.slices, "a number from 1")
    a_node = known.chips_per_node or tpu.chips_a_host
    if a_node not in (1, 4, 8) or tpu.chips % a_node:
        raise InputError("--chips-per-node", a_node, f"1, 4 or 8, of {tpu.chips} chips a slice")
    name, at, digest = known.image.partition("@")
    tagged = bool(at) or ":" in name.rpartition("/")[2]
    if known.build and tagged:
        raise InputError("--image", known.image, "a name without a tag: --build gives it the commit")
    if (known.through == "xpk") != bool(known.cluster and known.zone):
        raise InputError("--through", known.through, "xpk with --cluster and --zone, kubectl without them")
    if known.through == "xpk" and (known.queue or known.service_account or known.namespace):
        raise InputError("--through", "xpk", "kubectl for --queue, --service-account and --namespace")
    commit = cli.commit_of(known.allow_dirty)
    cli.check_run(run, commit)
    job = Job(known.name, tpu, known.slices, a_node, known.image if tagged else f"{known.image}:{commit[:12]}",
              None if tagged else commit, run, known.most, known.grace, known.spot, known.queue,
              known.service_account)  # fmt: skip
    project = [f"--project={known.project}"] if known.project else []
    xpk = (f"--cluster={known.cluster}", f"--zone={known.zone}", *project) if known.through == "xpk" else ()
    image = image_of(job, known.logs, commit) if known.build else None
    return known, job, Cluster(known.context, known.namespace, xpk), image


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    try:
        known, job, cluster, image = arguments_of(sys.argv[1:] if arguments is None else arguments)
        if known.dry_run:
            print("\n".join(steps(job, cluster, image, known)))
            return 0
        return launch(job, cluster, image, known, subprocesses.Commands(wait=min(5.0, known.poll)))
    except InputError as error:
        print(f"launch.gke: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
