"""What must be set before JAX chooses a backend."""

import os
import socket
import sys
import threading

# Gradient steps on XLA:CPU, 2 cores, ms: convnet, 256 x 32 px 479 -> 266; ResNet-18, 64 x 32 px 3304 -> 2249; equal to
# 5e-6 and bitwise repeatable. DOT alone makes reductions slow: one batch-norm mean 63 ms instead of 0.8.
CPU_FLAG = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
TESTED = "0.10."


def join(heartbeat: int = 100, seconds: int = 600) -> None:
    """Joins the processes of a launch; a run of one process, too, gets the service that hears SIGTERM.

    The launch says who is who: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID (launch/local.py).

    Args:
      heartbeat: seconds without a sign of life before a process counts as dead, and the others end.
      seconds: how long to wait for the others to join; then this process says so, and JAX aborts it.
    """
    import jax
    from jax._src import xla_bridge

    if jax.distributed.is_initialized() or xla_bridge.backends_are_initialized():
        return  # called from a program that uses JAX already: its signals are its own
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    number = int(os.environ["JAX_PROCESS_ID"]) if address else 0
    processes = int(os.environ["JAX_NUM_PROCESSES"]) if address else 1
    if processes == 1:
        # Gloo, the default once there is a coordinator, takes 40 times as long between the devices of one process.
        jax.config.update("jax_cpu_collectives_implementation", None)
    address = address or f"127.0.0.1:{_free_port()}"
    # JAX itself names neither the wait nor the place.
    line = f"hcl_jax: process {number} waited {seconds} s at {address} for all {processes} processes to join"
    late = threading.Timer(seconds, lambda: print(line, file=sys.stderr, flush=True))
    late.daemon = True
    late.start()
    jax.distributed.initialize(
        address,
        processes,
        number,
        initialization_timeout=seconds + 1,
        heartbeat_timeout_seconds=heartbeat,
        # The coordinator listens on every interface unless it is told the address.
        coordinator_bind_address=address if number == 0 else None,
    )
    late.cancel()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def prepare() -> None:
    """Sets the XLA:CPU flag for the tested jaxlib, unless there are flags or an accelerator is asked for."""
    import jaxlib.version

    platforms = os.environ.get("JAX_PLATFORMS", "cpu")
    # An unknown flag aborts the process, so other versions go without.
    if "XLA_FLAGS" not in os.environ and jaxlib.version.__version__.startswith(TESTED) and platforms == "cpu":
        os.environ["XLA_FLAGS"] = CPU_FLAG
