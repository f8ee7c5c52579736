"""The trainer as the process that users run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cartpole_bags
import pytest
import yaml
from peer import Peer, Process, running
from std_msgs.msg import String
from std_srvs.srv import Trigger

from wm_ros.contract import announcements
from wm_ros.contract.announcements import ControllerNotice, Progress, Segment
from wm_ros.data.bag_hash import bag_hash
from wm_ros.nodes.base import ERROR, LATCHED_QOS, OK, SEGMENT_QOS
from wm_ros.runtime.controller import ControllerSession
from wm_ros.runtime.signature import TrustedKey, new_key

CONTRACT = cartpole_bags.contract()
TICKS = 80


class Robot(Peer):
    """Announces recorded bags and hears of controllers."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.models: list[ControllerNotice] = []
        self.progress: list[Progress] = []
        self.segments = self.node.create_publisher(String, "log/segment", SEGMENT_QOS)
        self.node.create_subscription(
            String, "model", lambda m: self.models.append(announcements.read(ControllerNotice, m.data, "model")), LATCHED_QOS
        )
        self.node.create_subscription(
            String, "train/progress", lambda m: self.progress.append(announcements.read(Progress, m.data, "train/progress")), 1000
        )

    def announce(self, bag: Path, contract_hash: str = CONTRACT.hash, purpose: str = "train", state: str = "ended") -> None:
        episode = cartpole_bags.state("ended", TICKS).model_copy(update={"purpose": purpose, "state": state})
        segment = Segment(path=str(bag), episode=episode, contract_hash=contract_hash, messages=1, bytes=1)
        self.wait(self.segments.get_subscription_count, "the trainer's subscription")
        self.segments.publish(String(data=segment.to_json()))

    def wait_for_version(self, version: int) -> ControllerNotice:
        self.wait(lambda: self.models and self.models[-1].version >= version, f"controller version {version}")
        return self.models[-1]


