"""What two SimCLR views of photographs cost: ours, an earlier commit's, and what else makes them.

  python benchmarks/input_224.py [--size=224] [--before=FOLDER] [--rounds=3] [--images=512] [--arms=ours,before]

Every arm is a process of its own, and they take turns. CPU milliseconds an image (user and system, of all threads and
children) hardly depend on what the machine does besides; images a second do, and need many images. `--before` is the
folder of another checkout (git worktree add FOLDER COMMIT), `--python` a Python that has albumentations and lightly.

JPEGs of 500 x 375, and 375 x 500 every fourth, are made in a temporary folder: slopes with noise. Each was decoded to
its end once before the clock starts, as from the second epoch of a run on.
"""

import argparse
import importlib.util
import io
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
TICKS = os.sysconf("SC_CLK_TCK")
STEADY = 5  # batches pulled before the clock starts: those that a pipeline holds ready
BATCH, FILES = 64, 128


def write_jpegs(folder: pathlib.Path) -> None:
    """Photographs for want of any: a coarse picture made large, with noise."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    (folder / "a").mkdir()
    for number in range(FILES):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3)).astype(np.uint8))
        sides = (375, 500) if number % 4 == 3 else (500, 375)  # of one size they would be decoded whole
        smooth = np.asarray(coarse.resize(sides, Image.Resampling.BICUBIC), np.float32)
        noisy = np.clip(smooth + rng.normal(0, 9, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / "a" / f"{number:04d}.jpg", quality=90)


def ours(folder: pathlib.Path, size: int, ops: str = "all"):
    """Batches of the package that is on the path."""
    import numpy as np

    from hcl_jax import config as configs
    from hcl_jax import data

    config = configs.defaults()
    config.data.name, config.data.dir, config.data.train_split = "folder", str(folder), ""
    config.data.held_out, config.data.in_memory, config.data.num_classes = 0.0, False, 0
    config.data.labels = ()
    source = data.open_source(config.data, config.data.train_split)
    steps = (
        {"op": "random_resized_crop", "size": size},
        {"op": "flip"},
        {"op": "color_jitter"},
        {"op": "grey"},
        {"op": "blur"},
    )
    steps = steps[:1] if ops == "crop" else steps
    views = {name: {"kind": "image", "field": "image", "ops": steps, "draws": name} for name in "ab"}
    from hcl_jax.data.bad_records import BadRecords

    more = {"seed": 0, "batch_size": BATCH, "rows": np.arange(BATCH), "start": 0, "stop": None}
    return iter(data.batches(source, views, **more, bad=BadRecords(1)))


def plain(folder: pathlib.Path, size: int, colours: bool = True, resize: bool = True):
    """tf.data as a tutorial has it: one picture after the other, stock operations of tf.image, no antialiasing."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    files = sorted(map(str, (folder / "a").iterdir()))
    gauss = tf.range(-(size // 20), size // 20 + 1, dtype=tf.float32)

    def view(encoded):
        shape = tf.image.extract_jpeg_shape(encoded)
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            shape,
            tf.zeros([0, 0, 4], tf.float32),
            area_range=(0.08, 1.0),
            aspect_ratio_range=(3 / 4, 4 / 3),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], extent[:2]], 0)
        x = tf.image.decode_and_crop_jpeg(encoded, window, channels=3)
        if not resize:
            return tf.reduce_max(x)
        x = tf.image.resize(tf.cast(x, tf.float32) / 255.0, (size, size), "bicubic")
        if not colours:
            return x
        x = tf.image.random_flip_left_right(x)

        def jitter():
            y = tf.image.random_brightness(x, 0.8)
            y = tf.image.random_contrast(y, 0.2, 1.8)
            y = tf.image.random_saturation(tf.clip_by_value(y, 0.0, 1.0), 0.2, 1.8)
            return tf.clip_by_value(tf.image.random_hue(y, 0.2), 0.0, 1.0)

        x = tf.cond(tf.random.uniform([]) < 0.8, jitter, lambda: x)
        x = tf.cond(
            tf.random.uniform([]) < 0.2, lambda: tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(x)), lambda: x
        )

        def blur():
            taps = tf.exp(-0.5 * (gauss / tf.random.uniform([], 0.1, 2.0)) ** 2)
            taps = tf.tile((taps / tf.reduce_sum(taps))[:, None, None, None], [1, 1, 3, 1])
            y = tf.nn.depthwise_conv2d(x[None], taps, [1, 1, 1, 1], "SAME")
            return tf.nn.depthwise_conv2d(y, tf.transpose(taps, [1, 0, 2, 3]), [1, 1, 1, 1], "SAME")[0]

        return tf.cond(tf.random.uniform([]) < 0.5, blur, lambda: x)

    def pair(file):
        encoded = tf.io.read_file(file)
        return view(encoded), view(encoded)

    stream = tf.data.Dataset.from_tensor_slices(files).repeat().map(pair, num_parallel_calls=os.cpu_count())
    options = tf.data.Options()
    options.autotune.enabled = False
    return stream.batch(BATCH).prefetch(2).with_options(options).as_numpy_iterator()


def threads(folder: pathlib.Path, make):
    """Batches of a function bytes -> two views, by as many threads as there are cores."""
    from concurrent.futures import ThreadPoolExecutor

    files = sorted((folder / "a").iterdir())
    pool = ThreadPoolExecutor(os.cpu_count())
    at = 0
    while True:
        some = [files[(at + k) % len(files)] for k in range(BATCH)]
        at += BATCH
        yield list(pool.map(lambda file: make(file.read_bytes()), some))


