"""What must be set before JAX chooses a backend."""

import importlib.util
import ipaddress
import os
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any

from hcl_jax.errors import InputError

# Gradient steps on XLA:CPU, 2 cores, ms: convnet, 256 x 32 px 479 -> 266; ResNet-18, 64 x 32 px 3304 -> 2249; equal to
# 5e-6 and bitwise repeatable. DOT alone makes reductions slow: one batch-norm mean 63 ms instead of 0.8.
CPU_FLAG = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
TESTED = "0.10."
WAIT = 300  # seconds for the name of the first process to become known


def join(heartbeat: int = 100, seconds: int = 600) -> None:
    """Joins the processes of a launch; a run of one process also gets the service that receives SIGTERM.

    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID identify them (launch/local.py); otherwise the
    cluster does, as jax detects it: Open MPI, SLURM, Cloud TPU VMs, GKE, another MPI through mpi4py.

    Args:
      heartbeat: seconds without a heartbeat before a process counts as dead, and the others end.
      seconds: how long to wait for the others to join; then this process reports it, and JAX aborts it.

    Raises:
      InputError: there are several processes, and the address of the first is unknown.
    """
    import jax
    from jax._src import xla_bridge

    if jax.distributed.is_initialized() or xla_bridge.backends_are_initialized():
        return  # called from a program that uses JAX already: its signals are its own
    address, processes, number, devices = _place()
    if processes == 1:
        # Gloo, the default once there is a coordinator, takes 40 times as long between the devices of one process.
        jax.config.update("jax_cpu_collectives_implementation", None)
        address = address or f"127.0.0.1:{_free_port()}"
    # JAX itself reports neither how long it waited nor where.
    line = f"hcl_jax: process {number} waited {seconds} s at {address} for all {processes} processes to join"
    late = threading.Timer(seconds, lambda: print(line, file=sys.stderr, flush=True))
    late.daemon = True
    late.start()
    jax.distributed.initialize(
        address,
        processes,
        number,
        None if "JAX_LOCAL_DEVICE_IDS" in os.environ else devices,
        cluster_detection_method="deactivate",
        initialization_timeout=seconds + 1,
        heartbeat_timeout_seconds=heartbeat,
        # The coordinator listens on every interface unless it is told the address.
        coordinator_bind_address=_own(address) if number == 0 else None,
    )
    late.cancel()


# The variables of world size and rank: Open MPI; MPICH and Intel MPI.
MPI = (("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), ("PMI_SIZE", "PMI_RANK"))


def _place() -> tuple[str, int, int, Sequence[int] | None]:
    """(address of the coordinator, number of processes, index of this one, its GPUs; None: all that it sees)."""
    from jax._src import clusters  # what jax.distributed.initialize uses; the address is not public

    address = os.environ.get("JAX_COORDINATOR_ADDRESS", "")
    if address and "JAX_PROCESS_ID" in os.environ:
        return address, int(os.environ["JAX_NUM_PROCESSES"]), int(os.environ["JAX_PROCESS_ID"]), None
    cluster = next((c for c in clusters.ClusterEnv._cluster_types if _is_here(c)), None)
    count = cluster.get_process_count() if cluster else 1
    if cluster is clusters.SlurmCluster:
        # A shell of one task sees the tasks of its whole allocation too, and none of the others would join.
        count = min(count, int(os.environ.get("SLURM_STEP_NUM_TASKS", count)))
    known = [(int(os.environ[n]), int(os.environ[i])) for n, i in MPI if n in os.environ and i in os.environ]
    size, rank = known[0] if known else (1, 0)
    method = None
    if size > 1 and count != size:  # an mpirun that jax does not know, perhaps started by srun on each node
        if address:
            local = os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK")
            return address, size, rank, [int(local)] if local else None
        if importlib.util.find_spec("mpi4py") is None:
            allowed = "JAX_COORDINATOR_ADDRESS=HOST:PORT, as launch.mpi sets it, or mpi4py installed"
            raise InputError(f"a launch of {size} processes", "no address of the first", allowed)
        method = "mpi4py"
    elif count == 1:
        if address and not known and not cluster:
            raise InputError("JAX_COORDINATOR_ADDRESS", "no JAX_PROCESS_ID beside it", "both, or neither")
        return "", 1, 0, None
    detected = clusters.ClusterEnv.auto_detect_unset_distributed_params(address or None, None, None, None, method, WAIT)
    first, processes, number, devices = detected
    assert first is not None and processes is not None and number is not None
    return first, processes, number, devices


def _is_here(cluster: Any) -> bool:
    """Whether this process runs in jax's cluster. A pod outside of an indexed job is one process."""
    from jax._src import clusters

    if cluster.opt_in_only_method or (cluster is clusters.K8sCluster and "JOB_COMPLETION_INDEX" not in os.environ):
        return False
    return cluster.is_env_present()


def _own(address: str) -> str | None:
    """Where the coordinator listens: only at its address. None, every interface, if peers could not reach that."""
    if os.environ.get("JAX_COORDINATOR_BIND_ADDRESS"):
        return os.environ["JAX_COORDINATOR_BIND_ADDRESS"]
    host = address.rpartition(":")[0].strip("[]")
    try:
        places = {(family, str(where[0])) for family, _, _, _, where in socket.getaddrinfo(host, None)}
    except OSError:
        return address  # binding reports what is wrong with the name
    # Debian resolves a machine's own name to 127.0.1.1, which other machines cannot reach.
    apart = int(os.environ.get("SLURM_STEP_NUM_NODES", 1)) > 1
    if apart and all(ipaddress.ip_address(place).is_loopback for _, place in places):
        return None
    return address if any(_is_mine(*place) for place in places) else None


def _is_mine(family: int, place: str) -> bool:
    with socket.socket(family) as probe:
        try:
            probe.bind((place, 0))
        except OSError:  # the address of a service in front of this machine
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def prepare() -> None:
    """Sets the XLA:CPU flag for the tested jaxlib, unless flags are set or an accelerator is requested."""
    import jaxlib.version

    platforms = os.environ.get("JAX_PLATFORMS", "cpu")
    # An unknown flag aborts the process, so other versions go without.
    if "XLA_FLAGS" not in os.environ and jaxlib.version.__version__.startswith(TESTED) and platforms == "cpu":
        os.environ["XLA_FLAGS"] = CPU_FLAG
