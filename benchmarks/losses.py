"""Value and gradient of a contrastive loss, ours each way and its peers, on the CPU: time, extra memory, the number.

python benchmarks/losses.py                               NT-Xent and CLIP, 1,024 to 16,384 rows in all
python benchmarks/losses.py --rows=1024 --devices=4       and on a virtual mesh of 4 devices, ring beside dense
python benchmarks/losses.py --large=262144                ours, streamed, once
python benchmarks/losses.py --analysis=1048576            memory as compiled, nothing is run; --devices=4 adds the ring
python benchmarks/losses.py --neighbours                  the 20 nearest of 20,000 rows for 20,000

The peers that are not there (pip install '.[peers]') have a row that says so; --markdown prints the tables for docs/.

Every method is a process of its own, so that its memory is its own, and the processes take turns call by call: what the
machine does beside them hits all alike. Inputs are equal. Columns:

  median, min       ms of a call, over --repeats
  ratio             median over that of ours, streamed
  temp              MiB that the compiled program takes beside inputs and outputs (jax; of one device on a mesh)
  peak              MiB that the process grew by in its first call, outputs and libraries' buffers included (Linux)
  value, off        the loss, and its difference from float64 in NumPy; gradient off: norm of the difference / norm
"""

import argparse
import functools
import importlib.metadata
import os
import pathlib
import platform
import statistics
import sys
from typing import Any

import numpy as np
from loss_methods import BLOCK, CLIP, NT_XENT, TABLES, Spec, built, cores, inputs, lowered, partition, two_sets
from turns import MIB, Built, Worker, take_turns

WAITING = "PASSIVE"


# ---- a process a method


def build(table: str, at: int, spec: Spec) -> Built:
    """The call of a method, in its process."""
    method = TABLES[table][at]
    os.environ.update(JAX_PLATFORMS="cpu", OMP_NUM_THREADS=str(cores()))
    # Else torch's threads spin while they wait, into the next method's turn; on busy cores a call took 80 ms, not 2.
    os.environ.setdefault("OMP_WAIT_POLICY", WAITING)
    prepare(spec.devices if method.devices else 0)
    return built(method, spec)


def prepare(devices: int) -> None:
    """The flags of hcl_jax, and a number of virtual devices; before jax starts."""
    from hcl_jax.runtime import distributed

    distributed.prepare()
    if devices > 1:
        flag = f"--xla_force_host_platform_device_count={devices}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"


def measure(table: str, spec: Spec, repeats: int, limit: float, only: tuple[str, ...] = ()) -> list[Worker]:
    """Every method: built, called once for its memory and numbers, then in turns."""
    workers: list[Worker] = []
    try:
        for at, method in enumerate(TABLES[table]):
            if (not method.devices or spec.devices > 1) and (not only or method.name in only):
                start = functools.partial(build, table, at, spec)
                workers.append(Worker(method.name, start, method.needs, method.extra_bytes(spec), limit))
                workers[-1].call("first")
        take_turns(workers, repeats)
    finally:
        for worker in workers:
            worker.close()
    return workers


# ---- what the numbers should be, in float64


def exact(table: str, spec: Spec) -> tuple[float, np.ndarray, np.ndarray]:
    """Value and both gradients of a loss, a block of rows at a time."""
    a, b = (z.astype(np.float64) for z in inputs(spec))
    lengths = [np.linalg.norm(z, axis=1, keepdims=True) for z in (a, b)]
    x, y = a / lengths[0], b / lengths[1]
    n, t = len(a), spec.temperature
    paired = np.sum(x * y)
    if table == "nt_xent":
        u = np.concatenate([x, y])
        lse, du, _ = softmax_half(u, u, t, apart=True)
        value = (lse - 2 * paired / t) / (2 * n)
        dx, dy = (du[:n] - 2 * y / t) / (2 * n), (du[n:] - 2 * x / t) / (2 * n)
    else:
        there, dx, dy = softmax_half(x, y, t)
        back, dy_back, dx_back = softmax_half(y, x, t)
        value = (there + back - 2 * paired / t) / (2 * n)
        dx, dy = (dx + dx_back - 2 * y / t) / (2 * n), (dy + dy_back - 2 * x / t) / (2 * n)

    def through_length(g: np.ndarray, u: np.ndarray, length: np.ndarray) -> np.ndarray:
        return (g - u * np.sum(g * u, axis=1, keepdims=True)) / length

    return float(value), through_length(dx, x, lengths[0]), through_length(dy, y, lengths[1])


