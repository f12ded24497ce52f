"""Thin: everything is in pyproject.toml, except that a build takes data_manifest.yaml along into the package."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent


class BuildWithManifest(build_py):
    """Copy the one data manifest of the checkout beside the modules, where an installed package finds it."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # an editable install reads the checkout's own file
            target = Path(self.build_lib) / "featattn_neuro"
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(HERE / "data_manifest.yaml", target / "data_manifest.yaml")


setup(cmdclass={"build_py": BuildWithManifest})
