"""All nodes of the running system together, as processes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_controller
import yaml

from wm_ros.bringup.monitored import MonitoredSystem, SystemFailure
from wm_ros.bringup.system import SystemOptions, describe
from wm_ros.cli.record import Record
from wm_ros.contract import resources, schema
from wm_ros.data.align import read_episodes
from wm_ros.sim.episode import run_episode
from wm_ros.sim.simulator import Simulator

pytestmark = pytest.mark.usefixtures("domain")


def run(options: SystemOptions, logs: Path) -> tuple[Record, list[dict[str, Any]]]:
    """Runs evaluation episodes to their end and gives what was reported."""
    record, events = Record("evaluate", options.evaluate), []
    with MonitoredSystem(describe(options), logs, patience_s=60.0) as system:
        for event in system.events(record.awaited):
            events.append(event)
            record.take(event)
            if record.episodes_done:
                break
    return record, events


def test_an_episode_in_lockstep_ends_as_a_bag_that_holds_it_exactly(tmp_path: Path, short_task: Path, controller: Path) -> None:
    options = SystemOptions(
        contract=str(short_task),
        controller=str(controller),
        mode="lockstep",
        evaluate=2,
        first_episode=4,
        seed=3,
        run_directory=str(tmp_path),
    )
    record, events = run(options, tmp_path / "logs")
    contract = schema.load(short_task)
    assert record.ticks == 2 * contract.episode_ticks
    assert [Path(bag).name for bag in record.bags] == ["episode_0004", "episode_0005"]
    for bag, total in zip(record.bags, record.returns, strict=True):
        (episode,) = read_episodes(Path(bag), contract)
        assert len(episode) == contract.episode_ticks and episode.truncated and not episode.terminated.any()
        assert (episode.action == 1.5).all()
        assert episode.reward.sum() == pytest.approx(total, rel=1e-5)
        assert episode.provenance.seed == 3
    served = [e["data"] for e in events if e["event"] == "controller"]
    assert served[-1]["sha256"] == hashlib.sha256(controller.read_bytes()).hexdigest()


def test_a_robot_of_six_motors_runs_in_lockstep_too(tmp_path: Path) -> None:
    data = yaml.safe_load((resources.share_directory() / "config/contracts/cheetah_run.yaml").read_text())
    data["episode"]["duration_s"] = 1.0
    task = tmp_path / "cheetah.yaml"
    task.write_text(yaml.safe_dump(data))
    contract = schema.load(task)
    controller = tiny_controller.constant(tmp_path / "tiny.onnx", 1.5, for_contract=contract)
    options = SystemOptions(contract=str(task), controller=str(controller), mode="lockstep", evaluate=1, run_directory=str(tmp_path))
    record, _ = run(options, tmp_path / "logs")
    (episode,) = read_episodes(Path(record.bags[0]), contract)
    expected = run_episode(Simulator(contract), lambda observation: np.full(6, 1.5, np.float32), resets=1)
    assert episode.observation.tobytes() == expected.observation.tobytes()
    assert episode.reward.sum() == pytest.approx(float(expected.reward.sum()), rel=1e-5)


def test_the_same_seed_gives_the_same_episode_again_in_lockstep(tmp_path: Path, short_task: Path, controller: Path) -> None:
    episodes = []
    for name in ("one", "two"):
        options = SystemOptions(
            contract=str(short_task), controller=str(controller), mode="lockstep", evaluate=1, seed=11, run_directory=str(tmp_path / name)
        )
        record, _ = run(options, tmp_path / name / "logs")
        (episode,) = read_episodes(Path(record.bags[0]), schema.load(short_task))
        episodes.append(episode)
    one, two = episodes
    assert one.observation.tobytes() == two.observation.tobytes() and one.action.tobytes() == two.action.tobytes()
    assert (one.stamp == two.stamp).all()


def test_a_namespace_holds_the_whole_system(tmp_path: Path, short_task: Path, controller: Path) -> None:
    options = SystemOptions(
        namespace="cell_1", contract=str(short_task), controller=str(controller), mode="lockstep", evaluate=1, run_directory=str(tmp_path)
    )
    record, _ = run(options, tmp_path / "logs")
    assert record.ticks == 50 and len(record.bags) == 1


def test_an_episode_in_real_time_is_driven_tick_by_tick(tmp_path: Path, short_task: Path, controller: Path) -> None:
    options = SystemOptions(contract=str(short_task), controller=str(controller), evaluate=1, run_directory=str(tmp_path))
    record, _ = run(options, tmp_path / "logs")
    assert record.ticks == schema.load(short_task).episode_ticks and record.running["outcome"] == "truncated"


def test_a_corrupt_controller_ends_the_system_with_its_name(tmp_path: Path, short_task: Path) -> None:
    corrupt = tmp_path / "corrupt.onnx"
    corrupt.write_bytes(b"no controller at all")
    options = SystemOptions(contract=str(short_task), controller=str(corrupt), mode="lockstep", evaluate=1, run_directory=str(tmp_path))
    with pytest.raises(SystemFailure) as failure:
        run(options, tmp_path / "logs")
    text = str(failure.value)
    assert "mpc ended with status 2" in text and str(corrupt) in text and "Traceback" not in text


def test_a_system_that_waits_in_vain_says_for_what(tmp_path: Path, short_task: Path) -> None:
    options = SystemOptions(contract=str(short_task), mode="lockstep", evaluate=1, run_directory=str(tmp_path))
    record = Record("evaluate", 1)
    waits = pytest.raises(SystemFailure, match=r"waiting for a controller: mpc has announced none on mpc/controller")
    with waits, MonitoredSystem(describe(options), tmp_path / "logs", patience_s=3.0) as system:
        for event in system.events(record.awaited):
            record.take(event)