def softmax_half(q: np.ndarray, k: np.ndarray, t: float, apart: bool = False) -> tuple[float, np.ndarray, np.ndarray]:
    """sum_i log sum_j exp(q_i . k_j / t), and its gradients; apart: q is k, j is not i, and both gradients are one."""
    total, dq, dk = 0.0, np.zeros_like(q), np.zeros_like(k)
    for i in range(0, len(q), BLOCK):
        block = q[i : i + BLOCK]
        s = block @ k.T / t
        if apart:
            s[np.arange(len(block)), i + np.arange(len(block))] = -np.inf
        highest = s.max(axis=1, keepdims=True)
        e = np.exp(s - highest)
        sums = e.sum(axis=1, keepdims=True)
        total += float(np.sum(np.log(sums) + highest))
        p = e / sums / t
        dq[i : i + BLOCK] += p @ k
        dk += p.T @ block
    return (total, dq + dk, dk) if apart else (total, dq, dk)


def exact_neighbours(spec: Spec) -> np.ndarray:
    """The k nearest rows of each query, sorted by row."""
    q, k = (z.astype(np.float64) for z in two_sets(spec))
    parts = [partition(q[i : i + BLOCK], k, spec.k) for i in range(0, spec.rows, BLOCK)]
    return np.sort(np.concatenate(parts), axis=1)


# ---- tables


def loss_cells(worker: Worker, truth: tuple[float, np.ndarray, np.ndarray]) -> list[str]:
    """Value, and how far value and gradient are from float64."""
    value, *gradients = worker.first["out"]
    off = np.sqrt(sum(np.sum((g - w) ** 2) for g, w in zip(gradients, truth[1:], strict=True)))
    norm = np.sqrt(sum(np.sum(w**2) for w in truth[1:]))
    return [f"{value:.6f}", f"{value - truth[0]:+.1e}", f"{off / norm:.1e}"]


def neighbour_cells(worker: Worker, truth: np.ndarray) -> list[str]:
    """Share of the neighbours that are those of float64, in per cent."""
    found = worker.first["out"][0]
    same = np.mean([len(np.intersect1d(f, w, assume_unique=True)) for f, w in zip(found, truth, strict=True)])
    return [f"{100 * same / truth.shape[1]:.3f}"]


def print_table(title: str, last: list[str], workers: list[Worker], cells: Any, markdown: bool) -> None:
    """One table; a method without numbers has the reason in their place."""
    head = ["method", "median ms", "min ms", "ratio", "temp MiB", "peak MiB", *last]
    base = next((statistics.median(w.seconds) for w in workers if w.name == "ours, streamed" and w.seconds), None)
    lines: list[list[str]] = []
    for w in workers:
        if w.skipped or not w.seconds:
            lines.append([w.name, w.skipped or "not called"])
            continue
        middle, growth = statistics.median(w.seconds), w.first["growth"]
        ratio = "-" if base is None else f"{middle / base:.2f}"
        memory = ["-" if b is None else f"{b / MIB:,.1f}" for b in (w.temp, growth)]
        lines.append([w.name, f"{1e3 * middle:,.1f}", f"{1e3 * min(w.seconds):,.1f}", ratio, *memory, *cells(w)])
    write(title, head, lines, markdown)


def loss_table(table: str, spec: Spec, repeats: int, limit: float, markdown: bool) -> None:
    """Every way to one loss, at one size."""
    truth = exact(table, spec)
    workers = measure(table, spec, repeats, limit)
    mesh = f", mesh of {spec.devices} virtual devices" if spec.devices > 1 else ""
    title = f"{table}, {spec.rows:,} rows, temperature {spec.temperature:g}, {repeats} calls each{mesh}"
    print_table(title, ["value", "off", "gradient off"], workers, lambda w: loss_cells(w, truth), markdown)


def neighbour_table(spec: Spec, repeats: int, limit: float, markdown: bool) -> None:
    """Every way to the nearest rows."""
    truth = exact_neighbours(spec)
    workers = measure("nearest", spec, repeats, limit)
    title = f"{spec.k} nearest of {spec.rows:,} rows for {spec.rows:,} queries, {repeats} calls each; same: as float64"
    print_table(title, ["same %"], workers, lambda w: neighbour_cells(w, truth), markdown)


def write(title: str, head: list[str], lines: list[list[str]], markdown: bool) -> None:
    """Rows of cells as text or as Markdown; a short row's last cell is a remark."""
    if markdown:
        print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
        for line in lines:
            print(f"| {' | '.join(line + [''] * (len(head) - len(line)))} |")
    else:
        full = [line for line in [head, *lines] if len(line) == len(head)]
        widths = [max(len(line[i]) for line in full) for i in range(len(head))]
        widths[0] = max(len(line[0]) for line in lines)
        print(f"\n{title}")
        for line in [head, *lines]:
            first, *rest = line
            texts = [c.rjust(w) for c, w in zip(rest, widths[1:], strict=True)] if len(line) == len(head) else rest
            print("  ".join([first.ljust(widths[0]), *texts]))
    sys.stdout.flush()


