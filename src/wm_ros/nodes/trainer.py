"""Node `trainer`: recorded bags in, better controllers out, beside the running robot."""

from __future__ import annotations

import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any

from std_msgs.msg import String
from std_srvs.srv import Trigger

from wm_ros.contract import announcements
from wm_ros.contract.announcements import ControllerNotice, Progress, Segment
from wm_ros.contract.errors import UserError
from wm_ros.nodes.base import ERROR, LATCHED_QOS, OK, SEGMENT_QOS, Param, WmNode, run
from wm_ros.runtime.agent_kind import kind_of
from wm_ros.runtime.confinement import inside
from wm_ros.runtime.signature import SigningKey

_TRAIN, _STOP = "train", "stop"
_THREAD = "training"
PAUSE_S = 0.2
"""Between two looks at whether a pause is over."""
PATIENCE_S = 8.0
"""How long a stop waits for the training thread; longer only while a graph is exported for the first time."""


class _Stopped(Exception):
    """The node was told to stop in the middle of its work."""


class Trainer(WmNode):
    """Learns from every training bag that `log/segment` announces; training runs in a thread of its own."""

    parameters = {
        "agent": Param("pets", "Agent configuration, pets, sac, mbpo or dreamer: a YAML file, or the name of one in config/agents"),
        "run_directory": Param("runs/up", "Folder of the run; controllers go to models/NNNN/ below it"),
        "bag_folder": Param("", "Only bags below this folder are read when `log/segment` announces them; empty: bags below run_directory"),
        "signing_key": Param("", "Private key (`wm-ros key new`) that signs every controller; empty: they are not signed"),
        "threads": Param(1, "Threads for training; 0 takes every core", low=0, high=256),
        "train_ratio": Param(0.0, "Policies: updates for each recorded tick; 0: as the agent's fit says", low=0.0, high=1000.0),
        "warm_up": Param(0, "Policies: random ticks before the first update; 0: the agent's fit.warm_up", low=0, high=100_000_000),
        "paused": Param(False, "Training stands still; bags are kept for later, controllers go on serving", live=True),
    }

    def __init__(self) -> None:
        super().__init__("trainer")
        self._work: queue.Queue[Segment | str] = queue.Queue()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._learner: Any = None
        self._last = Progress(phase="waiting", version=-1)
        self._fault = ""
        self._seen: set[Path] = set()

    def configure(self) -> None:
        import torch

        torch.set_num_threads(self.param("threads") or os.cpu_count() or 1)
        run = Path(self.param("run_directory")).expanduser().resolve()
        self._bag_folder = Path(self.param("bag_folder") or run / "bags")
        directory = run / "models"
        directory.mkdir(parents=True, exist_ok=True)
        key = SigningKey.load(self.param("signing_key")) if self.param("signing_key") else None
        self._learner = self._made(directory, key)
        self._model = self.create_publisher(String, "model", LATCHED_QOS)
        self._progress = self.create_publisher(String, "train/progress", 10)
        self.create_service(Trigger, "~/train", self._on_train)
        self.create_service(Trigger, "~/checkpoint", self._on_checkpoint)

    def _made(self, directory: Path, key: SigningKey | None) -> Any:
        """The learner of the agent."""
        from wm_ros.training import config

        agent, rest = self.param("agent"), (directory, self.param("seed"), self._report, key)
        if kind_of(agent) == "pets":
            from wm_ros.training.pets_learner import PetsLearner

            return PetsLearner(self.contract, config.load(agent), *rest)
        from wm_ros.training.online_kinds import kind_for, paced

        settings = config.load_policy_or_dreamer(agent)
        try:
            settings = paced(settings, self.param("train_ratio"), self.param("warm_up"))
        except ValueError as error:
            raise UserError(f"parameter warm_up: {error}") from None
        return kind_for(settings)(self.contract, settings, *rest, self.get_logger().warning)

    def activate(self) -> None:
        self._stopping.clear()
        self.create_subscription(String, "log/segment", self._on_segment, SEGMENT_QOS)
        self._thread = threading.Thread(target=self._run, name=_THREAD, daemon=True)
        self._thread.start()

    def deactivate(self) -> None:
        self._stopping.set()
        self._work.put(_STOP)
        if self._thread is not None:
            self._thread.join(PATIENCE_S)  # a fit in progress is given up at its next report: every finished version is already on disk
            self._thread = None

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        values = {
            "phase": self._last.phase,
            "version": self._last.version,
            "episodes": self._last.episodes,
            "transitions": self._last.transitions,
            "waiting": self._work.qsize(),
            "paused": self.param("paused"),
        }
        return (ERROR, self._fault, values) if self._fault else (OK, self._last.phase, values)

    # ---- messages and services ------------------------------------------------------------------------------------

    def _on_segment(self, message: String) -> None:
        try:
            segment = announcements.read(Segment, message.data, "log/segment")
            path = inside(self._bag_folder, segment.path, "log/segment", "set parameter bag_folder where it may come from there")
        except UserError as error:
            self.get_logger().error(str(error))
            return
        if segment.contract_hash != self.contract.hash:
            self.get_logger().error(f"{segment.path}: recorded under another contract ({segment.contract_hash[:8]}): not learned from")
        elif segment.episode.purpose == "train" and segment.episode.state != "discarded" and path not in self._seen:
            self._seen.add(path)
            self._work.put(segment.model_copy(update={"path": str(path)}))

    def _on_train(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._work.put(_TRAIN)
        response.success, response.message = True, "training is queued; see train/progress"
        return response

    def _on_checkpoint(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        path = self._learner.path(self._learner.version)
        response.success = path.is_file()
        response.message = str(path) if response.success else "no controller has been written yet"
        return response

    # ---- the training thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            if self._learner.version < 0:  # else this node was deactivated in between and goes on where it was
                self._announce(self._learner.resume(self.get_logger().warning) or self._learner.explore())
            self._learner.warm_up()
            self._report("waiting", self._learner.counts)
            while True:
                work = self._work.get()
                if work == _STOP:
                    if self._stopping.is_set():
                        return
                    continue  # left from a stop that came in the middle of a fit
                try:
                    if isinstance(work, Segment):
                        self._read(work)
                    if self._learner.episodes and self._work.empty():
                        self._announce(self._learner.train())
                        self._fault = ""
                except (UserError, FloatingPointError) as error:
                    self._fail(str(error))
        except _Stopped:
            return
        except Exception as error:  # a fault of the program must end the process, not just this thread
            self.failure = error
            raise

    def _read(self, segment: Segment) -> None:
        from wm_ros.data.align import read_episodes
        from wm_ros.data.bag_hash import bag_hash
        from wm_ros.runtime.artifact import TrainingBag

        if any(bag.path == segment.path for bag in self._learner.bags):
            return  # learned from before this process was started again
        self._report("reading", {**self._learner.counts, "message": segment.path})
        episodes = read_episodes(segment.path, self.contract)
        if not episodes:
            raise UserError(f"{segment.path}: holds no whole step: not learned from")
        self._learner.add(episodes, TrainingBag(path=segment.path, sha256=bag_hash(Path(segment.path))))

    def _announce(self, notice: ControllerNotice) -> None:
        self._model.publish(String(data=notice.to_json()))

    def _report(self, phase: str, fields: dict[str, Any]) -> None:
        if self._stopping.is_set():
            raise _Stopped
        self._last = Progress(phase=phase, **fields)  # type: ignore[arg-type]
        self._progress.publish(String(data=self._last.to_json()))
        while phase in ("reading", "training") and self.param("paused"):
            if self._stopping.wait(PAUSE_S):
                raise _Stopped

    def _fail(self, text: str) -> None:
        self._fault = text
        self.get_logger().error(text)
        self._report("failed", {**self._learner.counts, "message": text})


def main() -> None:
    """Entry point of the process."""
    status = 0
    try:
        run(Trainer)
    except SystemExit as leaving:
        status = int(leaving.code or 0)
    # torch aborts the process where the interpreter ends under a thread that is still inside it.
    if any(thread.name == _THREAD for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    main()
