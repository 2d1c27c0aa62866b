"""What the launchers of clouds share: their flags, checks of the run's arguments, and the commit that is run."""

import argparse
import contextlib
import os
import pathlib
import re
import shlex
import subprocess
import sys
from typing import IO, NoReturn

from hcl_jax.errors import InputError, nearest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# The status of a run that was asked to end before its last step, instead of 0 (runtime/preemption.py): preemption
# comes as SIGTERM, and a run that saved and ended must not be considered done. 75 is EX_TEMPFAIL.
STOPPED = 75
VALUED = ("--config", "--workdir", "--steps")  # of hcl_jax.main, beside --config.FIELD and --profile
OF_ONE_MACHINE = ("/tmp", "/var/tmp", "/dev/shm", "/run")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that refuses in one line."""

    def error(self, message: str) -> NoReturn:
        """Prints the line and exits with 2."""
        self.exit(2, f"{self.prog.removeprefix('python -m ')}: {message}\n")


def parser(where: str, doc: str | None) -> Parser:
    """The parser of `python -m launch.WHERE`, with the flags that all launchers have."""
    created = Parser(
        f"python -m launch.{where}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=f"python -m launch.{where} [flags] [--dry-run] -- ARGUMENTS OF hcl_jax.main", allow_abbrev=False,
    )  # fmt: skip
    add = created.add_argument
    add("--type", required=True, metavar="TYPE", help="v5litepod-256, or its topology v5e:16x16")
    add("--name", default="hcl-jax", metavar="NAME", help="of what is created (default hcl-jax)")
    add("--dry-run", action="store_true", help="print every command and file, exactly, and run nothing")
    add("--allow-dirty", action="store_true", help="launch HEAD although files are not committed; they stay here")
    add("--keep", action="store_true", help="delete nothing at the end")
    add("--logs", type=pathlib.Path, metavar="DIR", help="logs and what was sent (default runs/launch/NAME)")
    add("--most", type=int, default=10, metavar="N", help="restarts in a row within ten minutes; of a JobSet: all (10)")
    add("--grace", type=int, default=300, metavar="SECONDS", help="to save after SIGTERM (default 300)")
    add("--poll", type=float, default=60.0, metavar="SECONDS", help="between looks at the state (default 60)")
    return created


def split(flags: Parser, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """A launcher's flags and, after the first --, the run's arguments.

    Raises:
      InputError: hcl_jax.main has no such flag: it would say so on machines that cost by then.
    """
    at = arguments.index("--") if "--" in arguments else len(arguments)
    if not arguments[at + 1 :] and not {"-h", "--help"} & set(arguments[:at]):
        flags.error("the arguments of hcl_jax.main are needed after --")
    known, run = flags.parse_args(arguments[:at]), arguments[at + 1 :]
    words = iter(run)
    for word in words:
        flag, equals, _ = word.partition("=")
        if not (word == "--profile" or flag in VALUED or flag.startswith("--config.")):
            raise InputError("after --", repr(word), "arguments of hcl_jax.main alone; the launcher's come before --")
        if word != "--profile" and not equals and next(words, None) is None:
            raise InputError("after --", f"{flag} without a value", f"{flag}=VALUE")
    return known, run


def needs_workdir(run: list[str], machines: int) -> None:
    """Refuses a run without a folder, or whose folder the machines cannot share, before it waits in a queue."""
    workdir = value_of("--workdir", run)
    if not workdir and value_of("--steps", run) is None:
        raise InputError("--workdir", "nothing", "--workdir=DIR after --, the folder for this run")
    place = os.path.normpath(os.path.expanduser(workdir or ""))
    if machines > 1 and any(place == p or place.startswith(f"{p}/") for p in OF_ONE_MACHINE):
        raise InputError("--workdir", f"{workdir}, a folder of each machine", f"one that all {machines} machines share")


def parse(flags: Parser, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The launcher's flags and, after the first --, the run's arguments."""
    known, run = split(flags, arguments)
    if not re.fullmatch(r"[a-z](?:[-a-z0-9]{0,38}[a-z0-9])?", known.name):
        raise InputError("--name", repr(known.name), "1 to 40 of a-z, 0-9 and -, a letter first and no - last")
    if known.most < 0 or known.grace < 1 or not known.poll > 0:
        raise InputError("--most, --grace, --poll", f"{known.most}, {known.grace}, {known.poll}", ">= 0, >= 1, > 0")
    known.logs = known.logs or pathlib.Path("runs", "launch", known.name)
    return known, run


