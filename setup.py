"""Package map and the one native extension; everything else about the project stands in pyproject.toml.

FASTDARTS_BUILD_EXT = auto (default): build the extension if a C++ compiler is found, else a pure Python
package; 0: never; 1: fail where it cannot be built.
CUDA_HOME = the folder of a CUDA toolkit: the extension has CUDA kernels too; unset or empty (default): it has none.
Whether there is a GPU does not matter, and the extension loads with a torch for CPUs as well.
FASTDARTS_CUDA_ARCHITECTURES = the GPUs that the CUDA kernels are for, such as 80,90, or `native` for the one at hand:
these and no others, which builds several times faster; unset or empty (default): all of ARCHITECTURES, and later ones.
MAX_JOBS = files that are compiled at once; by default as many as there are processors.
"""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent
ARCHITECTURES = (80, 90, 100)  # A100 and what else is 8.x, H100, B200; PTX for what comes later
MINUTES = 4  # that one processor of 2023 compiles what is for CPUs
PACKAGES = {
    "fastdarts": "fastdarts",
    "fastdarts.bench": "fastdarts/bench",
    "fastdarts.cli": "fastdarts/cli",
    "fastdarts.compare": "fastdarts/compare",
    "fastdarts.engine": "fastdarts/engine",
    "fastdarts.forks": "fastdarts/forks",
    "fastdarts.nn": "fastdarts/nn",
    "fastdarts.nn.fusion": "fastdarts/nn/fusion",
    "fastdarts.report": "fastdarts/report",
    "fastdarts.rnn": "fastdarts/rnn",
    "fastdarts.runs": "fastdarts/runs",
    "fastdarts.spaces": "fastdarts/spaces",
    "fastdarts.spaces.cells": "fastdarts/spaces/cells",
    "fastdarts.spaces.chain": "fastdarts/spaces/chain",
    "fastdarts.spaces.dense": "fastdarts/spaces/dense",
    "fastdarts.spaces.recurrent": "fastdarts/spaces/recurrent",
    "fastdarts.study": "fastdarts/study",
    "fastdarts.methods": "fastdarts/methods",
    "fastdarts.policies": "fastdarts/policies",
    "fastdarts.policies.searchers": "fastdarts/policies/searchers",
    "fastdarts.tasks": "fastdarts/tasks",
    "fastdarts.tasks.dense": "fastdarts/tasks/dense",
    "fastdarts.tasks.images": "fastdarts/tasks/images",
    "fastdarts.tasks.language": "fastdarts/tasks/language",
    "fastdarts.tasks.pretext": "fastdarts/tasks/pretext",
    "fastdarts.tasks.targets": "fastdarts/tasks/targets",
    "fastdarts.testing": "fastdarts/testing",
    "fastdarts.trained": "fastdarts/trained",
    "fastdarts.functional": "fastdarts/functional",
    "fastdarts.kernels": "kernels",  # a top-level `kernels` would clash with another project's package
    "fastdarts.kernels.flat": "kernels/flat",
    "fastdarts.kernels.interleave": "kernels/interleave",
    "fastdarts.kernels.mixed_op": "kernels/mixed_op",
    "fastdarts.kernels.mixed_op.triton": "kernels/mixed_op/triton",
    "fastdarts.kernels.mixed_sum": "kernels/mixed_sum",
    "fastdarts.kernels.recurrent": "kernels/recurrent",
}


def wants_extension() -> bool:
    """Reads FASTDARTS_BUILD_EXT and looks for a compiler."""
    choice = os.environ.get("FASTDARTS_BUILD_EXT", "auto")
    if choice not in ("auto", "0", "1"):
        raise SystemExit(f"FASTDARTS_BUILD_EXT is {choice!r}; set it to auto, 0 or 1.")
    if choice == "0":
        return False
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler):
        return True
    if choice == "1":
        raise SystemExit(f"FASTDARTS_BUILD_EXT=1, but the C++ compiler {compiler!r} is not on PATH: install it.")
    without = " without the CUDA kernels that CUDA_HOME asks for" if os.environ.get("CUDA_HOME") else ""
    print(f"fastdarts: no C++ compiler {compiler!r} on PATH; building the pure Python package{without} (slower).")
    return False


class Toolkit:
    """The CUDA toolkit at CUDA_HOME. It is driven here, as torch's own builder takes none but that of its own release.

    The kernels see no header of torch, so that any release fits that knows the architectures.
    """

    def __init__(self, home: Path):
        self.home, self.nvcc = home, home / "bin" / "nvcc"
        if not os.access(self.nvcc, os.X_OK):
            raise SystemExit(
                f"CUDA_HOME is {str(home)!r}, which has no bin/nvcc: set it to the folder of a CUDA toolkit, or unset "
                "it to go without CUDA kernels."
            )
        runtimes = [home / lib / "libcudart_static.a" for lib in ("lib64", "lib", "targets/x86_64-linux/lib")]
        self.runtime = next(filter(Path.exists, runtimes), None)
        if self.runtime is None:
            raise SystemExit(
                f"CUDA_HOME is {str(home)!r}, which has no lib64/libcudart_static.a: install the toolkit's runtime "
                "(cuda-cudart-dev), or unset CUDA_HOME to go without CUDA kernels."
            )
        try:
            known = subprocess.check_output([self.nvcc, "--list-gpu-code"], text=True).split()
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(
                f"CUDA_HOME is {str(home)!r}, whose nvcc does not run ({error}): mend the toolkit, or unset CUDA_HOME "
                "to go without CUDA kernels."
            ) from error
        self.chosen = os.environ.get("FASTDARTS_CUDA_ARCHITECTURES", "")
        wanted = chosen_architectures(self.chosen) if self.chosen else ARCHITECTURES
        self.architectures = [a for a in wanted if f"sm_{a}" in known]
        if not self.architectures or (self.chosen and len(self.architectures) < len(wanted)):
            raise SystemExit(
                f"{self.nvcc} does not know {' and '.join(f'sm_{a}' for a in wanted if f'sm_{a}' not in known)}: take "
                "a newer toolkit, or unset CUDA_HOME to go without CUDA kernels."
            )

    def compile(self, source: str, target: Path) -> None:
        """One .cu file for all architectures."""
        generate = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in self.architectures]
        if not self.chosen:
            newest = self.architectures[-1]
            generate += [f"-gencode=arch=compute_{newest},code=compute_{newest}"]
        flags = [
            "-std=c++20",
            "-O3",
            "-Werror=all-warnings",
            "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall",
            "--threads=0",
        ]
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [self.nvcc, *flags, *generate, f"-I{ROOT / 'csrc'}", "-c", source, "-o", target]
        print(*command)
        if subprocess.call(command):
            raise SystemExit(
                f"nvcc failed on {source}: mend what it reports above, or unset CUDA_HOME to go without CUDA kernels."
            )


