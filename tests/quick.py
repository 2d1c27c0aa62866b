"""XLA:CPU's flags for processes that tests start, whose programs are compiled far more than they are run."""

import jaxlib.version

from hcl_jax.runtime.distributed import TESTED

# Kernels of the older emitters compile in a third of the time; a newer jaxlib may not know the flag, and would abort.
OLDER = "--xla_cpu_use_fusion_emitters=false" if jaxlib.version.__version__.startswith(TESTED) else ""
QUICK = f"--xla_backend_optimization_level=0 {OLDER}"
