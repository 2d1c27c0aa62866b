"""Who is who in a launch: what each cluster says, and where the coordinator listens."""

import pytest

from hcl_jax.errors import InputError
from hcl_jax.runtime import distributed

SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "gpu[003,007]", "SLURM_NTASKS": "4", "SLURM_PROCID": "3",
         "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "4"}  # fmt: skip
OMPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
OMPI_4 = OMPI | {"OMPI_MCA_orte_hnp_uri": "40960.0;tcp://10.0.0.1:34911"}
ADDRESS = {"JAX_COORDINATOR_ADDRESS": "a:8476"}
GIVEN = ADDRESS | {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
ALONE = ("", 1, 0, None)
TPU = {"TPU_WORKER_HOSTNAMES": "localhost,other", "TPU_WORKER_ID": "1", "MEGASCALE_COORDINATOR_ADDRESS": "",
       "MEGASCALE_NUM_SLICES": "", "MEGASCALE_SLICE_ID": ""}  # fmt: skip


def place(monkeypatch, variables):
    for name in list(distributed.os.environ):
        if name.startswith(("JAX_", "SLURM_", "OMPI_", "PMI_", "KUBERNETES_", "JOB_", "TPU_", "MEGASCALE_")):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return distributed._place()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ALONE),
        (GIVEN, ("a:8476", 2, 1, None)),
        (GIVEN | SLURM, ("a:8476", 2, 1, None)),  # launch.local in an allocation
        # Port: the last 4,096, by the number of the job.
        (SLURM, (f"gpu003:{65535 - 4096 + 1 + 7}", 4, 3, [1])),
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}, ALONE),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, ALONE),  # a shell of salloc
        (OMPI_4, (f"10.0.0.1:{65535 - 4096 + 1 + 10}", 2, 1, [1])),
        (OMPI_4 | SLURM, (f"10.0.0.1:{65535 - 4096 + 1 + 10}", 2, 1, [1])),  # mpirun in an allocation
        (OMPI_4 | ADDRESS, ("a:8476", 2, 1, [1])),  # launch.mpi
        (OMPI_4 | ADDRESS | {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, ALONE),
        (OMPI | ADDRESS, ("a:8476", 2, 1, [1])),  # Open MPI 5, which jax does not know
        (OMPI | ADDRESS | SLURM, ("a:8476", 2, 1, [1])),
        (ADDRESS | {"PMI_SIZE": "8", "PMI_RANK": "5"}, ("a:8476", 8, 5, None)),
        (SLURM | {"PMI_SIZE": "4", "PMI_RANK": "3"}, (f"gpu003:{65535 - 4096 + 1 + 7}", 4, 3, [1])),  # srun --mpi=pmi2
        ({"PMI_SIZE": "1", "PMI_RANK": "0"}, ALONE),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, ALONE),
    ],
)
def test_who_is_who(monkeypatch, variables, expected):
    assert place(monkeypatch, variables) == expected


@pytest.fixture
def tpu_vm(monkeypatch):
    """This machine as a TPU VM of Cloud TPU; its metadata is the dict."""
    from jax._src.clusters import cloud_tpu_cluster, cluster

    for module in (cloud_tpu_cluster, cluster):
        monkeypatch.setattr(module, "running_in_cloud_tpu_vm", True)
    said: dict[str, str] = {}
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", lambda key: (said.get(key), 200 if key in said else 404))
    return said


def test_pods_of_a_tpu_slice(monkeypatch, tpu_vm):
    assert place(monkeypatch, TPU) == ("localhost:8482", 2, 1, None)
    assert place(monkeypatch, TPU | {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}) == ALONE


def test_virtual_machines_of_a_tpu_slice(monkeypatch, tpu_vm):
    tpu_vm |= {"agent-worker-number": "1", "worker-network-endpoints": "x:0:127.0.0.1,y:1:10.0.0.2", "tpu-env": ""}
    assert place(monkeypatch, {}) == ("127.0.0.1:8482", 2, 1, None)


def test_mpi4py_is_asked_where_no_launch_says_the_address(monkeypatch):
    from jax._src import clusters

    asked = []
    monkeypatch.setattr(distributed.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(
        clusters.ClusterEnv, "auto_detect_unset_distributed_params", lambda *a: asked.append(a) or ("b:1", 2, 0, [0])
    )
    assert place(monkeypatch, {"PMI_SIZE": "2", "PMI_RANK": "0"}) == ("b:1", 2, 0, [0])
    assert asked == [(None, None, None, None, "mpi4py", distributed.WAIT)]


@pytest.mark.parametrize(("variables", "said"), [(OMPI, "a launch of 2 processes"), (ADDRESS, "no JAX_PROCESS_ID")])
def test_a_launch_that_says_half_is_refused(monkeypatch, variables, said):
    monkeypatch.setattr(distributed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=said):
        place(monkeypatch, variables)


def test_the_coordinator_listens_at_its_address(monkeypatch):
    for name in ("JAX_COORDINATOR_BIND_ADDRESS", "SLURM_STEP_NUM_NODES"):
        monkeypatch.delenv(name, raising=False)
    assert distributed._own("127.0.0.1:80") == "127.0.0.1:80" and distributed._own("localhost:80") == "localhost:80"
    assert distributed._own("203.0.113.1:80") is None  # kept for documentation: no machine has it
    assert distributed._own("no-such-host.invalid:80") == "no-such-host.invalid:80"
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "2")
    assert distributed._own("localhost:80") is None  # the other node would not come
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", "10.0.0.1:80")
    assert distributed._own("localhost:80") == "10.0.0.1:80"
