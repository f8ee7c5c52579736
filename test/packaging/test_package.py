"""What an installation holds, and that every dependency is declared."""

from __future__ import annotations

import ast
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
NODES = {"sim", "logger", "trainer", "mpc", "command_gate", "episode_manager", "visualizer"}

WITHOUT_ROSDEP_KEY = {
    "array-api-compat", "lz4", "mcap", "mujoco", "onnx", "onnxruntime", "onnxscript", "rosbags", "safetensors",
    "tensorboard", "torch", "tyro",
}  # fmt: skip
"""Named in package.xml's comment; pip brings them."""
ROSDEP_NAMES = {
    "numpy": "python3-numpy", "pydantic": "python3-pydantic", "PyYAML": "python3-yaml", "typing_extensions": "python3-typing-extensions",
    "zstandard": "python3-zstandard", "scipy": "python3-scipy", "rich": "python3-rich", "matplotlib": "python3-matplotlib",
    "pillow": "python3-pil",
}  # fmt: skip


def copy_of_the_package(folder: Path) -> Path:
    """The sources as a checkout has them, without what is not part of the package."""
    for name in ("setup.py", "setup.cfg", "package.xml", "pyproject.toml", "constraints.txt", "Makefile", "README.md"):
        if (ROOT / name).exists():
            shutil.copy2(ROOT / name, folder / name)
    for name in ("src", "launch", "config", "sim", "resource", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = copy_of_the_package(tmp_path_factory.mktemp("source"))
    code = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, timeout=120)
    (file,) = (folder / "dist").glob("*.whl")
    return zipfile.ZipFile(file)