def heading(spec: Spec, markdown: bool) -> None:
    """Command, machine, versions, seed."""
    names = ["jax", "jaxlib", "numpy", "optax", "scikit-learn"]
    names += ["torch", "lightly", "pytorch-metric-learning", "open_clip_torch"]
    versions = [f"Python {platform.python_version()}"]
    for name in names:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    try:
        model = next(
            row.split(":")[1].strip()
            for row in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
            if row.startswith("model name")
        )
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        machine = f"{model}, {cores()} cores, {memory:.0f} GiB"
    except (OSError, StopIteration, ValueError):
        machine = f"{platform.processor() or platform.machine()}, {cores()} cores"
    flags = os.environ.get("XLA_FLAGS") or "those of hcl_jax.runtime.distributed"
    lines = [
        f"python benchmarks/losses.py {' '.join(sys.argv[1:])}".rstrip(),
        f"{machine}; CPU only, {cores()} threads in jax, torch and NumPy",
        f"XLA flags: {flags}; OMP_WAIT_POLICY {os.environ.get('OMP_WAIT_POLICY', WAITING)}",
        ", ".join(versions),
        f"{spec.dim} features, float32, seed {spec.seed}",
    ]
    print("\n".join(f"`{lines[0]}`  " if markdown and line is lines[0] else line + "  " * markdown for line in lines))
    sys.stdout.flush()


def analysis(rows: int, spec: Spec, temperatures: list[float], markdown: bool) -> None:
    """Memory of the compiled programs, which are not run."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    prepare(spec.devices)
    head = ["method", "inputs MiB", "outputs MiB", "temp MiB"]
    for table, methods in (("nt_xent", NT_XENT), ("clip", CLIP)):
        lines = []
        for method in methods:
            if (method.devices and spec.devices < 2) or method.loss is None:
                continue
            compiled, _ = lowered(method, spec._replace(rows=rows, temperature=temperatures[0]))
            m = compiled.memory_analysis()
            sizes = (m.argument_size_in_bytes, m.output_size_in_bytes, m.temp_size_in_bytes)
            lines.append([method.name, *(f"{size / MIB:,.1f}" for size in sizes)])
        mesh = f", those with a mesh on each of {spec.devices} devices" if spec.devices > 1 else ""
        write(f"{table}, {rows:,} rows, as compiled, not run{mesh}", head, lines, markdown)


def large(rows: int, spec: Spec, temperatures: list[float], limit: float, markdown: bool) -> None:
    """Ours, streamed, called once."""
    lines = []
    for t in temperatures:
        (w,) = measure("nt_xent", spec._replace(rows=rows, temperature=t), 0, limit, only=("ours, streamed",))
        name = f"ours, streamed, temperature {t:g}"
        if w.skipped:
            lines.append([name, w.skipped])
            continue
        memory = ["-" if b is None else f"{b / MIB:,.1f}" for b in (w.temp, w.first["growth"])]
        value, *gradients = w.first["out"]
        finite = "yes" if np.isfinite(value) and all(np.isfinite(g).all() for g in gradients) else "no"
        lines.append([name, f"{w.first['seconds']:,.2f}", *memory, f"{value:.6f}", finite])
    head = ["method", "s, first call", "temp MiB", "peak MiB", "value", "all finite"]
    write(f"nt_xent, {rows:,} rows, once", head, lines, markdown)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1024,4096,16384", help="of both views or modalities together, even")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--temperature", default="0.1,0.01", help="clip: its scale is 1 over it")
    parser.add_argument("--losses", default="nt_xent,clip")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--limit-seconds", type=float, default=60.0, help="a method whose call takes longer is skipped")
    parser.add_argument("--devices", type=int, default=0, help="of a virtual mesh, for ring")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--large", type=int, default=0, metavar="ROWS", help="ours, streamed, once")
    parser.add_argument("--analysis", type=int, default=0, metavar="ROWS", help="memory as compiled")
    parser.add_argument("--neighbours", action="store_true", help="nearest rows in place of losses")
    parser.add_argument("--queries", type=int, default=20000, help="--neighbours: as many queries and keys")
    parser.add_argument("--k", type=int, default=20, help="--neighbours: how many")
    parser.add_argument("--markdown", action="store_true")
    known = parser.parse_args()
    temperatures = [float(t) for t in known.temperature.split(",")]
    spec = Spec(0, known.dim, 0.0, known.k, known.seed, known.devices)
    heading(spec, known.markdown)
    if known.analysis:
        analysis(known.analysis, spec, temperatures, known.markdown)
    if known.large:
        large(known.large, spec, temperatures, max(known.limit_seconds, 3600.0), known.markdown)
    if known.neighbours:
        neighbour_table(spec._replace(rows=known.queries), known.repeats, known.limit_seconds, known.markdown)
    if known.analysis or known.large or known.neighbours:
        return
    for table in known.losses.split(","):
        for rows in map(int, known.rows.split(",")):
            for t in temperatures:
                here = spec._replace(rows=rows, temperature=t)
                loss_table(table, here, known.repeats, known.limit_seconds, known.markdown)


if __name__ == "__main__":
    main()
