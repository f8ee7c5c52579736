"""Learning in simulation without ROS: worlds in one process, a soft actor-critic beside them, one checkpoint to go on from."""

from __future__ import annotations

import csv
import io
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from wm_ros.agents.controller import Controller
from wm_ros.agents.sac import SacController
from wm_ros.contract import schema
from wm_ros.contract.errors import UserError
from wm_ros.data.transition_buffer import TransitionBuffer
from wm_ros.export import controller as export
from wm_ros.export.template import template, write_atomically
from wm_ros.runtime.controller import ControllerSession
from wm_ros.runtime.signature import SigningKey, signature_path
from wm_ros.sim import world
from wm_ros.sim.episode import drive
from wm_ros.sim.fleet import Fleet, FleetTick
from wm_ros.training import checkpoint
from wm_ros.training.config import DreamerAgentConfig, PolicyConfig
from wm_ros.training.parts import below, joined
from wm_ros.training.running_statistics import RunningStatistics
from wm_ros.training.sac_learner import Batch, SacLearner, SacLosses

CHECKPOINT = "checkpoint.safetensors"
EVALUATION_SEEDS = 1 << 32
"""Added to the seed, so that no evaluation begins where a training episode did."""


@dataclass(frozen=True)
class SimulatedPlan:
    """All that decides how a training in simulation comes out."""

    contract: str
    """Canonical JSON."""
    agent: PolicyConfig | DreamerAgentConfig
    frames: int
    """Of all worlds together; a frame is one step of the physics, or of the environment."""
    evaluate_every: int
    """Frames between evaluations."""
    versions: dict[str, str]
    """Of the packages whose arithmetic shapes the result."""
    seed: int = 0
    simulators: int = 1
    """Worlds that are driven side by side."""
    evaluations: int = 5
    """Episodes of each evaluation, from the same start states every time."""
    threads: int = 1
    """Of torch: sums are split among them, so another number gives other last bits."""
    beside: str = ""
    """Folder of the contract's file, searched for its MJCF."""
    kind: Literal["simulated"] = "simulated"
    format: Literal[1] = 1


@dataclass(frozen=True)
class EpisodeRow:
    """One episode, as it stands in `returns.csv`."""

    frames: int
    """Learned from or, in training, gone by when it ended."""
    purpose: str
    """`train` or `evaluate`."""
    episode: int
    """Which start state, from 1 on."""
    total_reward: float
    ticks: int


@dataclass(frozen=True)
class Look:
    """What an evaluation saw, as it stands in `metrics.csv`."""

    frames: int
    updates: int
    seconds: float
    """Of training, without evaluations."""
    mean_return: float
    critic_loss: float
    value: float
    entropy: float
    temperature: float
    parity: float
    """Largest difference between onnxruntime and torch."""
    latency_p50_ms: float
    latency_p99_ms: float


