"""Package metadata: ranges of what is needed, and the nesting that keeps generic names out of site-packages.

In a checkout the stages are folders of their own (`python -m reward`); a wheel carries them inside the one package
`llamatrain` (`python -m llamatrain.reward`), since names such as `reward` or `configs` belong to other distributions.
`constraints.txt` pins the versions that were tested.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
NESTED = ("pretrain", "sft", "reward", "rlhf", "evaluation", "toyworld", "launch")


def packages() -> list[str]:
    """Return the installed names of every package; `configs` holds only data."""
    nested = find_packages(include=[pattern for name in NESTED for pattern in (name, f"{name}.*")])
    library = find_packages(include=["llamatrain", "llamatrain.*"])
    return [*library, *(f"llamatrain.{name}" for name in nested), "llamatrain.configs"]


def version() -> str:
    """Return `__version__` of the package, without importing it."""
    return re.findall(r'^__version__ = "(.+)"', (HERE / "llamatrain" / "__init__.py").read_text(), re.M)[0]


setup(
    name="llamatrain",
    version=version(),
    description="Train a Llama-2-style chat model, from raw text through SFT, reward models and RLHF to its evaluation",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11",
    packages=packages(),
    package_dir={f"llamatrain.{name}": name for name in (*NESTED, "configs")},
    package_data={
        "llamatrain.configs": ["**/*.yaml"],
        "llamatrain.evaluation": [
            "benchmarks/suites/*/*.yaml",
            "benchmarks/tasks/*",
            "people/templates/*",
            "people/static/*",
            "people/guidelines/*",
            "probes/*.jsonl",
            "card/templates/*",
        ],
        "llamatrain.pages": ["templates/*"],
        "llamatrain.launch": ["report/templates/*", "slurm/templates/*"],
        "llamatrain.sft": ["templates/*", "*.yaml"],
    },
    include_package_data=False,
    install_requires=[
        "torch>=2.13,<3",
        "deepspeed>=0.19.8,<0.20",
        "datasets>=5,<6",
        "huggingface_hub>=1,<3",
        "sentencepiece>=0.2,<0.3",
        "tokenizers>=0.22,<1",
        "wandb>=0.31,<1",
        "hydra-core>=1.3.2,<1.4",
        "omegaconf>=2.3,<2.4",
        "PyYAML>=6,<7",
        "safetensors>=0.8,<1",
        "numpy>=2,<3",
        "rich>=15,<16",
        "jinja2>=3.1.6,<4",
        "ftfy>=6.3,<7",
        "pyarrow>=21,<27",
        "rensa>=0.5,<0.6",
        "zstandard>=0.23,<1",
        "python-stdnum>=2.2,<3",
    ],
    extras_require={
        "benchmark": ["lm_eval>=0.4.13,<0.4.14"],
        "language": ["py3langid>=0.4,<0.5"],
        "people": ["fastapi>=0.115,<1", "uvicorn>=0.30,<1", "python-multipart>=0.0.9,<0.1"],
        "safety": ["vaderSentiment>=3.3.2,<4", "transformers>=5,<6"],
        "power": ["nvidia-ml-py>=12.535,<14"],
        "test": [
            "py3langid>=0.4,<0.5",
            "fastapi>=0.115,<1",
            "uvicorn>=0.30,<1",
            "python-multipart>=0.0.9,<0.1",
            "httpx>=0.28,<1",
            "pytest>=9,<10",
            "pytest-timeout>=2.4,<3",
            "pytest-xdist>=3.8,<4",
            "coverage>=7.10,<8",
            "accelerate>=1,<2",  # of the harness's own `hf` model, which ours is compared with
            "lm_eval>=0.4.13,<0.4.14",
            "transformers>=5,<6",
            "vaderSentiment>=3.3.2,<4",
            "ruff>=0.17,<0.18",
            "mypy>=2,<3",
            "import-linter>=2.16,<3",
            "types-PyYAML",
        ],
    },
    entry_points={"console_scripts": ["llamatrain = llamatrain.launch.cli:main"]},
)
