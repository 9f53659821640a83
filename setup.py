"""Packaging. `tasks/` and `configs/` live at the root and install inside `grownas`."""

from pathlib import Path

from setuptools import Extension, find_packages, setup

FINANCE = ["yfinance>=1.7,<2"]
FILES = ["pyarrow", "openpyxl"]  # of parquet and xlsx
PANELS = ["skfolio>=1.12.2", "river>=0.26.1", "linearmodels>=7.1", "vega-datasets>=0.9"]  # their data files are read
DPD = ["opendpd>=2.4.2"]  # its measurements of power amplifiers are read
TORCHTEXT = ["torchtext==0.6.0"]  # later ones bring a library that fits one version of PyTorch only
DISTRIBUTED = ["distributed>=2026.8"]  # of dask; it brings the dask of its own date
ONNX = ["onnx>=1.23"]  # writes the files of `grownas export`; runtimes read them without it
SKTIME = ["sktime>=1.2"]  # needs pandas below 3.1
TRITON = ["triton>=3.5,<4; platform_system == 'Linux'"]  # PyTorch for CUDA brings it; alone it is for tests
DEV = [
    *DISTRIBUTED,
    "pytest>=9",
    "pytest-xdist",
    "pytest-timeout",
    "hypothesis",
    *ONNX,
    "onnxruntime>=1.32",  # the tests compare exported files with PyTorch
    "river>=0.22",  # the tests compare drift detectors
    "ruff",
    "mypy",
    "pandas-stubs",
    "types-PyYAML",
]

NATIVE = Extension(  # where there is no compiler, the install goes on and PyTorch calls do the work
    "grownas.cells._native",
    ["grownas/cells/native/module.c"],
    depends=[f"grownas/cells/native/{name}.h" for name in ("kernels", "dag_supernet", "gated", "both_types")],
    define_macros=[("Py_LIMITED_API", "0x030B0000")],
    extra_compile_args=["-O3", "-g0"],
    py_limited_api=True,
    optional=True,
)

setup(
    name="grownas",
    version="0.1.0",
    description="Grows recurrent cells by function-preserving morphisms",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_dir={
        "grownas": "grownas",
        "grownas.tasks": "tasks",
        "grownas.configs": "configs",
    },
    packages=[
        *find_packages(include=["grownas", "grownas.*"]),
        "grownas.tasks",
        *(f"grownas.tasks.{name}" for name in find_packages("tasks")),
        "grownas.configs",
    ],
    package_data={
        "grownas": ["py.typed", "report/templates/*", "cells/_native.pyi", "cells/published/*.json"],
        "grownas.configs": ["**/*.yaml"],
        "grownas.tasks.index_returns": ["tables/*.jsonl"],
    },
    ext_modules=[NATIVE],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
    install_requires=[
        "torch>=2.9",
        "numpy>=2.0",
        "pandas>=2.2.3",
        "statsmodels>=0.15",
        "scipy>=1.13",
        "arch>=8.0",
        "pydantic>=2.10,<3",
        "PyYAML>=6.0.1",
        "click>=8.2",
        "rich>=13.8",
        "filelock>=3.13",
        "safetensors>=0.5",
        "pooch>=1.8.2",
        "matplotlib>=3.9",
        "Jinja2>=3.1.5",
    ],
    extras_require={
        "finance": FINANCE,
        "files": FILES,
        "panels": PANELS,
        "dpd": DPD,
        "torchtext": TORCHTEXT,
        "distributed": DISTRIBUTED,
        "onnx": ONNX,
        "sktime": SKTIME,
        "triton": TRITON,
        "dev": DEV,
    },
    entry_points={
        "console_scripts": ["grownas = grownas.cli:main"],
        "grownas.strategies": [
            "growing = grownas.strategies.growing.strategy:Growing",
            "random = grownas.strategies.random_search:RandomSearch",
            "evolution = grownas.strategies.evolution:Evolution",
            "seqnas = grownas.strategies.seqnas:SeqNas",
            "darts = grownas.strategies.darts:Darts",
            "gaea = grownas.strategies.gaea:Gaea",
            "sdarts_rs = grownas.strategies.sdarts:SdartsRandom",
            "sdarts_adv = grownas.strategies.sdarts:SdartsAdversarial",
            "darts_minus = grownas.strategies.darts_minus:DartsMinus",
            "rdarts = grownas.strategies.rdarts:RDarts",
            "pdarts = grownas.strategies.pdarts:PDarts",
            "cdarts = grownas.strategies.cdarts:CDarts",
            "random_shared = grownas.strategies.random_shared:RandomShared",
            "enas = grownas.strategies.enas:Enas",
            "nas_rl = grownas.strategies.nas_rl:NasRl",
        ],
        "grownas.strategies.options": [  # by which a config is read without importing PyTorch
            "growing = grownas.strategies.growing.options:Options",
            "random = grownas.strategies.random_options:Options",
            "random_shared = grownas.strategies.shared_options:RandomSharedOptions",
            "enas = grownas.strategies.policy_options:EnasOptions",
            "nas_rl = grownas.strategies.policy_options:NasRlOptions",
            "evolution = grownas.strategies.evolution_options:Options",
            "darts = grownas.strategies.supernet_options:DartsOptions",
            "gaea = grownas.strategies.supernet_options:GaeaOptions",
            "sdarts_rs = grownas.strategies.supernet_options:SdartsRandomOptions",
            "sdarts_adv = grownas.strategies.supernet_options:SdartsAdversarialOptions",
            "darts_minus = grownas.strategies.supernet_options:DartsMinusOptions",
            "rdarts = grownas.strategies.supernet_options:RDartsOptions",
            "pdarts = grownas.strategies.supernet_options:PDartsOptions",
            "cdarts = grownas.strategies.supernet_options:CDartsOptions",
            "seqnas = grownas.strategies.seqnas_options:Options",
        ],
        "grownas.tasks": [
            "index_returns = grownas.tasks.index_returns.task:IndexReturns",
            "penn_treebank = grownas.tasks.penn_treebank.task:PennTreebank",
            "predistortion = grownas.tasks.predistortion.task:Predistortion",
        ],
        "grownas.tasks.options": [
            "index_returns = grownas.tasks.index_returns.options:Options",
            "penn_treebank = grownas.tasks.penn_treebank.options:Options",
            "predistortion = grownas.tasks.predistortion.options:Options",
        ],
    },
)