class SimulatedTraining:
    """A training in a folder: `controller.onnx`, `controllers/`, `model.safetensors`, `returns.csv`, `metrics.csv`, `metrics.json`."""

    _agent = SacController.agent
    _look_kind: type[Look] = Look

    def __init__(self, plan: SimulatedPlan, folder: Path, signing_key: SigningKey | None = None) -> None:
        """Stands before the first step.

        Args:
            plan: what to train, and where.
            folder: where everything is written; exists.
            signing_key: signs the controllers.

        Raises:
            UserError: the contract's world cannot be made, or there are too few frames to learn anything.
        """
        torch.set_num_threads(plan.threads)
        self.plan, self.folder, self._signing_key = plan, folder, signing_key
        self.warn: Callable[[str], None] = lambda text: None
        """Told what is worth a person's notice."""
        self.contract = schema.parse(json.loads(plan.contract), "the contract of the training")
        self._beside = Path(plan.beside) if plan.beside else None
        self._fleet = Fleet([world.make(self.contract, self._beside) for _ in range(plan.simulators)], plan.seed)
        fit, size = plan.agent.fit, (self.contract.observation_size, self.contract.action_size)
        steps = -(-plan.frames // self._fleet.frames_per_tick) * plan.simulators
        if steps <= fit.warm_up:
            raise UserError(
                f"frames: {plan.frames} give {steps} steps, and learning begins after fit.warm_up {fit.warm_up}: give more frames"
            )
        self._make(min(fit.capacity, steps), torch.Generator().manual_seed(_seed(plan.seed, 0)))
        self._statistics = RunningStatistics(size[0])
        self._rng = np.random.Generator(np.random.PCG64(_seed(plan.seed, 1)))
        self._limits = tuple(np.array([getattr(j, side) for j in self.contract.action.joints], np.float32) for side in ("low", "high"))
        self.frames = self.updates = 0
        self.episodes: list[EpisodeRow] = []
        self.looks: list[Look] = []
        self._owed = self._seconds = 0.0
        self._sums, self._summed = torch.zeros(4, dtype=torch.float64), 0

    @classmethod
    def resume(cls, folder: Path, signing_key: SigningKey | None = None, frames: int | None = None) -> SimulatedTraining:
        """Goes on with the checkpoint in a folder, also of a finished training.

        Args:
            folder: of the training.
            signing_key: signs the controllers.
            frames: to learn from in all; None: as many as before.

        Raises:
            UserError: no checkpoint, it is damaged, or the training has had more frames already.
        """
        path = folder / CHECKPOINT
        plan, state = checkpoint.read_as(path, SimulatedPlan)
        try:
            rest = json.loads(state["rest"].numpy().tobytes())
            if frames is not None and frames < min(plan.frames, rest["counters"][0]):
                raise UserError(f"frames: {frames}, and {path} has learned from {rest['counters'][0]}: give at least as many")
            training = cls(plan if frames is None else replace(plan, frames=frames), folder, signing_key)
            training._restore(state, rest)
        except (KeyError, RuntimeError, ValueError, IndexError) as error:
            raise UserError(f"{path}: damaged: {str(error).splitlines()[0]}: begin anew in another folder") from None
        return training

    @property
    def finished(self) -> bool:
        """There is no step left to do."""
        return self.frames >= self.plan.frames

    @property
    def due(self) -> bool:
        """An evaluation comes next."""
        last = self.looks[-1].frames if self.looks else 0
        return self.frames > last and (self.finished or self.frames // self.plan.evaluate_every > last // self.plan.evaluate_every)

    def step(self) -> list[EpisodeRow]:
        """One control period of every world and the updates that it pays for; the episodes that ended with it.

        Raises:
            UserError: a simulation became unstable.
        """
        started = time.perf_counter()
        warming = len(self._buffer) < self.plan.agent.fit.warm_up
        action = self._random() if warming else self._act(self._fleet.observation)
        tick = self._fleet.step(action)
        self.frames += self._fleet.frames_per_tick
        self._take_in(action, tick)
        if not warming:
            self._owed += len(action) * self.plan.agent.fit.updates_per_step
            while self._owed >= 1.0:
                self._owed -= 1.0
                self._update()
        rows = [EpisodeRow(self.frames, "train", e.resets, e.total_reward, e.ticks) for e in tick.ended]
        self.episodes += rows
        self._seconds += time.perf_counter() - started
        return rows

    def evaluate(self, on_episode: Callable[[], None] = lambda: None) -> Look:
        """Exports the controller, drives evaluation episodes with that file, and writes what there is to see.

        Args:
            on_episode: called after each.

        Raises:
            UserError: training has diverged, the exported file failed its checks, or a file cannot be written.
        """
        if not torch.isfinite(self._sums).all():
            raise UserError(f"{self.folder}: losses are no longer finite: begin anew with a lower fit.learning_rate")
        version = len(self.looks) + 1
        path = self._controller(version)
        with checkpoint.writing(self.folder):
            written = self.export(path, version)
        rows = []
        for k in range(1, self.plan.evaluations + 1):
            rows.append(self._evaluated(path, k))
            on_episode()
        critic_loss, value, entropy, temperature = (self._sums / max(1, self._summed)).tolist()
        self.looks.append(
            self._look_kind(
                frames=self.frames,
                updates=self.updates,
                seconds=self._seconds,
                mean_return=statistics.fmean(row.total_reward for row in rows),
                critic_loss=critic_loss,
                value=value,
                entropy=entropy,
                temperature=temperature,
                parity=written.parity,
                latency_p50_ms=written.latency_p50_ms,
                latency_p99_ms=written.latency_p99_ms,
                **self._figures(),
            )
        )
        self.episodes += rows
        self._sums.zero_()
        self._summed = 0
        self._write()
        self.save()
        return self.looks[-1]

    def _controller(self, version: int) -> Path:
        return self.folder / "controllers" / f"{version:04d}.onnx"

    def _write(self) -> None:
        """The newest controller and the tables, as of the last evaluation."""
        path, newest = self._controller(len(self.looks)), self.folder / "controller.onnx"
        with checkpoint.writing(self.folder):
            if self._signing_key is not None:
                write_atomically(signature_path(newest), signature_path(path).read_bytes())
            write_atomically(newest, path.read_bytes())
            write_atomically(self.folder / "returns.csv", _csv(self.episodes))
            write_atomically(self.folder / "metrics.csv", _csv(self.looks))

    def export(self, path: Path, version: int) -> export.Written:
        """Writes the present policy as a controller.

        Raises:
            UserError: the exported file failed its checks: nothing is written.
        """
        controller = self._policy()
        trained = sum(row.purpose == "train" for row in self.episodes)
        origin = export.Origin(version, self.plan.seed, trained)
        return export.write(path, template(controller, self.contract), controller, self.contract, origin, self._signing_key)

    def save(self) -> None:
        """Writes the checkpoint."""
        checkpoint.write(self.folder / CHECKPOINT, self.plan, self._state())

    def finish(self) -> None:
        """Writes what stays of the training beside its controllers, once its last evaluation is done."""
        self._write()  # again, for a training that was stopped within its last evaluation
        networks = {k: v.contiguous() for k, v in self.learner.networks.state_dict().items()}
        last = self.looks[-1]
        metrics = {
            "agent": self._agent,
            "frames": self.frames,
            "frames_per_tick": self._fleet.frames_per_tick // self.plan.simulators,
            "steps": self.frames // self._fleet.frames_per_tick * self.plan.simulators,
            "updates": self.updates,
            "train_s": self._seconds,
            "episodes": sum(row.purpose == "train" for row in self.episodes),
            "mean_return": last.mean_return,
            "parity": last.parity,
            "latency_ms": {"p50": last.latency_p50_ms, "p99": last.latency_p99_ms},
            "seed": self.plan.seed,
            "simulators": self.plan.simulators,
            "evaluations": self.plan.evaluations,
            "threads": self.plan.threads,
            "contract": self.contract.name,
            "contract_hash": self.contract.hash,
            "config": asdict(self.plan.agent),
            "versions": self.plan.versions,
        }
        with checkpoint.writing(self.folder):
            write_atomically(self.folder / "model.safetensors", save(networks))
            write_atomically(self.folder / "metrics.json", json.dumps(metrics, indent=1).encode())

    def done_with(self) -> None:
        """Everything is written. The checkpoint stays, so that the training can be made longer; what killed writes left of others goes."""
        for path in self.folder.glob(f".{CHECKPOINT}.*"):
            path.unlink(missing_ok=True)

    # ---- acting and learning: what another learner than the soft actor-critic does in its own way ----------------------

    def _make(self, capacity: int, generator: torch.Generator) -> None:
        """Learner and buffer; the generator draws the first weights."""
        self._buffer = TransitionBuffer(capacity, self.contract.observation_size, self.contract.action_size)
        self.learner = SacLearner(self.contract, self.plan.agent.sac, self.plan.agent.fit, generator)

    def _take_in(self, action: NDArray[np.float32], tick: FleetTick) -> None:
        self._buffer.add(tick.observation, action, tick.reward, tick.next_observation, tick.terminated)
        if self.plan.agent.sac.normalize:
            self._statistics.add(tick.observation)
            self._normalize()

    def _policy(self) -> Controller:
        controller = SacController(self.contract, self.plan.agent.sac)
        controller.networks.load_state_dict(self.learner.networks.state_dict())
        return controller

    def _figures(self) -> dict[str, float]:
        """What a look of this kind shows besides."""
        return {}

    def _random(self) -> NDArray[np.float32]:
        low, high = self._limits
        return self._rng.uniform(low, high, (self.plan.simulators, len(low))).astype(np.float32)

    def _act(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        networks = self.learner.networks
        noise = self._rng.standard_normal((len(observation), self.contract.action_size), dtype=np.float32)
        with torch.inference_mode():
            mean, log_std = networks.gaussian(networks.normalized(torch.from_numpy(observation)))
            action = torch.tanh(mean + log_std.exp() * torch.from_numpy(noise))
            # Rounding may leave a limit by its last bit.
            return np.clip((networks.action_middle + networks.action_half * action).numpy(), *self._limits)

    def _update(self) -> None:
        fit = self.plan.agent.fit
        drawn = self._buffer.sample(self._rng, fit.batch, fit.discount)
        noise = self._rng.standard_normal((2, fit.batch, self.contract.action_size), dtype=np.float32)
        losses = self.learner.update(Batch.of(drawn), torch.from_numpy(noise))
        self.updates += 1
        self._note(losses)

    def _note(self, losses: SacLosses) -> None:
        self._sums += losses.figures.double()
        self._summed += 1

    def _normalize(self) -> None:
        networks = self.learner.networks
        networks.observation_mean.copy_(torch.from_numpy(self._statistics.mean))
        networks.observation_rate.copy_(torch.from_numpy(self._statistics.rate))

    def _evaluated(self, path: Path, k: int) -> EpisodeRow:
        session = ControllerSession.load(path, self.contract)
        robot = world.make(self.contract, self._beside)

        def act(observation: NDArray[np.float32]) -> NDArray[np.float32]:
            output = session.act(observation, robot.images() if session.cameras else {})
            if not output.ok:
                raise UserError(f"{path}: {output.reason}: begin anew with a lower fit.learning_rate")
            return output.action

        seed = self.plan.seed + EVALUATION_SEEDS
        session.reset([seed, k])
        episode = drive(robot, act, seed=seed, resets=k)
        return EpisodeRow(self.frames, "evaluate", k, episode.total_reward, len(episode))

    # ---- going on -------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, torch.Tensor]:
        state = joined({
            "learner": self.learner.state(),
            "fleet": self._fleet.state(),
            "buffer": self._buffer.state(),
            "statistics": self._statistics.state(),
        })
        text = json.dumps({
            "rng": self._rng.bit_generator.state,
            "counters": [self.frames, self.updates, self._owed, self._seconds, self._summed],
            "episodes": [list(vars(row).values()) for row in self.episodes],
            "looks": [list(vars(look).values()) for look in self.looks],
        })
        return state | {"sums": self._sums.clone(), "rest": torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)}

    def _restore(self, state: dict[str, torch.Tensor], rest: dict[str, Any]) -> None:
        """Takes over the tensors of `_state`, and its plain values."""
        self.learner.restore(below(state, "learner"))
        self._fleet.restore({k: v.numpy() for k, v in below(state, "fleet").items()})
        self._buffer.restore({k: v.numpy() for k, v in below(state, "buffer").items()})
        self._statistics.restore({k: v.numpy() for k, v in below(state, "statistics").items()})
        self._normalize()
        self._rng.bit_generator.state = rest["rng"]
        self.frames, self.updates, self._owed, self._seconds, self._summed = rest["counters"]
        self.episodes = [EpisodeRow(*row) for row in rest["episodes"]]
        self.looks = [self._look_kind(*look) for look in rest["looks"]]
        self._sums = state["sums"].clone()


def _csv(rows: list[Any]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(rows[0].__dataclass_fields__)
    writer.writerows(vars(row).values() for row in rows)
    return out.getvalue().encode()


def _seed(seed: int, purpose: int) -> int:
    return int(np.random.SeedSequence([seed, purpose, 6]).generate_state(1)[0])
