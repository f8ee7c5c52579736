"""What every node that serves a controller artifact shares: sensors in, `<source>/command` out, on every control tick."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float32MultiArray, String
from std_srvs.srv import Trigger

from wm_ros.contract import announcements
from wm_ros.contract.announcements import ControllerNotice
from wm_ros.contract.assembler import Assembler, BadMessage, Observation
from wm_ros.contract.errors import UserError
from wm_ros.nodes import base, messages
from wm_ros.nodes.base import Param
from wm_ros.runtime.affinity import parse_cpus, pin
from wm_ros.runtime.answer import Answer
from wm_ros.runtime.cameras import PictureWait, missing_channels
from wm_ros.runtime.confinement import inside
from wm_ros.runtime.control_loop import ControlLoop
from wm_ros.runtime.controller import ControllerSession
from wm_ros.runtime.engine import ENGINES, PRECISIONS, Inference
from wm_ros.runtime.hot_swap import HotSwap
from wm_ros.runtime.imagination import Imagination, Imagined
from wm_ros.runtime.signature import TrustedKey


class ServingNode(base.WmNode):
    """Thin: the loop is `runtime.control_loop`, the controller `runtime.controller`.

    A subclass gives the node's name and the first part of its topics, and may show more of an answer than its command.
    """

    node_name: str
    source: str
    """Topics are `<source>/command` and `<source>/controller`; the gate listens to it by this name."""

    parameters: Mapping[str, Param] = {
        "controller": Param("", "Controller artifact to serve, whatever `model` announces; empty: the newest announced", live=True),
        "model_folder": Param("runs/up/models", "Where the controllers of topic `model` must lie: no other file is opened", live=True),
        "trusted_key": Param("", "Public key (`wm-ros key new`) that must have signed each controller; empty: unsigned ones pass"),
        "threads": Param(base.default_threads(), "Threads of one inference", low=1, high=256),
        "engine": Param("onnxruntime", "What computes the controller; openvino needs the package of that name", choices=ENGINES),
        "precision": Param("f32", "Of the matrix products; bf16 needs engine openvino and is for large networks", choices=PRECISIONS),
        "picture_wait_periods": Param(
            0.7, "Real time: a tick waits at most so many control periods for a picture taken by then; 0: never", low=0.0, high=1.0
        ),
        "cpu_affinity": Param("", "Processors for inference, such as 0,2-3; empty: all"),
        **base.REAL_TIME,
    }

    def __init__(self) -> None:
        super().__init__(self.node_name)
        self._loop: ControlLoop | None = None
        self._swap: HotSwap | None = None
        self._first: ControllerSession | None = None
        self._imagination: Imagination | None = None
        self._drops = 0
        self._complaints: dict[str, str] = {}
        """Channel → what was wrong with its last message."""
        self._usable_ns = 0
        self._observed_ns: int | None = None

    # ---- lifecycle --------------------------------------------------------------------------------------------------

    def configure(self) -> None:
        pin(parse_cpus(self.param("cpu_affinity"), "parameter cpu_affinity"))
        self.enter_real_time()
        path = self.param("controller")
        inference = Inference(self.param("threads"), self.param("engine"), self.param("precision"))
        key = self.param("trusted_key")
        trusted = TrustedKey.load(key) if key else None
        if path:
            self._first = ControllerSession.load(path, self.contract, inference, trusted=trusted)
        self._assembler = Assembler(self.contract)
        self._form = messages.CommandForm(self.contract)
        self._complaints.clear()
        self._command = self.create_publisher(JointState, f"{self.source}/command", base.command_qos(self.param("mode")))
        self._serving = self.create_publisher(String, f"{self.source}/controller", base.SERVING_QOS)
        self._swap = HotSwap(self.contract, inference, self._loaded, trusted)
        self._loop = ControlLoop(
            self.contract,
            self.param("seed"),
            self.lockstep,
            base.steady_ns,
            send=self._send,
            show=self.show,
            take=self._take,
            served=self._served,
            fallback=self.fall_back,
        )
        longest_ns = 0 if self.lockstep else round(self.param("picture_wait_periods") * self.contract.control.period_ns)
        self._wait = PictureWait(self.contract, longest_ns)
        if self.contract.images and longest_ns:
            self._patience = self.create_timer(1e-9 * longest_ns, self._on_patience_over, autostart=False)
        for channel in self.contract.observation:
            self.create_subscription(
                messages.message_class(channel.type),
                channel.topic,
                lambda message, name=channel.name: self._on_sensor(name, message),
                base.sensor_qos(self.param("mode")),
            )
        self._plan = self.create_publisher(Float32MultiArray, f"{self.source}/plan", base.COMMAND_QOS)
        self._films = {
            name: self.create_publisher(Image, f"{self.source}/imagined/{name}", base.COMMAND_QOS) for name in self.contract.images
        }
        if self._films:
            self._imagination = Imagination(self._show_imagined, self._cannot_imagine)
        self.create_subscription(String, "model", self._on_model, base.LATCHED_QOS)
        self.create_service(Trigger, "~/load", self._on_load)
        self._loop.start()

    def cleanup(self) -> None:
        # The loader first: it wakes the loop.
        if self._swap is not None:
            self._swap.close()
        if self._loop is not None:
            self._loop.close()
        if self._imagination is not None:
            self._imagination.close()
        self._swap = self._loop = self._first = self._imagination = None

    # ---- in ---------------------------------------------------------------------------------------------------------

    def _on_sensor(self, channel: str, message: Any) -> None:
        if not self.active or self._loop is None:
            return
        now = base.steady_ns()
        try:
            self._assembler.update(channel, message, now)
        except BadMessage as bad:
            self._drops += 1
            self._complaints[channel] = str(bad)
            self.get_logger().warning(f"ignored: {bad}", throttle_duration_sec=1.0)
            # One late message is dropped. A clock that was set back for good is followed, once nothing else has come for a while.
            gone_ns = 0 if self.lockstep else 1e9 * self.contract.safety.max_observation_age_s
            if bad.reason != "backwards" or now - self._usable_ns < gone_ns:
                return
            self._assembler.reset()
            self._wait.forget()
            self._assembler.update(channel, message, now)
        self._usable_ns = now
        self._complaints.pop(channel, None)
        observation = self._assembler.observe()
        if observation is not None:
            self._observed_ns = observation.received_ns
            self._offer(self._loop, observation, now)

    def _offer(self, loop: ControlLoop, observation: Observation, now: int) -> None:
        """Gives the loop the observation: at once, or when its picture has come."""
        looked_at = () if loop.session is None else loop.session.cameras
        held_before = self._wait.holds
        ready = self._wait.come(observation, now, looked_at)
        if ready is not None:
            loop.offer(*ready)
        elif not held_before:
            self._patience.reset()

    def _on_patience_over(self) -> None:
        self._patience.cancel()
        ready = self._wait.patience_over(base.steady_ns())
        if ready is None and self._wait.holds:  # a newer one
            self._patience.reset()
        if ready is not None and self.active and self._loop is not None:
            self._loop.offer(*ready)

    def _on_model(self, message: String) -> None:
        if self.param("controller"):
            return
        assert self._swap is not None
        try:
            notice = announcements.read(ControllerNotice, message.data, "model")
            if notice.contract_hash != self.contract.hash:
                raise UserError(f"model: version {notice.version} is for contract {notice.contract_hash[:16]}…, not for this robot's")
            path = inside(self.param("model_folder"), notice.path, "model", "set parameter model_folder where it may come from there")
        except UserError as error:
            self._swap.refuse(str(error))
            self.get_logger().error(f"ignored: {error}")
            return
        self._swap.request(path, notice.sha256)

    def _on_load(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        path = self.param("controller")
        if not path or not Path(path).expanduser().is_file():
            response.success, response.message = False, f"parameter controller: {path!r} is not a file"
            return response
        assert self._swap is not None
        self._swap.request(path)
        told = f"{self.source}/controller tells when it serves, diagnostics tell when it does not"
        response.success, response.message = True, f"loading {path}: {told}"
        return response

    # ---- out: called in the loop's and the loader's threads ---------------------------------------------------------

    def _take(self) -> ControllerSession | None:
        first, self._first = self._first, None
        return first if first is not None or self._swap is None else self._swap.take()

    def _loaded(self, error: UserError | None) -> None:
        for line in str(error).splitlines() if error is not None else ():
            self.get_logger().error(f"controller refused: {line}")
        if error is None and self._loop is not None:
            self._loop.wake()

    def _served(self, session: ControllerSession) -> None:
        self._assembler.images = bool(session.cameras)  # nothing is decoded that nobody looks at
        self._serving.publish(String(data=session.notice.to_json()))
        self.get_logger().info(f"serving {session.name}, {session.warm_up_ms:.2f} ms per inference in the warm-up")

    def _send(self, answer: Answer) -> None:
        if self.active:
            stamp = answer.tick.observation.stamp_ns
            self._command.publish(self._form.fill(answer.output.action, stamp, answer.source))

    def _show_imagined(self, imagined: Imagined) -> None:
        if not self.active:
            return
        self._show_plan(imagined.plan_observation, imagined.plan_action)
        for name, frames in imagined.frames.items():
            # All of them in one picture, the soonest on top: a standard message, and they stay together.
            tall = frames.reshape(-1, *frames.shape[2:])
            self._films[name].publish(messages.image_message(tall, imagined.stamp_ns, imagined.controller))

    def _cannot_imagine(self, reason: str) -> None:
        self.get_logger().warning(reason, throttle_duration_sec=10.0)

    def _show_plan(self, observations: NDArray[np.float32] | None, actions: NDArray[np.float32] | None) -> None:
        if self._plan.get_subscription_count() and observations is not None and actions is not None:
            self._plan.publish(messages.float32_array(np.concatenate([observations, actions], axis=1), "horizon", "column"))

    # ---- for subclasses: called in the loop's thread ----------------------------------------------------------------

    def show(self, answer: Answer) -> None:
        """Publishes what is for people, once the command is out."""
        if not answer.session.imagines:
            self._show_plan(answer.output.plan_observation, answer.output.plan_action)
        elif self._imagination is not None and any(p.get_subscription_count() for p in (self._plan, *self._films.values())):
            self._imagination.offer(answer)

    def fall_back(self, to_policy: bool) -> None:
        """The contract's `safety.on_disagreement` wants the policy to drive (True), or not any longer."""

    # ---- diagnostics ------------------------------------------------------------------------------------------------

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        loop, swap = self._loop, self._swap
        assert loop is not None and swap is not None
        session, counts, now = loop.session, loop.counts, base.steady_ns()
        latency, jitter = loop.latency.summary(), loop.periods.jitter.summary()
        watch = loop.disagreement
        reason = loop.slow(now) or loop.reason or watch.reason or swap.reason
        if session is None and not reason:
            reason = "waiting for a controller"
        if self.active:
            heard = len(self._assembler.missing) < len(self.contract.observation)
            lacking = missing_channels(self.contract, self._assembler.missing if heard else (), dict(self._complaints))
            reason = "; ".join(filter(None, (reason, lacking)))
        values = {
            "rate_hz": loop.periods.rate_hz(now),
            "latency_p50_ms": latency.p50_ms,
            "latency_p99_ms": latency.p99_ms,
            "latency_max_ms": latency.max_ms,
            "period_jitter_p99_ms": jitter.p99_ms,
            "deadlines": counts.deadlines,
            "deadline_misses": counts.deadline_misses,
            "overruns": counts.overruns,
            "late": counts.late,
            "skipped": counts.skipped,
            "refused": counts.refused,
            "followed": counts.followed,
            "observation_age_ms": -1.0 if self._observed_ns is None else (now - self._observed_ns) * 1e-6,
            "drops": self._drops,
            "controller_version": -1 if session is None else session.metadata.version,
            "controller": "" if session is None else session.name,
            "disagreement": -1.0 if watch.ratio is None else watch.ratio,
            "reason": reason,
        }
        return (base.WARN if reason else base.OK), reason or "serving", values
