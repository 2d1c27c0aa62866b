"""Eight virtual CPU devices, warnings as errors, no silent broadcasting between ranks."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        # Tests compile far more than they compute.
        "--xla_backend_optimization_level=0",
        # Eight devices share few cores here: a collective may wait long for the last of them.
        "--xla_cpu_collective_call_terminate_timeout_seconds=600",
    ]
)

import jax  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")
