"""Runs episodes: waits for the controller, arms the gate, resets the simulator, counts rewards, ends in time."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rclpy.duration import Duration
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, String
from std_srvs.srv import SetBool, Trigger

from wm_ros.contract import announcements
from wm_ros.contract.announcements import ControllerNotice, EpisodeState
from wm_ros.contract.assembler import Assembler, BadMessage, stamp_ns
from wm_ros.contract.commands import read_message
from wm_ros.contract.errors import UserError
from wm_ros.nodes.base import AWAITS, LATCHED_QOS, LOCKSTEP_QOS, OK, WARN, Param, WmNode, run, steady_ns
from wm_ros.nodes.messages import float64_array, message_class
from wm_ros.runtime.episode_tracker import EpisodeTracker, Step

STEP_LABEL = "stamp_s,reward,terminated,truncated,return"
SERVICE_TIMEOUT_S = 5.0
TELL_SILENCE_S = 1.0
"""From here on the diagnostics name the silence."""
RETRY_S = 0.5
LOCKSTEP_TIMEOUT_S = 60.0
"""In lockstep the gate answers for a controller that does not, so silence of this length means that the simulator has failed."""
ACKNOWLEDGE_S = 0.5
"""Longest wait for a slow subscriber of `episode`."""
TIMER_S = 0.05
# In lockstep the robot does not wait for this node, so what comes while it is busy must not push anything out.
DEEP_QOS = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST)
DEEP_SENSOR_QOS = QoSProfile(depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST)
"""Every observation counts for the reward, also those that come while this node waits for a state to be acknowledged."""
BUFFERED = 100_000
"""Observations kept while the answer to the reset is on its way; in lockstep the robot does not wait for this node."""

Phase = Literal["idle", "controller", "arm", "reset", "first", "running", "disarm", "pause"]
"""What the manager does next; `disarm` and `pause` follow the end of an episode."""


class EpisodeManager(WmNode):
    """One episode after the other, as `docs/architecture.md` has it."""

    parameters: Mapping[str, Param] = {
        "auto": Param(0, "Training episodes to run by itself; 0: only on ~/start", low=0, high=100_000),
        "evaluate": Param(0, "Evaluation episodes to run by itself after the training ones", low=0, high=100_000),
        "first_episode": Param(0, "Number of the first episode, where earlier ones were recorded before", low=0, high=1_000_000),
        "wait_for_model": Param(True, "Training episode k waits for controller version >= k, evaluation for version >= auto"),
        "source": Param("mpc", "Whose controller it waits for and names in the episode", choices=("mpc", "policy")),
        "has_sim": Param(True, "Reset and pause a simulator; without, an episode starts at the next observation"),
        "observation_timeout_s": Param(1.0, "Real time: an episode without observations for so long is stopped, s", low=0.05, high=600.0),
        "awaits": AWAITS,
        "purpose": Param("train", "What episodes by ~/start are for", choices=("train", "evaluate"), live=True),
    }

    def __init__(self) -> None:
        super().__init__("episode_manager")
        self._phase: Phase = "idle"
        self._state: EpisodeState | None = None

    def configure(self) -> None:
        contract = self.contract
        self._assembler = Assembler(contract, images=False)
        self._tracker = EpisodeTracker(contract)
        self._episode_publisher = self.create_publisher(String, "episode", LATCHED_QOS)
        self._step_publisher = self.create_publisher(Float64MultiArray, "step", LOCKSTEP_QOS)
        for channel in contract.observation:
            self.create_subscription(
                message_class(channel.type),
                channel.topic,
                lambda message, name=channel.name: self._on_sensor(name, message),
                DEEP_QOS if self.lockstep else DEEP_SENSOR_QOS,
            )
        self.create_subscription(JointState, contract.action.topic, self._on_command, DEEP_QOS)
        self._controller_topic = f"{self.param('source')}/controller"
        self.create_subscription(String, self._controller_topic, self._on_controller, LATCHED_QOS)
        self._arm = self.create_client(SetBool, "command_gate/arm")
        self._reset = self.create_client(Trigger, "sim/reset")
        self._pause = self.create_client(SetBool, "sim/pause")
        self.create_service(Trigger, "~/start", self._on_start)
        self.create_service(Trigger, "~/stop", self._on_stop)
        self.create_service(Trigger, "~/discard", self._on_discard)
        self.create_timer(TIMER_S, self._advance)

        self._phase, self._state = "idle", None
        self._controller: ControllerNotice | None = None
        self._next = self.param("first_episode")
        self._trained = self._evaluated = self._requested = 0
        self._by_itself = False
        self._halted = False
        self._waiting_for = ""
        self._troubles: dict[str, str] = {}
        self._bad_messages = 0
        self._from_ns = 0
        self._buffer: deque[tuple[int, NDArray[np.float32]]] = deque(maxlen=BUFFERED)
        self._heard_ns = steady_ns()
        self._call: tuple[Any, Any, int] | None = None
        self._retry_ns = 0

    def deactivate(self) -> None:
        if self._phase in ("first", "running", "arm", "reset") and self._state is not None:
            self._publish(state="ended", outcome="stopped", finished=True, **self._figures())
            if self._arm.service_is_ready():
                # Nobody will be here for the answer, but a gate left armed is worse than a lost answer.
                self._arm.call_async(SetBool.Request(data=False))
        self._phase, self._call = "idle", None

    # ---- the series -----------------------------------------------------------------------------------------------

    def _wanted(self) -> Literal["train", "evaluate"] | None:
        """What the next episode is for; None where nothing is to be done."""
        if not self._halted and self._trained < self.param("auto"):
            return "train"
        if not self._halted and self._evaluated < self.param("evaluate"):
            return "evaluate"
        if self._requested:
            return "train" if self.param("purpose") == "train" else "evaluate"
        return None

    def _series_left(self) -> bool:
        return not self._halted and (self._trained < self.param("auto") or self._evaluated < self.param("evaluate"))

    def _advance(self) -> None:
        """Does what is next, as far as nothing has to be waited for; called by a timer and after every event."""
        if not self.active or not self._call_is_over() or steady_ns() < self._retry_ns:
            return
        if self._phase == "idle":
            if self._wanted() is None:
                self._waiting_for = "" if self._state is None or self._state.finished else "~/start"
                return
            self._phase = "controller"
        if self._phase == "controller" and self._controller_is_ready() and self._is_heard():
            self._begin()
        if self._phase == "arm":
            self._request(self._arm, SetBool.Request(data=True), self._armed)
        elif self._phase == "reset":
            self._request(self._reset, Trigger.Request(), self._was_reset)
        elif self._phase == "disarm":
            self._request(self._arm, SetBool.Request(data=False), self._disarmed)
        elif self._phase == "pause":
            self._request(self._pause, SetBool.Request(data=True), self._was_paused)
        elif self._phase in ("first", "running"):
            self._watch()

    def _controller_is_ready(self) -> bool:
        if not self.param("wait_for_model"):
            return True
        purpose, auto = self._wanted(), self.param("auto")
        if not self._series_left() or not auto:
            needed = None  # whichever controller there is
        else:
            needed = self._trained if purpose == "train" else auto
        have = self._controller
        if have is not None and (needed is None or have.version >= needed):
            return True
        wanted = self._controller_topic if needed is None else f"{self._controller_topic} version {needed}"
        self._waiting_for = f"{wanted} ({f'version {have.version}' if have else 'none yet'})"
        return False

    def _is_heard(self) -> bool:
        """A recorder that has not found this node yet would miss the episode."""
        awaited = self.unheard((self._episode_publisher, self._step_publisher))
        self._waiting_for = awaited
        return not awaited

    def _begin(self) -> None:
        purpose = self._wanted()
        if purpose is None:
            self._phase = "idle"
            return
        self._by_itself = self._series_left()
        if not self._by_itself:
            self._requested -= 1
        notice = self._controller
        self._state = EpisodeState(
            episode=self._next,
            state="starting",
            purpose=purpose,
            seed=self.param("seed"),
            controller_sha256=notice.sha256 if notice else "",
            controller_version=notice.version if notice else -1,
        )
        self._next += 1
        self._publish()
        self._listen_anew()
        self._phase = "arm"

    def _armed(self, response: Any) -> None:
        self._phase = "reset" if self.param("has_sim") else "first"
        self._listen_anew()

    def _was_reset(self, response: Any) -> None:
        try:
            self._from_ns = int(json.loads(response.message)["stamp_ns"])
        except (ValueError, KeyError, TypeError):
            self._fail(f"sim/reset: the answer {response.message!r} names no stamp_ns: another wm_ros version runs there")
            return
        self._phase = "first"
        self._heard_ns = steady_ns()
        while self._buffer and self._phase in ("first", "running"):
            self._on_observation(*self._buffer.popleft())

    def _disarmed(self, response: Any) -> None:
        # In real time the simulator goes on, as a robot would, under the gate's hold.
        self._phase = "pause" if self.param("has_sim") and self.lockstep else "idle"

    def _was_paused(self, response: Any) -> None:
        self._phase = "idle"

    def _listen_anew(self) -> None:
        """Forgets everything heard so far: the simulator may even have been started anew, with an earlier clock."""
        self._assembler.reset()
        self._tracker.begin()
        self._buffer.clear()
        self._from_ns = 0
        self._heard_ns = steady_ns()

    # ---- the episode ----------------------------------------------------------------------------------------------

    def _on_sensor(self, channel: str, message: Any) -> None:
        if not self.active or self._phase not in ("reset", "first", "running"):
            return
        try:
            self._assembler.update(channel, message, steady_ns())
        except BadMessage as error:
            self._bad_messages += 1
            self._troubles["message"] = str(error)
            return
        observation = self._assembler.observe()
        if observation is None:
            return
        if self._phase == "reset":
            self._buffer.append((observation.stamp_ns, observation.vector))
        else:
            self._on_observation(observation.stamp_ns, observation.vector)

    def _on_observation(self, stamp: int, vector: NDArray[np.float32]) -> None:
        if stamp < self._from_ns:
            return
        self._heard_ns = steady_ns()
        steps = self._tracker.observe(stamp, vector)
        if self._phase == "first":
            self._phase = "running"
            self._waiting_for = ""
            self._publish(state="running", start_stamp_ns=stamp)
        for step in steps:
            self._publish_step(step)
        if self._tracker.outcome:
            self._end(self._tracker.outcome)

    def _on_command(self, message: JointState) -> None:
        if not self.active or self._phase not in ("reset", "first", "running"):
            return
        try:
            action = read_message(self.contract, message)
        except BadMessage as error:
            self._bad_messages += 1
            self._troubles["message"] = str(error)
            return
        self._tracker.command(stamp_ns(message.header.stamp), action.astype(np.float32))

    def _watch(self) -> None:
        """Notices on the steady clock that observations have stopped."""
        silent_s = (steady_ns() - self._heard_ns) * 1e-9
        limit_s = LOCKSTEP_TIMEOUT_S if self.lockstep else self.param("observation_timeout_s")
        self._waiting_for = f"observations, silent for {silent_s:.1f} s" if silent_s > TELL_SILENCE_S else ""
        if silent_s < limit_s:
            return
        if self._phase == "running":
            self._end("stopped")
        elif self._phase == "first" and self.param("has_sim"):
            # The simulator may have been started anew after it answered.
            self._phase = "reset"

    def _end(self, outcome: str) -> None:
        assert self._state is not None
        counted = outcome in ("truncated", "terminated")
        if self._by_itself and counted:
            if self._state.purpose == "train":
                self._trained += 1
            else:
                self._evaluated += 1
        finished = not self._series_left() and not self._requested
        state = "discarded" if outcome == "discarded" else "ended"
        self._publish(state=state, outcome=outcome, finished=finished, **self._figures())
        self._phase = "disarm"
        self._advance()

    def _figures(self) -> dict[str, Any]:
        tracker = self._tracker
        return {"end_stamp_ns": tracker.last_stamp_ns, "ticks": tracker.ticks, "total_reward": tracker.total_reward}

    # ---- services of others ---------------------------------------------------------------------------------------

    def _request(self, client: Any, request: Any, then: Callable[[Any], None]) -> None:
        """Calls a service and goes on with `then`; without the service, or refused, it is tried again."""
        if not client.service_is_ready():
            self._waiting_for = f"service {client.srv_name}: no node offers it"
            self._retry_ns = steady_ns() + round(RETRY_S * 1e9)
            return
        self._waiting_for = f"service {client.srv_name}"
        future = client.call_async(request)
        self._call = (client, future, steady_ns() + round(SERVICE_TIMEOUT_S * 1e9))
        future.add_done_callback(lambda done: self._answered(client, done, then))

    def _answered(self, client: Any, future: Any, then: Callable[[Any], None]) -> None:
        if self._call is None or self._call[1] is not future or not self.active:
            return
        self._call = None
        response = future.result()
        if response is None or not response.success:
            self._fail(f"service {client.srv_name} refuses: {getattr(response, 'message', '') or 'no reason given'}")
            return
        self._troubles.pop("service", None)
        then(response)
        self._advance()

    def _call_is_over(self) -> bool:
        if self._call is None:
            return True
        client, future, deadline_ns = self._call
        if steady_ns() < deadline_ns:
            return False
        self._call = None
        client.remove_pending_request(future)
        self._fail(f"service {client.srv_name} did not answer within {SERVICE_TIMEOUT_S:g} s")
        return True

    def _fail(self, trouble: str) -> None:
        if trouble != self._troubles.get("service"):
            self.get_logger().warning(f"{trouble}; trying again")
        self._troubles["service"] = self._waiting_for = trouble
        self._retry_ns = steady_ns() + round(RETRY_S * 1e9)

    def _on_controller(self, message: String) -> None:
        try:
            notice = announcements.read(ControllerNotice, message.data, self._controller_topic)
        except UserError as error:
            self._troubles["controller"] = str(error)
            return
        if notice.contract_hash != self.contract.hash:
            there, here = notice.contract_hash[:8], self.contract.hash[:8]
            where = self._controller_topic
            self._troubles["controller"] = f"{where}: contract {there} there, {here} here: give both nodes the same contract"
            return
        self._troubles.pop("controller", None)
        self._controller = notice
        self._advance()

    # ---- own services ---------------------------------------------------------------------------------------------

    def _on_start(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if not self.active:
            response.success, response.message = False, "episode_manager is not active: activate it first"
        elif self._phase != "idle" or self._wanted() is not None:
            response.success, response.message = False, "an episode is on: ~/stop ends it"
        else:
            self._halted = False
            if not self._series_left():
                self._requested += 1
            response.success, response.message = True, f"episode {self._next}"
            self._advance()
        return response

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._halted, self._requested = True, 0
        response.success = True
        self._break_off("stopped")
        return response

    def _on_discard(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        state = self._state
        if state is None or state.state == "discarded":
            response.success, response.message = False, "there is no episode to discard"
            return response
        response.success, response.message = True, f"episode {state.episode} discarded"
        if state.state == "ended":
            if self._by_itself and state.outcome in ("truncated", "terminated") and not state.finished:
                if state.purpose == "train":
                    self._trained -= 1
                else:
                    self._evaluated -= 1
            self._publish(state="discarded", outcome="discarded")
        else:
            self._break_off("discarded")
        return response

    def _break_off(self, outcome: str) -> None:
        if self._phase == "controller":
            self._phase = "idle"
        elif self._phase in ("arm", "reset", "first", "running"):
            self._call = None
            self._retry_ns = 0
            self._end(outcome)

    # ---- out ------------------------------------------------------------------------------------------------------

    def _publish(self, **changes: Any) -> None:
        assert self._state is not None
        # model_copy does not validate; the record must be one that `announcements.read` takes.
        self._state = EpisodeState.model_validate({**self._state.model_dump(), **changes})
        # The topic keeps one state for late comers, so `ended` must have reached everybody before `starting` takes its place.
        self._episode_publisher.wait_for_all_acked(Duration(seconds=ACKNOWLEDGE_S))
        self._episode_publisher.publish(String(data=self._state.to_json()))

    def _publish_step(self, step: Step) -> None:
        if any(part is not None and part.learned for part in (self.contract.reward, self.contract.termination)):
            return  # somebody else judges the steps, on the same topic
        row = np.array([step.stamp_ns * 1e-9, step.reward, step.terminated, step.truncated, step.total_reward])
        self._step_publisher.publish(float64_array(row, STEP_LABEL))

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        state, tracker = self._state, self._tracker
        values: dict[str, Any] = {
            "episode": state.episode if state else -1,
            "state": state.state if state else "idle",
            "purpose": state.purpose if state else "",
            "return": tracker.total_reward,
            "ticks": tracker.ticks,
            "waiting_for": self._waiting_for,
            "trained": self._trained,
            "evaluated": self._evaluated,
            "lost_observations": tracker.lost_observations,
            "lost_commands": tracker.lost_commands,
            "bad_messages": self._bad_messages,
        }
        if self._troubles:
            text = "; ".join(self._troubles.values())
            # A bad message is over once it is reported; the others last until they are mended.
            self._troubles.pop("message", None)
            return WARN, text, values
        return OK, f"waiting for {self._waiting_for}" if self._waiting_for else values["state"], values


def main() -> None:
    """Entry point of the executable `episode_manager`."""
    run(EpisodeManager)


if __name__ == "__main__":
    main()