def value_of(flag: str, run: list[str]) -> str | None:
    """The value of a flag in a run's arguments, as `--flag=VALUE` or `--flag VALUE`; the last one counts."""
    value = None
    for argument, following in zip(run, [*run[1:], None], strict=True):
        if argument == flag:
            value = following
        elif argument.startswith(f"{flag}="):
            value = argument.partition("=")[2]
    return value


def check_run(run: list[str], commit: str) -> None:
    """Refuses a run whose results would be deleted with its machines, or whose recipe is not in the commit."""
    workdir = value_of("--workdir", run)
    if workdir is None and value_of("--steps", run) is None:
        raise InputError("--workdir", "nothing", "--workdir=gs://BUCKET/FOLDER after --, which outlives the machines")
    if workdir is not None and not re.match(r"gs://[^/]+/.", workdir):
        raise InputError("--workdir", workdir, "gs://BUCKET/FOLDER: another folder goes with its machine")
    recipe = (value_of("--config", run) or "").partition(":")[0]
    if recipe.endswith(".py") and git("cat-file", "-e", f"{commit}:./{recipe}", check=False) is None:
        raise InputError("--config", recipe, f"a file of the commit {commit[:12]}, path from the top")
    packaged = (git("ls-tree", "--name-only", f"{commit}:./configs", check=False) or "").split()
    names = [name.removesuffix(".py") for name in packaged if name.endswith(".py") and not name.startswith("_")]
    if recipe and not recipe.endswith(".py") and recipe not in names:
        raise InputError("--config", repr(recipe), f"{nearest(recipe, names)}, or a file of the commit")


def git(*arguments: str, check: bool = True) -> str | None:
    """The output of git in this clone; None when it fails and `check` is false."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        raise InputError("git", "nothing on PATH", "git, which packs the commit that is run") from None
    if done.returncode == 0:
        return done.stdout
    if check:
        error = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise InputError(f"git {arguments[0]}", error, f"a clone of the project at {ROOT}")
    return None


def commit_of(allow_dirty: bool) -> str:
    """The commit that is run; uncommitted files are refused, or listed when they are allowed.

    Raises:
      InputError: this is no clone, or a file differs from HEAD.
    """
    commit = (git("rev-parse", "--verify", "HEAD^{commit}") or "").strip()
    entries = (git("status", "--porcelain=v1", "-z", "--no-renames") or "").split("\0")
    files = [entry[3:] for entry in entries if entry]
    if not files:
        return commit
    shown = ", ".join(files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "")
    if not allow_dirty:
        raise InputError("git status", f"not committed: {shown}", "a clean tree, or --allow-dirty, which launches HEAD")
    say(f"not committed, and not sent: {shown}; HEAD is launched, {commit[:12]}")
    return commit


def archive(commit: str, folder: pathlib.Path) -> tuple[list[str], pathlib.Path]:
    """The command that packs a commit, and the file it makes."""
    file = folder / f"hcl_jax-{commit[:12]}.tar.gz"
    return ["git", "-C", str(ROOT), "archive", "--format=tar.gz", f"--output={file.resolve()}", commit], file


def shown(command: list[str], stdin: pathlib.Path | None = None) -> str:
    """A command as one would type it."""
    return f"$ {shlex.join(command)}" + (f" < {shlex.quote(str(stdin))}" if stdin else "")


def say(text: str) -> None:
    """A line on standard error: standard output is the run's."""
    put(f"launch: {text}", sys.stderr)


def put(text: str, stream: IO[str]) -> None:
    """Prints a line. A closed terminal or pipe is ignored: what costs money must still be cleaned up."""
    try:
        print(text, file=stream, flush=True)
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