def data(wheel: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Files that go to the installation's prefix."""
    return {info.filename.partition(".data/data/")[2]: info for info in wheel.infolist() if ".data/data/" in info.filename}


def test_all_nodes_are_executables_in_lib(wheel: zipfile.ZipFile) -> None:
    files = data(wheel)
    found = {name.removeprefix("lib/wm_ros/") for name in files if name.startswith("lib/wm_ros/")}
    assert found >= NODES
    assert all(files[f"lib/wm_ros/{name}"].external_attr >> 16 & stat.S_IXUSR for name in found)


def test_every_executable_starts_a_node_of_its_name() -> None:
    for script in (ROOT / "scripts").iterdir():
        assert f"from wm_ros.nodes.{script.name} import main" in script.read_text()
        assert (ROOT / "src" / "wm_ros" / "nodes" / f"{script.name}.py").is_file(), script.name


def test_share_has_launch_files_configuration_robots_and_the_resource_marker(wheel: zipfile.ZipFile) -> None:
    expected = {"share/ament_index/resource_index/packages/wm_ros", "share/wm_ros/package.xml"}
    expected |= {f"share/wm_ros/launch/{kind}.launch.py" for kind in ("sim", "robot", "train", "replay")}
    expected |= {"share/wm_ros/config/nodes.yaml", "share/wm_ros/config/wm_ros.rviz", "share/wm_ros/config/contracts/cartpole_swingup.yaml"}
    for folder, endings in (("config", (".yaml", ".rviz")), ("sim", (".xml",)), ("launch", (".py",))):
        expected |= {f"share/wm_ros/{p.relative_to(ROOT)}" for p in (ROOT / folder).rglob("*") if p.suffix in endings and p.is_file()}
    assert expected <= set(data(wheel))


def test_pip_puts_only_wm_ros_into_bin(wheel: zipfile.ZipFile) -> None:
    (name,) = (n for n in wheel.namelist() if n.endswith("entry_points.txt"))
    scripts = re.findall(r"^([\w-]+) *=", wheel.read(name).decode(), re.MULTILINE)
    assert scripts == ["wm-ros"]


def test_package_xml_is_an_ament_python_package_that_colcon_does_not_mistake_for_plain_python() -> None:
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    assert package.get("format") == "3" and package.findtext("export/build_type") == "ament_python"
    # catkin_pkg refuses other addresses, and colcon then silently takes the package for plain Python.
    maintainer = package.find("maintainer")
    assert maintainer is not None and re.fullmatch(r"[\w.-]+@[\w.-]+\.\w+", maintainer.get("email", ""))
    setup = (ROOT / "setup.py").read_text()
    assert f'version="{package.findtext("version")}"' in setup and f'"{maintainer.get("email")}"' in setup


def declared() -> set[str]:
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    return {e.text or "" for e in package if e.tag.endswith("depend")}


def imported() -> set[str]:
    """Top-level packages that our modules import, wherever the import stands; a benchmark's peers are for who measures to install."""
    found: set[str] = set()
    sources = [f for f in (ROOT / "src").rglob("*.py") if f.parent.name != "benchmarks"]
    for file in [*sources, *(ROOT / "launch").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found


def test_every_ros_package_that_is_imported_is_declared() -> None:
    ros = {name for name in imported() if name.endswith(("_msgs", "_srvs", "_interfaces")) or name in ("rclpy", "launch", "launch_ros")}
    assert ros and ros <= declared()


def setup_requirements() -> dict[str, list[str]]:
    """Requirements of setup.py: '' for all installations, else by extra."""
    code = (
        "import json, setuptools, sys; seen = {}; setuptools.setup = lambda **k: seen.update(k); exec(open('setup.py').read()); "
        "print(json.dumps({'': seen['install_requires'], **seen['extras_require']}))"
    )
    import json

    return json.loads(subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def test_every_python_dependency_is_in_package_xml_or_named_there_as_pip_only() -> None:
    groups = setup_requirements()
    text = (ROOT / "package.xml").read_text()
    for requirement in [*groups[""], *groups["train"], *groups["cpu"]]:
        name = Requirement(requirement).name
        if name in WITHOUT_ROSDEP_KEY:
            assert re.search(rf"\b{re.escape(name)}\b", text), name
        else:
            assert ROSDEP_NAMES[name] in declared(), name


def test_every_third_party_package_that_is_imported_is_required_by_setup() -> None:
    modules = {"yaml": "PyYAML", "PIL": "pillow", "rosbags": "rosbags"}
    groups = setup_requirements()
    required = {canonicalize_name(Requirement(r).name) for group in groups.values() for r in group}
    ours = {
        name
        for name in imported()
        if name not in sys.stdlib_module_names and name != "wm_ros" and name not in declared() and not name.endswith(("_msgs", "_srvs"))
    }
    missing = {name for name in ours if canonicalize_name(modules.get(name, name)) not in required}
    assert not missing


def pins() -> dict[str, list[Requirement]]:
    found: dict[str, list[Requirement]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def test_everything_that_setup_installs_is_pinned_to_one_version_for_every_python() -> None:
    pinned = pins()
    wanted = {canonicalize_name(Requirement(r).name) for group in setup_requirements().values() for r in group}
    assert wanted <= set(pinned)
    for name, requirements in pinned.items():
        assert all(str(r.specifier).startswith("==") and "*" not in str(r.specifier) for r in requirements), name
        for version in ("3.10", "3.11", "3.12", "3.13"):
            environment = {"python_version": version}
            holding = [r for r in requirements if r.marker is None or Marker(str(r.marker)).evaluate(environment)]
            assert len(holding) <= 1, f"{name} on Python {version}"


def test_what_is_installed_here_is_what_is_pinned() -> None:
    from importlib import metadata

    for name, requirements in pins().items():
        (requirement,) = [r for r in requirements if r.marker is None or r.marker.evaluate()] or [None]
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        assert requirement is not None and requirement.specifier.contains(installed.partition("+")[0]), f"{name} {installed}"


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("ROS_DISTRO", "MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env={**clean, **environment}, capture_output=True, text=True, timeout=120, check=False
    )


def test_make_demo_takes_a_seed() -> None:
    assert "wm-ros demo --seed 3" in make(ROOT, "-n", "demo", "SEED=3").stdout


def test_an_old_python_is_refused_with_the_remedy(tmp_path: Path) -> None:
    copy_of_the_package(tmp_path)
    old = tmp_path / "python3.9"
    old.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'import sys; sys.version_info = (3, 9, 1); exec(sys.argv[1])' \"$2\"\n")
    old.chmod(0o755)
    result = make(tmp_path, "setup", f"PYTHON={old}")
    assert result.returncode != 0 and "needs Python 3.10 or newer" in result.stderr and "make setup PYTHON=" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_nothing_is_installed_the_second_time(tmp_path: Path) -> None:
    copy_of_the_package(tmp_path)
    (tmp_path / ".venv").mkdir()
    stamp = tmp_path / ".venv" / ".setup-stamp-wheels"
    stamp.touch()
    assert "up to date" in make(tmp_path, "-q", "setup").stdout or make(tmp_path, "-q", "setup").returncode == 0
    os.utime(tmp_path / "constraints.txt", (stamp.stat().st_mtime + 10,) * 2)
    assert make(tmp_path, "-q", "setup").returncode == 1


def test_a_sourced_ros_that_this_python_cannot_import_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    copy_of_the_package(tmp_path)
    blind = tmp_path / "python3"
    blind.write_text(f'#!/bin/sh\ncase "$2" in *rclpy*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    blind.chmod(0o755)
    result = make(tmp_path, "setup", f"PYTHON={blind}", ROS_DISTRO="humble")
    assert result.returncode != 0 and "humble" in result.stderr and "PYTHON=" in result.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.skipif(shutil.which("colcon") is None, reason="colcon is not installed here")
def test_colcon_sees_an_ament_python_package(tmp_path: Path) -> None:
    (tmp_path / "src" / "wm_ros").mkdir(parents=True)
    copy_of_the_package(tmp_path / "src" / "wm_ros")
    listed = subprocess.run(["colcon", "list"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120).stdout
    assert "(ros.ament_python)" in listed
    subprocess.run(["colcon", "build"], cwd=tmp_path, capture_output=True, check=True, timeout=240)
    installed = tmp_path / "install" / "wm_ros" / "lib" / "wm_ros"
    assert {*NODES, "wm-ros"} <= {p.name for p in installed.iterdir()}
