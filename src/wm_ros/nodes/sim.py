"""The simulated robot as a node: sensor topics out, `command` in, paced by the steady clock or by the commands."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from rcl_interfaces.msg import SetParametersResult
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import SetBool, Trigger

from wm_ros.contract import resources
from wm_ros.contract.assembler import BadMessage, stamp_ns
from wm_ros.contract.commands import read_message
from wm_ros.contract.errors import UserError
from wm_ros.nodes.base import AWAITS, ERROR, OK, SENSOR_QOS, WARN, Param, WmNode, command_qos, run, sensor_qos, steady_ns
from wm_ros.nodes.messages import image_message, message_class, time_message
from wm_ros.runtime.statistics import Durations
from wm_ros.sim import render
from wm_ros.sim.camera import Camera
from wm_ros.sim.camera_faults import BLINDING, CAMERA_FAULTS, CameraFaults
from wm_ros.sim.cameras import Cameras
from wm_ros.sim.episode import LOCKSTEP_ORIGIN_NS, reset_seed
from wm_ros.sim.faults import SENSOR_FAULTS, SILENT, JointSample, Samples, SensorFaults
from wm_ros.sim.pacer import Pacer
from wm_ros.sim.sensors import check_channels, read_channels
from wm_ros.sim.simulator import Simulator
from wm_ros.sim.timeline import SECOND_NS, Timeline

REMIND_S = 0.5
"""A lockstep observation that nobody answered is published again after this time: its receiver may just have been started."""
CLOCK_LOOKOUT_S = 3.0
"""How long other publishers of /clock are looked for before this node becomes one: discovery on a busy machine takes as long."""
COMMAND_LOSS = "command_loss"
PEOPLES_CAMERA = "camera/image_raw"
"""Topic of pictures that no controller looks at."""


class SimNode(WmNode):
    """Steps the contract's simulator.

    One lock guards the simulator and the timeline: the pacing thread, the subscription and the services all step or reset it.
    """

    parameters: Mapping[str, Param] = {
        "real_time_factor": Param(1.0, "Simulated seconds per second, in mode realtime", low=0.01, high=100.0, live=True),
        "headless": Param(True, "No pictures; false: camera/image_raw as seen by the contract's camera"),
        "camera_rate_hz": Param(10.0, "Pictures per second, at most", low=0.1, high=120.0),
        "awaits": AWAITS,
        "publish_clock": Param(False, "Publish /clock; only one node of a graph may"),
        "fault": Param("none", "Fault put into sensors or commands", choices=(*SENSOR_FAULTS, COMMAND_LOSS), live=True),
        "fault_probability": Param(1.0, "Share of messages lost by fault dropout", low=0.0, high=1.0, live=True),
        "camera_fault": Param("none", "Fault put into the pictures of the contract's cameras", choices=CAMERA_FAULTS, live=True),
        "fault_delay_s": Param(0.1, "How late messages come by fault delay, in s", low=0.0, high=10.0, live=True),
    }

    def __init__(self) -> None:
        super().__init__("sim")
        self.simulator: Simulator | None = None
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._timeline: Timeline
        self._threads: list[threading.Thread] = []
        self._camera: Camera | None = None
        self._eyes: Cameras | None = None
        self._looking = threading.Event()

    def configure(self) -> None:
        contract = self.contract
        path = resources.find("config/contracts", self.param("contract"), ".yaml")
        self.simulator = Simulator(contract, path.parent)
        check_channels(contract, self.simulator)
        self._frames = {c.name: c.frame or c.name for c in contract.observation}
        self._faults = SensorFaults(np.random.SeedSequence([self.param("seed"), 0xFA017]))
        self._sensors = {
            c.name: self.create_publisher(message_class(c.type), c.topic, sensor_qos(self.param("mode"))) for c in contract.observation
        }
        self._eyes = Cameras(contract, path.parent)
        self._camera_faults = CameraFaults()
        self._eyes.warm_up(self.simulator.data.qpos)  # without GL nothing shall begin to move
        self._clock_publisher = self._make_clock() if self.param("publish_clock") else None
        self._beside = path.parent
        if not self.param("headless"):
            render.check_camera(contract, self._beside)
            taken = [c.name for c in contract.observation if c.topic.lstrip("/") == PEOPLES_CAMERA]
            if taken:
                raise UserError(
                    f"contract {contract.name}: observation.{taken[0]}.topic: pictures for people are on {PEOPLES_CAMERA} as well: "
                    "give it another topic, or set headless:=true"
                )
            self._pictures = self.create_publisher(Image, PEOPLES_CAMERA, SENSOR_QOS)
        self.create_subscription(JointState, contract.action.topic, self._on_command, command_qos(self.param("mode")))
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(SetBool, "~/pause", self._on_pause)
        self.create_service(Trigger, "~/step", self._on_step)
        if self.lockstep:
            self.create_timer(REMIND_S / 2, self._remind)
        self._due: tuple[int, np.ndarray, tuple[str, ...]] | None = None
        self._blind = ""
        """Why the contract's cameras show nothing any longer."""
        self._pictures_sent = 0
        self._resets = self._commands = self._stale = self._refused = self._ticks = 0
        self._refusal = ""
        # Over a deactivation stamps go on rising.
        self._started = False
        self._seen = (0, 0, steady_ns(), 0)
        self._latency = Durations()

    def activate(self) -> None:
        assert self.simulator is not None
        contract = self.contract
        if self._started:
            self._timeline.reset(None if self.lockstep else time.time_ns())
        else:
            slot_ns = (int(np.ceil(contract.episode.duration_s)) + 10) * SECOND_NS if self.lockstep else None
            origin_ns = LOCKSTEP_ORIGIN_NS if self.lockstep else time.time_ns()
            self._timeline = Timeline(contract.control.period_ns, origin_ns, slot_ns)
            self._started = True
            if not self.lockstep:
                self._timeline.reset()
        self._pacer = Pacer(self.simulator.frame_s)
        self._paused = self.lockstep
        self._frame = 0
        self._answer: np.ndarray | None = None
        self._published_ns = self._published_stamp_ns = 0
        self._last_action: np.ndarray | None = None
        self._last: list[Samples] = []
        self._last_pictures: list[tuple[str, Image]] = []
        self._episode_ticks = 0
        self._blind = ""
        self.simulator.reset(reset_seed(self.param("seed"), 0))
        self._due = None
        self._stop.clear()
        if not self.lockstep:
            self._run(self._pace)
            if self._eyes:
                self._run(self._look)
        if not self.param("headless"):
            self._camera = Camera(contract, self._beside)
            self._run(self._film)

    def deactivate(self) -> None:
        self._stop.set()
        self._wake.set()
        self._looking.set()
        if self._camera is not None:
            self._camera.close()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._camera = None

    def cleanup(self) -> None:
        self.simulator = self._eyes = None  # the processes that draw end with the last reference

    def _run(self, work: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=work, name=work.__name__, daemon=True))
        self._threads[-1].start()

    # ---- commands -------------------------------------------------------------------------------------------------

    def _on_command(self, message: JointState) -> None:
        if not self.active or self.param("fault") == COMMAND_LOSS:
            return
        received = steady_ns()
        with self._lock:
            self._commands += 1
            stamp = stamp_ns(message.header.stamp)
            timeline = self._timeline
            if stamp < timeline.start_ns or (self.lockstep and (stamp != timeline.now_ns or self._answer is not None)):
                # In flight since before a reset, or the answer to an observation that is over.
                self._stale += 1
                return
            try:
                action = read_message(self.contract, message)
            except BadMessage as error:
                self._refused += 1
                self._refusal = str(error)
                return
            if stamp == self._published_stamp_ns:
                self._latency.add_ns(received - self._published_ns)
            if self.lockstep:
                self._answer = action
                self._advance()
            else:
                self._robot.command(action)
                self._last_action = action

    # ---- lockstep -------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """One tick with the command that answers the present observation, if it is there."""
        if self._paused or self._answer is None or self._robot.fault is not None:
            return
        self._robot.command(self._answer)
        self._last_action, self._answer = self._answer, None
        self._step_tick()

    def _step_tick(self) -> None:
        self._robot.step_tick()
        self._timeline.tick()
        self._ticks += 1
        self._episode_ticks += 1
        if self._robot.fault is None:
            self._publish()

    def _remind(self) -> None:
        with self._lock:
            waiting = self.active and not self._paused and self._answer is None and self._robot.fault is None
            if waiting and self._last and steady_ns() - self._published_ns > REMIND_S * 1e9:
                self._send(self._last)

    # ---- real time ------------------------------------------------------------------------------------------------

    def _pace(self) -> None:
        """Thread: begins every frame at its deadline."""
        self._pacer.start(steady_ns(), self.param("real_time_factor"))
        while not self._stop.is_set():
            with self._lock:
                resting = self._paused or self._robot.fault is not None
                wait_s = 0.0 if resting else (self._pacer.deadline_ns - steady_ns()) * 1e-9
                if not resting and wait_s <= 0:
                    self._begin_frame()
                    continue
            if resting:
                self._wake.wait()
                self._wake.clear()
            else:
                # In slices, so that a reset or the end need not wait for a slow frame.
                time.sleep(min(wait_s, 0.1))

    def _begin_frame(self) -> None:
        """Publishes at a control tick, then computes the frame that begins now: a command counts from the next frame on."""
        self._pacer.begin(steady_ns())
        if self._frame == 0:
            self._pacer.set_factor(self.param("real_time_factor"))
            self._publish()
        self._robot.step_frame()
        self._frame += 1
        if self._frame == self._robot.frames_per_tick:
            self._frame = 0
            self._timeline.tick()
            self._ticks += 1
            self._episode_ticks += 1

    # ---- cameras --------------------------------------------------------------------------------------------------

    def _see(self) -> None:
        """Has the contract's cameras look at this tick: at once in lockstep, in their own thread in real time."""
        assert self._eyes is not None
        channels, stamp = self._eyes.due(self._episode_ticks), self._timeline.now_ns
        if not channels:
            self._last_pictures = []
        elif self.lockstep:
            self._last_pictures = self._shown(self._robot.data.qpos, channels, stamp)
        else:
            waiting = self._due[2] if self._due is not None else ()
            self._due = stamp, self._robot.data.qpos.copy(), tuple({*waiting, *channels})
            self._looking.set()

    def _look(self) -> None:
        """Thread: the newest pose that is due; where drawing takes longer than a tick, poses are left out."""
        while self._looking.wait() and not self._stop.is_set():
            self._looking.clear()
            with self._lock:
                due, self._due = self._due, None
            if due is not None and not self._blind:
                stamp, pose, channels = due
                for name, image in self._shown(pose, channels, stamp):
                    self._sensors[name].publish(image)

    def _shown(self, pose: np.ndarray, channels: tuple[str, ...], stamp: int) -> list[tuple[str, Image]]:
        assert self._eyes is not None
        try:
            pictures = self._eyes.draw(pose, channels)
        except UserError as error:
            self._blind = str(error)
            self.get_logger().error(self._blind)
            return []
        self._pictures_sent += len(pictures)
        sound = [(name, image_message(picture, stamp, self._frames[name])) for name, picture in pictures.items()]
        shown = [(name, self._camera_faults.apply(self.param("camera_fault"), name, message)) for name, message in sound]
        return [(name, message) for name, message in shown if message is not None]

    def _film(self) -> None:
        """Thread: a picture of every new pose, as far as rate and machine allow."""
        seen = 0
        while not self._stop.wait(1.0 / self.param("camera_rate_hz")):
            with self._lock:
                stamp, pose = self._published_stamp_ns, self._robot.data.qpos.copy()
            if stamp == seen or self._camera is None:
                continue
            seen = stamp
            try:
                picture = self._camera.draw(pose)
            except UserError as error:
                self.get_logger().warning(f"going on without camera: {error}")
                return
            if picture is not None:
                self._pictures.publish(image_message(picture, stamp, "camera"))

    # ---- services -------------------------------------------------------------------------------------------------

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if not self._accepts(response):
            return response
        awaited = self.unheard(self._sensors.values())
        if awaited:
            response.success, response.message = False, f"still waiting for {awaited}"
            return response
        with self._lock:
            self._resets += 1
            self._robot.reset(reset_seed(self.param("seed"), self._resets))
            self._timeline.reset(None if self.lockstep else time.time_ns())
            self._answer = self._last_action = None
            self._frame = self._episode_ticks = 0
            self._paused = False
            response.message = json.dumps({"stamp_ns": self._timeline.now_ns, "reset": self._resets})
            if self.lockstep:
                self._publish()
            else:
                self._resume()
        return response

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if not self._accepts(response):
            return response
        with self._lock:
            if self._paused and not request.data:
                self._paused = False
                if self.lockstep:
                    self._advance()
                else:
                    self._resume()
            self._paused = bool(request.data)
        return response

    def _on_step(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if not self._accepts(response):
            return response
        with self._lock:
            if not self.lockstep:
                response.success, response.message = False, "step needs mode:=lockstep"
            elif self._robot.fault is not None:
                response.success, response.message = False, self._robot.fault
            else:
                self._answer = None
                if self._last_action is not None:
                    self._robot.command(self._last_action)
                self._step_tick()
        return response

    def _accepts(self, response: Any) -> bool:
        response.success = self.active
        if not self.active:
            response.message = "sim is not active: activate it first"
        return bool(self.active)

    def _resume(self) -> None:
        self._pacer.start(steady_ns(), self.param("real_time_factor"))
        self._wake.set()

    # ---- out ------------------------------------------------------------------------------------------------------

    @property
    def _robot(self) -> Simulator:
        assert self.simulator is not None
        return self.simulator

    def _publish(self) -> None:
        samples = read_channels(self.contract, self._robot, self._timeline.now_ns)
        self._last = self._faults.apply(
            self._sensor_fault, samples, probability=self.param("fault_probability"), delay_s=self.param("fault_delay_s")
        )
        if self._clock_publisher is not None:
            self._clock_publisher.publish(Clock(clock=time_message(self._timeline.now_ns)))
        if self._eyes:
            self._see()
        self._send(self._last)

    def _send(self, sets: list[Samples]) -> None:
        # Before publishing: an answer may come while publish() has not yet returned.
        self._published_ns, self._published_stamp_ns = steady_ns(), self._timeline.now_ns
        for name, image in self._last_pictures:
            self._sensors[name].publish(image)
        for samples in sets:
            for name, sample in samples.items():
                self._sensors[name].publish(_message(sample))

    @property
    def _sensor_fault(self) -> str:
        fault = self.param("fault")
        return "none" if fault == COMMAND_LOSS else str(fault)

    def _make_clock(self) -> Any:
        deadline = time.monotonic() + CLOCK_LOOKOUT_S
        found, who = False, ""
        # A publisher is discovered a little before the name of its node.
        while time.monotonic() < deadline and not who:
            for other in self.get_publishers_info_by_topic("/clock"):
                found = True
                if "UNKNOWN" not in other.node_name:
                    who = f"{other.node_namespace.rstrip('/')}/{other.node_name}"
            time.sleep(0.05)
        if found:
            raise UserError(
                f"/clock: {who or 'another node'} publishes it already: stop it, use another ROS_DOMAIN_ID, or set publish_clock:=false"
            )
        return self.create_publisher(Clock, "/clock", 10)

    def _check_parameters(self, parameters: list[Any]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name == "fault" and parameter.value in SILENT and self.lockstep:
                reason = f"fault: {parameter.value} needs mode realtime: lockstep would wait for ever"
                return SetParametersResult(successful=False, reason=reason)
            if parameter.name == "camera_fault" and parameter.value in BLINDING and self.lockstep:
                reason = f"camera_fault: {parameter.value} needs mode realtime: lockstep would wait for ever"
                return SetParametersResult(successful=False, reason=reason)
        return super()._check_parameters(parameters)

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        if not self.active or self.simulator is None:
            return OK, "inactive", {}
        with self._lock:
            robot, now = self.simulator, steady_ns()
            ticks, refused, since, overruns = self._seen
            seconds = max((now - since) * 1e-9, 1e-9)
            rate = (self._ticks - ticks) / seconds
            late = self._pacer.overruns - overruns
            refused_now = self._refused - refused
            self._seen = (self._ticks, self._refused, now, self._pacer.overruns)
            waiting = ""
            if self.lockstep:
                waiting = "reset" if self._paused else "command" if self._answer is None else ""
            latency = self._latency.summary()
            values: dict[str, Any] = {
                "mode": self.param("mode"),
                "rate_hz": rate,
                "real_time_factor": rate * self.contract.control.period_s,
                "ticks": self._ticks,
                "latency_p50_ms": latency.p50_ms,
                "latency_p99_ms": latency.p99_ms,
                "latency_max_ms": latency.max_ms,
                "commands": self._commands,
                "stale_commands": self._stale,
                "refused_commands": self._refused,
                "holds": robot.holds,
                "resets": self._resets,
                "overruns": self._pacer.overruns,
                "paused": self._paused,
                "waiting_for": waiting,
                "fault": self.param("fault"),
                **({"pictures": self._pictures_sent, "camera_fault": self.param("camera_fault")} if self._eyes else {}),
            }
            if self._blind:
                return ERROR, self._blind, values
            if robot.fault is not None:
                return ERROR, robot.fault, values
        if self._clock_publisher is not None and len(self.get_publishers_info_by_topic("/clock")) > 1:
            return ERROR, "/clock has another publisher: stop it or set publish_clock:=false", values
        if refused_now:
            return WARN, f"refused {refused_now} commands: {self._refusal}", values
        if late:
            return WARN, f"{late} frames began late: the machine is too slow for this real-time factor", values
        return OK, "paused" if values["paused"] else "running", values


def _message(sample: JointSample) -> JointState:
    message = JointState(name=sample.name, position=sample.position, velocity=sample.velocity, effort=sample.effort)
    message.header.stamp.sec = sample.header.stamp.sec
    message.header.stamp.nanosec = sample.header.stamp.nanosec
    message.header.frame_id = sample.header.frame_id
    return message


def main() -> None:
    """Entry point of the executable `sim`."""
    run(SimNode)


if __name__ == "__main__":
    main()
