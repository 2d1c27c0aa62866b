"""The gcloud commands of one Cloud TPU slice, as lists: create, describe, reach its workers, delete."""

import pathlib
import shlex
from typing import NamedTuple

from hcl_jax.plan.slices import Slice

EXTRAS = "gs,tpu"


class Machine(NamedTuple):
    """A slice and how it is reached; each method is a command.

    Attributes:
      name, zone, tpu, runtime: of the slice.
      project: None for gcloud's own.
      queued, spot: how it is asked for.
      create_flags: further flags of its creation.
      reach: flags of ssh and scp: --internal-ip, or of the alpha track.
      commit: that is installed.
      python: its version on the workers.
    """

    name: str
    zone: str
    tpu: Slice
    runtime: str
    project: str | None
    queued: bool
    spot: bool
    create_flags: tuple[str, ...]
    reach: tuple[str, ...]
    commit: str
    python: str

    def _gcloud(self, *words: str) -> list[str]:
        # The flags of tunnels and batches exist in the alpha track only.
        alpha = ["alpha"] if words[1] in ("ssh", "scp") and any("batch" in flag for flag in self.reach) else []
        return ["gcloud", *alpha, "compute", "tpus", *words]

    def _where(self) -> list[str]:
        return [f"--zone={self.zone}", *([f"--project={self.project}"] if self.project else []), "--quiet"]

    def create(self, stamp: str) -> list[str]:
        """Asks for the slice; a queued one comes later. Its label tells it from another of that name."""
        kind = [*(["--spot"] if self.spot else []), f"--labels=launch={stamp}"]
        if self.queued:
            words = self._gcloud("queued-resources", "create", self.name, f"--node-id={self.name}")
            return [*words, f"--accelerator-type={self.tpu.accelerator}", f"--runtime-version={self.runtime}", *kind,
                    *self.create_flags, *self._where()]  # fmt: skip
        words = self._gcloud("tpu-vm", "create", self.name, f"--accelerator-type={self.tpu.accelerator}")
        return [*words, f"--version={self.runtime}", *kind, *self.create_flags, *self._where()]

    def request(self) -> list[str]:
        """The state of a queued request, its label, and why it failed."""
        form = "--format=value(state.state,tpu.nodeSpec[0].node.labels.launch,state.failedData.error.message)"
        return [*self._gcloud("queued-resources", "describe", self.name, form), *self._where()]

    def describe(self) -> list[str]:
        """The state of the slice, and its label."""
        return [*self._gcloud("tpu-vm", "describe", self.name, "--format=value(state,labels.launch)"), *self._where()]

    def delete(self) -> list[str]:
        """Deletes it, and its request."""
        if self.queued:
            return [*self._gcloud("queued-resources", "delete", self.name, "--force"), *self._where()]
        return [*self._gcloud("tpu-vm", "delete", self.name), *self._where()]

    def ssh(self, command: list[str] | str) -> list[str]:
        """A command on all workers at once.

        Not with --output-directory, which gcloud 528 writes to a folder `None`.
        """
        text = command if isinstance(command, str) else shlex.join(command)  # the shell over there takes it apart
        words = self._gcloud("tpu-vm", "ssh", self.name, "--worker=all", *self.reach)
        # An idle connection through a firewall is dropped after ten minutes.
        return [*words, "--ssh-flag=-oServerAliveInterval=30", *self._where(), f"--command={text}"]

    def copy(self, file: pathlib.Path) -> list[str]:
        """A file to the home of all workers."""
        words = self._gcloud("tpu-vm", "scp", str(file), f"{self.name}:", "--worker=all", *self.reach)
        return [*words, *self._where()]

    def worker(self, *words: str) -> list[str]:
        """A command of launch/worker.py."""
        return ["python3", f"hcl_jax/{self.commit}/launch/worker.py", *words]

    def install(self, file: pathlib.Path) -> str:
        """Unpacks and installs, as one line of shell; paths are relative to the home of the user there."""
        tree, part = f"hcl_jax/{self.commit}", f"hcl_jax/{self.commit}.part"
        unpack = f"rm -rf {part} && mkdir -p {part} && tar -xzf {file.name} -C {part} && mv -T {part} {tree}"
        return f"{{ test -d {tree} || {{ {unpack}; }}; }} && " + shlex.join(self.worker("install", self.python, EXTRAS))
