"""Records: raw messages of the contract's topics into one rosbag2 directory per episode."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from std_msgs.msg import String
from std_srvs.srv import Trigger

from wm_ros.contract import announcements
from wm_ros.contract.announcements import EpisodeState, Segment
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import IMAGE_TYPES
from wm_ros.data import ros_types
from wm_ros.data.bag_writer import BagOptions
from wm_ros.data.qos import Qos
from wm_ros.data.recorder import ClosedBag, RecordedTopic, Recorder, RecorderOptions
from wm_ros.nodes.base import ERROR, OK, SEGMENT_QOS, WARN, Param, WmNode, run
from wm_ros.nodes.messages import message_class
from wm_ros.runtime import heap

JOINT_STATE, STRING, NUMBERS = "sensor_msgs/msg/JointState", "std_msgs/msg/String", "std_msgs/msg/Float64MultiArray"
_DEPTH = 1000
_IMAGE_DEPTH = 30
"""Pictures that may wait in the middleware: a second of a camera, not a gigabyte."""
_IMAGE_BYTES = 128 << 20
"""Of those that may wait in lockstep, where the simulator draws them as small as the contract wants them, and waits for no logger."""
_MEBIBYTE = 1 << 20


class Logger(WmNode):
    """One bag per episode; see `docs/architecture.md`. What it does with messages is `data.recorder.Recorder`."""

    parameters = {
        "directory": Param("bags", "Folder that the bags go to"),
        "record": Param(True, "Record every episode by itself; if false only between ~/start and ~/stop", live=True),
        "extra_topics": Param(
            "mpc/plan std_msgs/msg/Float32MultiArray", "More topics to record: 'topic type' pairs with commas between them; may be empty"
        ),
        "chunk_seconds": Param(1.0, "A killed logger loses at most this much, in s", low=0.01, high=60.0),
        "compression": Param("zstd", "Of the chunks", choices=("zstd", "lz4", "none")),
        "split_mb": Param(0, "Begin a new file past this size in MiB; 0: never", low=0, high=1_000_000),
        "split_seconds": Param(0.0, "Begin a new file after this time in s; 0: never", low=0.0, high=1e6),
        "max_queue_mb": Param(128, "Messages that may wait for the disk, in MiB; the rest is dropped and counted", low=1, high=65_536),
        "preroll_seconds": Param(2.0, "Kept of what came last, so that a bag begins with its first message", low=0.0, high=60.0),
        "linger_seconds": Param(0.5, "An ended episode's bag waits so long for its last sample", low=0.0, high=60.0),
    }

    def __init__(self) -> None:
        super().__init__("logger")
        self._recorder: Recorder | None = None

    def configure(self) -> None:
        directory = Path(self.param("directory")).expanduser().absolute()
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"parameter directory: {directory}: {error.strerror}: give a folder that can be written") from None
        if not os.access(directory, os.W_OK):
            raise UserError(f"parameter directory: {directory}: not writable: give another folder")
        topics = self._topics()
        self._directory = directory
        self._specs = topics
        self._episode_topic = [name for name, _, _ in topics].index("episode")
        self._segments = self.create_publisher(String, "log/segment", SEGMENT_QOS)
        self._latest = (time.monotonic(), 0)
        self._lost = 0
        self.create_timer(0.1, self._poll)
        self.create_service(Trigger, "~/start", self._start)
        self.create_service(Trigger, "~/stop", self._stop)

    def activate(self) -> None:
        self._recorder = self._make_recorder()
        for index, (name, kind, qos) in enumerate(self._specs):
            profile = QoSProfile(
                depth=self._image_depth(name) if kind in IMAGE_TYPES else _DEPTH,
                history=HistoryPolicy.KEEP_LAST,
                reliability=ReliabilityPolicy.RELIABLE if qos.reliability == "reliable" else ReliabilityPolicy.BEST_EFFORT,
                durability=DurabilityPolicy.TRANSIENT_LOCAL if qos.durability == "transient_local" else DurabilityPolicy.VOLATILE,
            )
            handler = self._on_episode if index == self._episode_topic else self._receiver(index)
            events = SubscriptionEventCallbacks(message_lost=self._on_lost)
            self.create_subscription(message_class(kind), name, handler, profile, raw=True, event_callbacks=events)

    def deactivate(self) -> None:
        for subscription in list(self.subscriptions):
            self.destroy_subscription(subscription)
        if self._recorder is not None:
            self._recorder.close()

    def cleanup(self) -> None:
        if self._recorder is not None:
            self._recorder.close()
            self._recorder = None

    def _image_depth(self, topic: str) -> int:
        forms = [c.image for c in self.contract.observation if c.topic == topic and c.image is not None]
        if not self.lockstep or not forms:
            return _IMAGE_DEPTH
        return max(_IMAGE_DEPTH, min(_DEPTH, _IMAGE_BYTES // (3 * forms[0].height * forms[0].width)))

    # ---- what is recorded -----------------------------------------------------------------------------------------

    def _topics(self) -> list[tuple[str, str, Qos]]:
        """(topic, type, subscription's QoS), each topic once."""
        # Best effort takes what a reliable publisher sends as well; in lockstep nothing may be lost.
        sensor = Qos("reliable" if self.lockstep else "best_effort", depth=10 if self.lockstep else 5)
        command = Qos(depth=1)
        wanted = [(c.topic, c.type, sensor) for c in self.contract.observation]
        wanted.append((self.contract.action.topic, self.contract.action.type, command))
        wanted += [(f"{source}/command", JOINT_STATE, command) for source in ("mpc", "policy")]
        wanted += [("episode", STRING, Qos(durability="transient_local", depth=1)), ("step", NUMBERS, Qos())]
        for entry in str(self.param("extra_topics")).split(","):
            if entry.strip():
                wanted.append((*_pair(entry), Qos("best_effort")))
        return list({name: (name, kind, qos) for name, kind, qos in reversed(wanted)}.values())[::-1]

    def _make_recorder(self) -> Recorder:
        awaited = {c.topic for c in self.contract.observation if c.clock == "header"}
        topics = [
            # The name before remapping: a bag is read by the contract's names.
            RecordedTopic(self.resolve_topic_name(name, only_expand=True), kind, qos, name in awaited)
            for name, kind, qos in self._specs
        ]
        options = RecorderOptions(
            directory=self._directory,
            bag=BagOptions(
                chunk_seconds=self.param("chunk_seconds"),
                compression=self.param("compression"),
                split_bytes=self.param("split_mb") * _MEBIBYTE,
                split_seconds=self.param("split_seconds"),
            ),
            preroll_s=self.param("preroll_seconds"),
            queue_bytes=self.param("max_queue_mb") * _MEBIBYTE,
            linger_s=self.param("linger_seconds"),
        )
        return Recorder(self.contract, topics, options, self._announce)

    # ---- messages in ----------------------------------------------------------------------------------------------

    def _receiver(self, index: int) -> Callable[[bytes], None]:
        def receive(data: bytes) -> None:
            if self._recorder is not None:
                self._recorder.receive(index, data, time.time_ns(), time.monotonic())

        return receive

    def _on_episode(self, data: bytes) -> None:
        if self._recorder is None:
            return
        now = time.monotonic()
        try:
            state = announcements.read(EpisodeState, deserialize_message(data, String).data, "episode")
        except UserError as error:
            self.get_logger().warning(str(error))
        else:
            if self.param("record") or state.state != "running":
                try:
                    self._recorder.announce(state, now)
                except (UserError, OSError) as error:
                    self.get_logger().error(str(error))
        self._recorder.receive(self._episode_topic, data, time.time_ns(), now)

    def _on_lost(self, event: Any) -> None:
        """The middleware dropped messages before they came here."""
        self._lost += event.total_count_change

    def _poll(self) -> None:
        if self._recorder is not None:
            self._recorder.poll(time.monotonic())

    # ---- what goes out --------------------------------------------------------------------------------------------

    def _announce(self, closed: ClosedBag) -> None:
        """On the bag's thread: publishing is safe from any."""
        if closed.state is None:
            return
        segment = Segment(
            path=str(closed.summary.path),
            episode=closed.state,
            contract_hash=self.contract.hash,
            messages=closed.summary.messages,
            bytes=closed.summary.bytes,
            dropped=closed.dropped,
        )
        self._segments.publish(String(data=segment.to_json()))

    def _start(self, request: Any, response: Any) -> Any:
        if self._recorder is None or not self.active:
            response.success, response.message = False, "the logger is not active"
        elif self._recorder.bag is not None:
            response.success, response.message = False, f"{self._recorder.bag} is being recorded"
        else:
            response.success, response.message = True, str(self._recorder.start())
        return response

    def _stop(self, request: Any, response: Any) -> Any:
        path = self._recorder.stop() if self._recorder is not None else None
        response.success, response.message = path is not None, str(path) if path else "nothing is being recorded"
        return response

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        recorder = self._recorder
        if recorder is None:
            return super().diagnose()
        now = time.monotonic()
        since, before = self._latest
        self._latest = (now, recorder.messages)
        drops = recorder.drops + self._lost
        values = {
            "rate_hz": (recorder.messages - before) / max(now - since, 1e-6),
            "messages": recorder.messages,
            "drops": drops,
            "bytes": recorder.bytes_written,
            "bag": str(recorder.bag or ""),
        }
        if recorder.error:
            return ERROR, recorder.error, values
        if drops:
            return WARN, f"{drops} messages lost: {recorder.drops} to the disk, {self._lost} before they came here", values
        return OK, "recording" if recorder.bag else "waiting for an episode", values


def _pair(entry: str) -> tuple[str, str]:
    parts = entry.split()
    if len(parts) != 2 or "/msg/" not in parts[1]:
        raise UserError(f"parameter extra_topics: {entry.strip()!r}: write 'topic package/msg/Type', with commas between the topics")
    message_class(parts[1])
    ros_types.schema_text(parts[1])
    return parts[0], parts[1]


def main() -> None:
    """Entry point of the node."""
    heap.share_arenas()
    run(Logger)


if __name__ == "__main__":
    main()