def agent(folder: Path, steps: int) -> Path:
    """A small one, whose fit takes so many steps."""
    small = {
        "pets": {
            "ensemble": {"members": 2, "elites": 2, "layers": 1, "width": 8},
            "planner": {"horizon": 2, "candidates": 4, "iterations": 1, "elites": 2, "kept": 1},
        },
        "fit": {"steps": steps, "check_every": 20, "batch": 16, "patience": 10**6},
    }
    path = folder / f"agent_{steps}.yaml"
    path.write_text(yaml.safe_dump(small))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("trainer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def trainer(folder: Path) -> Iterator[tuple[Robot, Process]]:
    robot = Robot("trainer")
    new_key(folder / "key")
    keys = {"signing_key": folder / "key", "bag_folder": folder}
    parameters = {"agent": agent(folder, 40), "run_directory": folder / "run", "threads": 1, "seed": 3, **keys}
    with running("trainer", robot.namespace, folder / "log", **parameters) as process:
        yield robot, process
    robot.close()


def test_a_recorded_bag_becomes_the_next_controller(trainer: tuple[Robot, Process], folder: Path) -> None:
    robot, _ = trainer
    explorer = robot.wait_for_version(0)
    assert explorer.agent == "explore" and explorer.version == 0 and explorer.episodes == 0
    assert (folder / "run" / "models" / "0000" / "controller.onnx.sig").is_file()
    assert ControllerSession.load(explorer.path, CONTRACT, expected_sha256=explorer.sha256).name.startswith("explore:0:")
    bag = cartpole_bags.write_cartpole(folder / "episode_0000", TICKS)
    robot.announce(bag)
    learned = robot.wait_for_version(1)
    assert (learned.agent, learned.version, learned.episodes) == ("pets", 1, 1)
    assert learned.path == str(folder / "run" / "models" / "0001" / "controller.onnx")
    trusted = TrustedKey.load(folder / "key.pub")
    metadata = ControllerSession.load(learned.path, CONTRACT, expected_sha256=learned.sha256, trusted=trusted).metadata
    assert [(b.path, b.sha256) for b in metadata.training_bags] == [(str(bag), bag_hash(bag))] and metadata.seed == 3
    robot.wait(lambda: robot.progress and robot.progress[-1].phase == "ready", "the end of the training")
    phases = list(dict.fromkeys(p.phase for p in robot.progress if p.version == 1))
    assert phases == ["training", "exporting", "ready"] and robot.progress[-1].transitions == TICKS


def test_what_must_not_be_learned_from_is_left_alone(trainer: tuple[Robot, Process], folder: Path) -> None:
    robot, process = trainer
    robot.wait_for_version(0)
    before = len(robot.models)
    other = cartpole_bags.write_cartpole(folder / "other", TICKS)
    robot.announce(other, contract_hash="0" * 64)
    robot.wait(lambda: "other: recorded under another contract (00000000): not learned from" in process.output, "the refusal")
    robot.segments.publish(String(data='{"path": 3}'))
    robot.wait(lambda: "log/segment: path: " in process.output, "the second refusal")
    robot.announce(Path("/etc"))
    robot.wait(lambda: f"log/segment: /etc lies outside {folder}: not opened" in process.output, "the third refusal")
    robot.announce(other, purpose="evaluate")
    robot.announce(other, state="discarded")
    missing = folder / "missing"
    robot.announce(missing)  # messages come in order, so whatever was wrongly queued before would be learned from first
    robot.wait(lambda: any(p.phase == "failed" for p in robot.progress), "the failure of the missing bag")
    robot.fresh_health("trainer", lambda level, text, values: level == ERROR and str(missing) in text, "the failure in the diagnostics")
    assert len(robot.models) == before


def test_a_failed_bag_does_not_end_the_learning(trainer: tuple[Robot, Process], folder: Path) -> None:
    robot, _ = trainer
    version = robot.wait_for_version(0).version
    robot.announce(folder / "missing too")
    robot.announce(cartpole_bags.write_cartpole(folder / "episode_0001", TICKS))
    robot.wait_for_version(version + 1)
    robot.fresh_health("trainer", lambda level, text, values: level == OK and values["version"] == str(version + 1), "recovery")


def test_training_and_the_newest_file_can_be_asked_for(trainer: tuple[Robot, Process]) -> None:
    robot, _ = trainer
    newest = robot.wait_for_version(1)
    assert robot.call(Trigger, "trainer/train").success
    newer = robot.wait_for_version(newest.version + 1)
    assert newer.episodes == newest.episodes
    answer = robot.call(Trigger, "trainer/checkpoint")
    assert answer.success and answer.message == newer.path


def test_the_newest_controller_is_told_to_whoever_asks_later(trainer: tuple[Robot, Process]) -> None:
    robot, _ = trainer
    newest = robot.wait_for_version(1)
    late: list[str] = []
    subscription = robot.node.create_subscription(String, "model", lambda m: late.append(m.data), LATCHED_QOS)
    robot.wait(lambda: late, "the latched notice")
    robot.node.destroy_subscription(subscription)
    assert announcements.read(ControllerNotice, late[0], "model") == newest


def test_a_policy_is_learned_from_announced_bags_and_not_while_training_is_paused(folder: Path) -> None:
    path = folder / "sac.yaml"
    path.write_text(yaml.safe_dump({"sac": {"layers": 1, "width": 8}, "fit": {"batch": 16}}))
    robot = Robot("trainer_sac")
    settings = {"agent": path, "run_directory": folder / "sac", "bag_folder": folder, "train_ratio": 0.5, "warm_up": 20, "paused": True}
    with running("trainer", robot.namespace, folder / "sac.log", **settings):
        robot.fresh_health("trainer", lambda level, text, values: values["paused"] == "True", "the pause")
        robot.announce(cartpole_bags.write_cartpole(folder / "paused", TICKS))
        robot.fresh_health("trainer", lambda level, text, values: values["phase"] == "reading", "the bag to wait")
        assert not [m for m in robot.models if m.agent == "sac"]
        assert all(r.successful for r in robot.set("trainer", paused=False))
        learned = robot.wait_for_version(1)
        assert (learned.agent, learned.episodes) == ("sac", 1) and learned.path.endswith("0001/exploring.onnx")
        robot.wait(lambda: robot.progress[-1].phase == "ready", "the end of the training")
        assert max(p.epochs for p in robot.progress) == (TICKS - 20) // 2
    robot.close()


def test_an_interrupt_during_a_fit_ends_the_trainer_and_leaves_no_half_file(folder: Path) -> None:
    robot = Robot("trainer_interrupted")
    run = folder / "interrupted"
    parameters = {"agent": agent(folder, 10**8), "run_directory": run, "threads": 1, "bag_folder": folder}
    try:
        with running("trainer", robot.namespace, folder / "interrupted.log", **parameters):
            robot.announce(cartpole_bags.write_cartpole(folder / "endless", TICKS))
            robot.wait(lambda: any(p.phase == "training" for p in robot.progress), "the fit")
        # `running` has interrupted it, and has seen it end with status 0 while the fit had days to go
        assert sorted(str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()) == ["models/0000/controller.onnx"]
    finally:
        robot.close()


def test_a_faulty_agent_file_is_said_in_one_line(folder: Path) -> None:
    path = folder / "faulty.yaml"
    path.write_text("pets: {strid: 2}")
    process = Process("trainer", "trainer_faulty", folder / "faulty.log", agent=path, run_directory=folder / "faulty")
    assert process.process.wait(60) == 2
    lines = [line for line in process.output.splitlines() if line.strip()]
    assert len(lines) == 1 and f"{path}: pets.strid: unknown field" in lines[0]
