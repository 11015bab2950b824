"""Build of the package: the compiled library, which ctypes loads, and configs/ as package data."""

import sys
from pathlib import Path

from setuptools import Extension, find_namespace_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

NAME = "snvideo.norm.kernels._cpu"
CPP = Path("snvideo/norm/kernels/cpp")
SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")


class BuildLibrary(build_ext):
    """Compile a shared library whose file name has no Python ABI."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + SUFFIX

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return list(ext.export_symbols)  # it has no PyInit function

    def get_libraries(self, ext: Extension) -> list[str]:
        return list(ext.libraries)  # and does not link to Python


class PlatformWheel(bdist_wheel):
    """Tag a wheel with the platform alone, or as pure where nothing could be compiled."""

    def run(self) -> None:
        if not self.skip_build:
            self.run_command("build_ext")
        build = self.get_finalized_command("build_ext")
        self.root_is_pure = not Path(build.get_ext_fullpath(NAME)).exists()
        if self.root_is_pure:
            self.distribution.ext_modules = []
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


setup(
    packages=[*find_namespace_packages(include=["snvideo*"]), "snvideo.configs"],
    package_dir={"snvideo.configs": "configs"},
    # Without a compiler the installation goes on, and plain operations of PyTorch do the work.
    # Not linked to an OpenMP: torch brings its own, whose threads are to be used.
    ext_modules=[
        Extension(
            NAME,
            sources=sorted(str(path) for path in CPP.glob("*.cpp")),
            depends=sorted(str(path) for path in CPP.glob("*.h")),
            language="c++",
            # A square root that may set errno cannot be a vector.
            extra_compile_args=["-O3", "-std=c++17", "-fopenmp", "-fno-math-errno"],
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": PlatformWheel},
)
