"""H100s that are not there, for the compiler of jax's CUDA plugin: it asks for a description of a GPU, not for a GPU.

`pip install jax-cuda12-plugin` (which brings jax-cuda12-pjrt, both of jax's own version, and no library of NVIDIA's)
is enough. Found with 0.10.2: it compiles, gives `memory_analysis()` and the text of the program with its collectives,
and no `cost_analysis()`. No kernel is measured: products and convolutions become calls of cuBLAS and cuDNN, whose
scratch is not among the temporaries. A program that does not fit compiles too: compare its bytes with
chips.GPUS.
"""

import importlib.util
from typing import Any

from hcl_jax.errors import InputError

HOST = 8  # GPUs that NVLink joins
PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
# For `lowered.compile`. Without a GPU to measure them on, Triton's products are refused for some shapes (ViT-B).
OPTIONS = {"xla_gpu_enable_triton_gemm": False}
# Properties of compute capability 9.0 (CUDA C++ Programming Guide) and of the SXM5 (H100 architecture paper).
TARGET = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3350000000000 device_memory_size: 80000000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def installed() -> bool:
    """Whether a CUDA plugin is there."""
    return any(importlib.util.find_spec(name) for name in PLUGINS)


def devices(count: int) -> list[Any]:
    """Devices to build a mesh of, eight a host. JAX_PLATFORMS=cpu must be set: no driver is looked for.

    Args:
      count: at most 8, or a multiple of 8.

    Raises:
      InputError: another count, no plugin, or one that does not know this description.
    """
    from jax.experimental import topologies

    if count < 1 or (count > HOST and count % HOST):
        raise InputError("--topology", f"h100:{count}", f"1 to {HOST}, or a multiple of {HOST}")
    if not installed():
        raise InputError("--topology", f"h100:{count}, but no CUDA plugin", "pip install jax-cuda12-plugin")
    shape = f"1x{-(-count // HOST)}x{min(count, HOST)}"
    try:
        return list(topologies.get_topology_desc(platform="cuda", target_config=TARGET, topology=shape).devices)
    except Exception as error:  # the plugin raises kinds of its own
        text = str(error).splitlines()[0]
        raise InputError("--topology", f"h100:{count} ({text})", "a plugin of jax's own version") from None
