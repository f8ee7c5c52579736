"""Builds wm_ros for pip and, as an ament_python package, for colcon."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "wm_ros"


def data_files(folder: str, *patterns: str) -> list[tuple[str, list[str]]]:
    """The files of `folder` that match, each with the share directory it goes to."""
    found = sorted({p for pattern in patterns for p in Path(folder).rglob(pattern) if p.is_file()})
    return [(f"share/{PACKAGE}/{p.parent}", [str(p)]) for p in found]


# The nodes' executables are plain files for lib/wm_ros, where `ros2 run` and launch files look for them. As console scripts pip would put
# them into bin, and `logger` would hide the system's.
EXECUTABLES = sorted(str(p) for p in Path("scripts").iterdir() if p.is_file())

RUNTIME = ["numpy", "pydantic>=2.5", "PyYAML", "array-api-compat", "typing_extensions", "pillow>=9.1"]
ROBOT = ["mcap", "zstandard", "lz4", "rosbags"]
SIMULATION = ["mujoco>=3.2,<4"]
TRAINING = ["torch>=2.6", "onnx", "onnxscript", "scipy", "safetensors", "tensorboard"]
ENVIRONMENTS = ["dm_control", "gymnasium", "imageio"]  # the last is what gymnasium's MuJoCo tasks import
VIEW = ["rich", "tyro", "matplotlib"]

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
        (f"lib/{PACKAGE}", EXECUTABLES),
        *data_files("launch", "*.launch.py"),
        *data_files("config", "*.yaml", "*.rviz", "*.xml"),
        *data_files("sim", "*.xml", "*.png", "*.stl", "*.obj"),
    ],
    entry_points={"console_scripts": ["wm-ros = wm_ros.cli.main:main"]},
    install_requires=[*RUNTIME, *ROBOT, *SIMULATION, *VIEW],
    extras_require={
        "train": TRAINING,
        "cpu": ["onnxruntime"],
        "gpu": ["onnxruntime-gpu"],
        # ROS 2 Kilted as wheels, for machines without a ROS 2 installation.
        "ros": ["ros-rclpy[fastrtps]", "ros-kilted-common-interfaces", "ros-lifecycle-msgs", "ros-rosgraph-msgs"],
        # Signed controllers: `wm-ros key`, `wm-ros sign`, parameters signing_key and trusted_key.
        "signing": ["cryptography"],
        # For `wm-ros bag convert --format parquet`.
        "parquet": ["pyarrow"],
        # A second engine for controllers: mpc's parameter `engine`.
        "openvino": ["openvino"],
        # Tasks of other packages: `wm-ros train --sim --env dm_control/walker_walk` or `gymnasium/Hopper-v5`.
        "envs": ENVIRONMENTS,
        "test": [*ENVIRONMENTS, "pytest", "pytest-timeout", "hypothesis", "array_api_strict", "psutil", "openvino"],
        "lint": ["ruff", "mypy", "import-linter", "types-PyYAML"],
    },
    zip_safe=False,
    python_requires=">=3.10",
)