def chosen_architectures(text: str) -> list[int]:
    """The numbers in FASTDARTS_CUDA_ARCHITECTURES, or that of the GPU at hand."""
    if text == "native":
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("FASTDARTS_CUDA_ARCHITECTURES is native, but torch sees no GPU: name a number such as 90.")
        major, minor = torch.cuda.get_device_capability()
        return [10 * major + minor]
    numbers = text.split(",")
    if not all(number.isdecimal() for number in numbers):
        raise SystemExit(f"FASTDARTS_CUDA_ARCHITECTURES is {text!r}; set it to numbers such as 80,90, or to native.")
    return sorted({int(number) for number in numbers})


def extension_arguments() -> dict:
    """The extension and its builder; torch can be imported by now (under isolation by setup_requires)."""
    from torch.utils.cpp_extension import BuildExtension as TorchBuild
    from torch.utils.cpp_extension import include_paths, library_paths

    home = os.environ.get("CUDA_HOME", "")
    toolkit = Toolkit(Path(home)) if home else None

    class BuildExtension(TorchBuild):
        def build_extensions(self) -> None:
            jobs = int(os.environ.get("MAX_JOBS", 0)) or os.cpu_count()
            minutes = max(1, round(MINUTES / jobs))
            longer = ", for the GPU longer" if toolkit else ""
            print(f"fastdarts: compiling native kernels, {jobs} files at once: about {minutes} min{longer}.")
            sys.stdout.flush()
            for old in (ROOT / "fastdarts", Path(self.build_lib, "fastdarts")):
                for stale in old.glob("_C.cpython-*.so"):  # of before the stable ABI: Python would prefer it
                    stale.unlink()
            targets = [Path(self.build_temp, source).with_suffix(".cu.o") for source in cuda_sources]
            with ThreadPoolExecutor(jobs) as pool:
                list(pool.map(toolkit.compile, cuda_sources, targets) if toolkit else ())
            extension.extra_objects += map(str, targets)
            try:
                super().build_extensions()
            except Exception as error:
                raise SystemExit(
                    f"The C++ compiler failed on fastdarts._C ({error}): mend what it reports above, "
                    "or set FASTDARTS_BUILD_EXT=0 to go without the native kernels."
                ) from error

    lines = (ROOT / "csrc" / "sources.txt").read_text(encoding="utf-8").splitlines()
    files = [f"csrc/{line}" for line in map(str.strip, lines) if line and line[0] != "#"]
    sources = [file for file in files if file.endswith(".cpp") and (toolkit or not file.startswith("csrc/cuda/"))]
    cuda_sources = [file for file in files if file.endswith(".cu") and toolkit]
    extension = Extension(
        "fastdarts._C",
        sources=sources,
        depends=["csrc/sources.txt", *cuda_sources, *map(str, Path("csrc").rglob("*.h"))],
        include_dirs=[str(ROOT / "csrc"), *include_paths()],
        library_dirs=library_paths(),
        libraries=["c10", "torch_cpu"],
        extra_compile_args=[
            "-std=c++20",
            "-O3",
            "-fopenmp-simd",
            "-fno-math-errno",
            "-Wno-psabi",
            "-fvisibility=hidden",
            "-g0",
        ],
        language="c++",
        py_limited_api=True,  # csrc/module.cpp keeps to it: one build for Python 3.11 and later
    )
    if toolkit:
        extension.define_macros.append(("FASTDARTS_CUDA", ",".join(map(str, toolkit.architectures))))
        extension.include_dirs.append(str(toolkit.home / "include"))
        extension.extra_link_args += [str(toolkit.runtime), "-Wl,--exclude-libs,libcudart_static.a", "-ldl", "-lrt"]
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": BuildExtension},
        "options": {"bdist_wheel": {"py_limited_api": "cp311"}},
    }


arguments = {}
if wants_extension():
    if find_spec("torch"):
        arguments = extension_arguments()
    elif "egg_info" in sys.argv:  # the build front end asks what the isolated build environment should hold
        arguments = {"setup_requires": ["torch>=2.11", "ninja"]}
    elif os.environ.get("FASTDARTS_BUILD_EXT") == "1" and "dist_info" not in sys.argv:
        raise SystemExit("FASTDARTS_BUILD_EXT=1, but torch cannot be imported here: install torch>=2.11 first.")
    else:
        print("fastdarts: torch cannot be imported here; building the pure Python package (slower).")

setup(
    packages=list(PACKAGES),
    package_dir=PACKAGES,
    package_data={"fastdarts.bench": ["instructions.json"]},
    **arguments,
)
