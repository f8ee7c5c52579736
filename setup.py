"""Builds wm_ros for pip and, as an ament_python package, for colcon."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "wm_ros"


def data_files(folder: str, *patterns: str) -> list[tuple[str, list[str]]]:
    """The files of `folder` that match, each with the share directory it goes to."""
    found = sorted({p for pattern in patterns for p in Path(folder).rglob(pattern) if p.is_file()})
    return [(f"share/{PACKAGE}/{p.parent}", [str(p)]) for p in found]


setup(
    name=PACKAGE,
    version="0.1.0",
    description="Learned world models that control robots under ROS 2",
    author="wm_ros maintainers",
    maintainer="wm_ros maintainers",
    maintainer_email="maintainers@wm-ros.example.org",
    license="Apache-2.0",
    package_dir={"": "src"},
    packages=find_packages("src"),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/wm_ros"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        *data_files("launch", "*.launch.py"),
        *data_files("config", "*.yaml", "*.rviz"),
        *data_files("sim", "*.xml", "*.png", "*.stl", "*.obj"),
    ],
    zip_safe=False,
    python_requires=">=3.10",
)
