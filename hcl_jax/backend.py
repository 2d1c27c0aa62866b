"""What must be set before JAX chooses a backend."""

import os

# Nearly halves convolution steps on XLA:CPU (a ResNet-18 step: 7.35 -> 4.06 s on 2 cores; equal to 1e-6).
CPU_FLAG = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT"
TESTED = "0.10."


def join() -> None:
    """Joins the other processes of a launch where JAX_COORDINATOR_ADDRESS names a coordinator (launch/local.py)."""
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if address:
        import jax

        number = int(os.environ["JAX_PROCESS_ID"])
        # The coordinator listens on every interface unless it is told the address.
        bind = address if number == 0 else None
        jax.distributed.initialize(address, int(os.environ["JAX_NUM_PROCESSES"]), number, coordinator_bind_address=bind)


def prepare() -> None:
    """Sets the XLA:CPU flag for the tested jaxlib, unless there are flags or an accelerator is asked for."""
    import jaxlib.version

    platforms = os.environ.get("JAX_PLATFORMS", "cpu")
    # An unknown flag aborts the process, so other versions go without.
    if "XLA_FLAGS" not in os.environ and jaxlib.version.__version__.startswith(TESTED) and platforms == "cpu":
        os.environ["XLA_FLAGS"] = CPU_FLAG
