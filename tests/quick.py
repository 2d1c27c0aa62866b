"""XLA:CPU's flags for tests and processes that they start, whose programs are compiled far more than they are run."""

import jaxlib.version

from hcl_jax.runtime.distributed import TESTED

# Kernels of the older emitters compile in a third of the time; a newer jaxlib may not know the flag, and would abort.
# So `make smoke`, with the newest releases, compiles with the emitters that users have.
OLDER = "--xla_cpu_use_fusion_emitters=false" if jaxlib.version.__version__.startswith(TESTED) else ""
QUICK = f"--xla_backend_optimization_level=0 {OLDER}"
# compiler_options of jax.jit for what is promised to users to the last bit: that program is compiled as theirs are.
AS_USERS = {"xla_cpu_use_fusion_emitters": True} if OLDER else None