def albumentations(folder: pathlib.Path, size: int):
    """albumentations on uint8, decoded and changed by OpenCV."""
    import albumentations as A
    import cv2
    import numpy as np

    cv2.setNumThreads(1)
    ops = [
        A.RandomResizedCrop((size, size), scale=(0.08, 1.0)),
        A.HorizontalFlip(p=0.5),
        A.ColorJitter((0.2, 1.8), (0.2, 1.8), (0.2, 1.8), (-0.2, 0.2), p=0.8),
        A.ToGray(p=0.2),
        A.GaussianBlur(blur_limit=(size // 20 * 2 + 1,) * 2, sigma_limit=(0.1, 2.0), p=0.5),
    ]
    view = A.Compose(ops)

    def make(data):
        x = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        return view(image=x)["image"], view(image=x)["image"]

    return threads(folder, make)


def lightly(folder: pathlib.Path, size: int):
    """lightly's SimCLR transform, of torchvision on Pillow's pictures."""
    import torch
    from lightly.transforms.simclr_transform import SimCLRTransform
    from PIL import Image

    torch.set_num_threads(1)
    view = SimCLRTransform(input_size=size)
    return threads(folder, lambda data: view(Image.open(io.BytesIO(data)).convert("RGB")))


ARMS = {
    "ours": ours,
    "before": ours,
    "ours crop": lambda folder, size: ours(folder, size, "crop"),
    "plain tf.data": plain,
    "plain crop": lambda folder, size: plain(folder, size, colours=False),
    "decode two windows": lambda folder, size: plain(folder, size, resize=False),
    "albumentations": albumentations,
    "lightly": lightly,
}
NEEDS = {"albumentations": ("albumentations", "cv2"), "lightly": ("lightly", "torch")}


def work(arm: str, folder: pathlib.Path, size: int) -> None:
    """The other process: pulls as many batches as a line says, answers with the seconds of all but the first."""
    missing = [name for name in NEEDS.get(arm, ()) if importlib.util.find_spec(name) is None]
    if missing:
        print(f"{', '.join(missing)} not installed", flush=True)
        return
    stream = ARMS[arm](folder, size)
    for _ in range(1 + FILES // BATCH if arm in ("ours", "before") else 1):
        next(stream)
    print("ready", flush=True)
    for line in sys.stdin:
        for _ in range(STEADY):
            next(stream)
        began = time.perf_counter()
        for _ in range(int(line)):
            next(stream)
        print(json.dumps(time.perf_counter() - began), flush=True)


def used(process: int) -> tuple[float, float, int]:
    """(user seconds, system seconds, page faults) of a process and its children that live."""
    text = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    user, system, faults = int(text[11]) / TICKS, int(text[12]) / TICKS, int(text[7])
    children = pathlib.Path(f"/proc/{process}/task/{process}/children").read_text().split()
    for child in children:
        more = used(int(child))
        user, system, faults = user + more[0], system + more[1], faults + more[2]
    return user, system, faults


def settled(process: int) -> tuple[float, float, int]:
    """`used`, as soon as the process waits for its reader."""
    last = used(process)
    while True:
        time.sleep(0.25)
        now = used(process)
        if now[0] + now[1] - last[0] - last[1] < 0.015:
            return now
        last = now


class Arm:
    """The parent's end of a process."""

    def __init__(self, name: str, folder: str, known: argparse.Namespace):
        root = known.before if name == "before" else ROOT
        python = known.python if name in NEEDS else sys.executable
        command = [python, str(pathlib.Path(__file__).resolve()), f"--arm={name}", folder, f"--size={known.size}"]
        env = {**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
        self.name, self.rows = name, []
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def refused(self) -> str:
        """Empty once it made a first batch, else why it did not."""
        line = self.process.stdout.readline().strip()
        return "" if line == "ready" else line or "its process ended"

    def turn(self, batches: int) -> None:
        """One window, from a full pipeline to a full pipeline."""
        before = settled(self.process.pid)
        self.process.stdin.write(f"{batches}\n")
        self.process.stdin.flush()
        seconds = json.loads(self.process.stdout.readline())
        after = settled(self.process.pid)
        images = (batches + STEADY) * BATCH
        user, system, faults = (b - a for a, b in zip(before, after, strict=True))
        self.rows.append(
            ((user + system) * 1e3 / images, system * 1e3 / images, faults / images, batches * BATCH / seconds)
        )


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="")
    parser.add_argument("--arm", default="")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--before", default="")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--arms", default=",".join(ARMS))
    known = parser.parse_args()
    if known.arm:
        work(known.arm, pathlib.Path(known.folder), known.size)
        return 0
    names = [name for name in known.arms.split(",") if name != "before" or known.before]
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(pathlib.Path(folder))
        arms = []
        try:
            for name in names:
                arm = Arm(name, folder, known)
                arms.append(arm)
                if why := arm.refused():
                    print(f"{name}: not measured, {why}")
                    arms.pop().process.kill()
            for _ in range(known.rounds):
                for arm in arms:
                    arm.turn(max(1, known.images // BATCH))
        finally:
            for arm in arms:
                arm.process.kill()
    machine = f"batch {BATCH}, {os.cpu_count()} cores"
    print(f"{known.size} px, two views, {machine}; medians of {known.rounds} rounds (least to most)")
    print("| arm | CPU ms an image | of it system | page faults | images/s |\n|---|---|---|---|---|")
    for arm in arms:
        cpu, system, faults, rate = (sorted(column) for column in zip(*arm.rows, strict=True))
        middle = [statistics.median(column) for column in (cpu, system, faults, rate)]
        print(
            f"| {arm.name} | {middle[0]:.2f} ({cpu[0]:.2f} to {cpu[-1]:.2f}) | {middle[1]:.2f} | {middle[2]:,.0f} |"
            f" {middle[3]:.0f} ({rate[0]:.0f} to {rate[-1]:.0f}) |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
