"""What must be set before JAX chooses a backend."""

import os

# Gradient steps on XLA:CPU, 2 cores, ms: convnet, 256 x 32 px 479 -> 266; ResNet-18, 64 x 32 px 3304 -> 2249; equal to
# 5e-6 and bitwise repeatable. DOT alone makes reductions slow: one batch-norm mean 63 ms instead of 0.8.
CPU_FLAG = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
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
