"""Plans of other planners on the same network, in a process of their own: `python planning_peers.py NAME PLANNER REPEATS THREADS`.

Needs torch and the peer alone, so that it can run in another environment; prints `{"ms": [...], "version": ...}`.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

MEMBERS, LAYERS, WIDTH, OBSERVATIONS, ACTIONS = 5, 4, 200, 17, 6
CANDIDATES, HORIZON, ITERATIONS, ELITES = 400, 25, 5, 40


class Network(nn.Module):
    """M members as people write them with batched matrix products: `state [M, N, O]`, `action [N, A]` → the next state."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        sizes = [OBSERVATIONS + ACTIONS, *[WIDTH] * LAYERS, OBSERVATIONS]
        self.weights = nn.ParameterList(torch.randn(MEMBERS, i, o, generator=generator) / i**0.5 for i, o in itertools.pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(MEMBERS, 1, o) for o in sizes[1:])

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        hidden = torch.cat([state, action.expand(MEMBERS, *action.shape)], dim=-1)
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden, weight)
            if i < last:
                hidden = nn.functional.silu(hidden)
        return state + 0.1 * hidden


def torchrl(planner: str) -> Callable[[], object]:
    """Torchrl's CEMPlanner or MPPIPlanner over a model environment that carries all members."""
    from tensordict import TensorDict
    from torchrl.data import Bounded, Composite, Unbounded
    from torchrl.envs import ModelBasedEnvBase
    from torchrl.modules import CEMPlanner, MPPIPlanner
    from torchrl.objectives.value import TDLambdaEstimator

    network = Network()

    class World(nn.Module):
        in_keys = ["observation", "action"]
        out_keys = ["observation", "reward"]

        def forward(self, tensordict: TensorDict) -> TensorDict:
            state, action = tensordict["observation"], tensordict["action"]  # [1, N, M, O], [1, N, A]
            after = network(state[0].transpose(0, 1), action[0]).transpose(0, 1).unsqueeze(0)
            reward = after[..., 0].mean(dim=-1, keepdim=True)
            return TensorDict({"observation": after, "reward": reward}, batch_size=tensordict.batch_size)

    class Env(ModelBasedEnvBase):
        def __init__(self) -> None:
            super().__init__(World(), batch_size=[])
            self.observation_spec = Composite(observation=Unbounded((MEMBERS, OBSERVATIONS)))
            self.state_spec = self.observation_spec.clone()
            self.action_spec = Bounded(-1.0, 1.0, (ACTIONS,))
            self.reward_spec = Unbounded((1,))

        def _reset(self, tensordict: TensorDict) -> TensorDict:
            return TensorDict({"observation": torch.zeros(MEMBERS, OBSERVATIONS)})

        def _set_seed(self, seed: int) -> None:
            torch.manual_seed(seed)

    env = Env()
    start = TensorDict({"observation": torch.zeros(1, MEMBERS, OBSERVATIONS)}, batch_size=[1])
    if planner == "cem":
        plan = CEMPlanner(env, planning_horizon=HORIZON, optim_steps=ITERATIONS, num_candidates=CANDIDATES, top_k=ELITES)
    else:

        class Zero(nn.Module):
            in_keys = ["observation"]
            out_keys = ["state_value"]

            def forward(self, tensordict: TensorDict) -> TensorDict:
                return tensordict.set("state_value", torch.zeros(*tensordict.batch_size, 1))

        advantage = TDLambdaEstimator(gamma=1.0, lmbda=1.0, value_network=Zero())
        plan = MPPIPlanner(
            env, advantage, temperature=1.0, planning_horizon=HORIZON, optim_steps=1, num_candidates=CANDIDATES, top_k=CANDIDATES
        )
    return lambda: plan(start.clone())


def pytorch_mppi(planner: str) -> Callable[[], object]:
    """pytorch_mppi's MPPI; each member is a part of the state."""
    from pytorch_mppi import MPPI

    network = Network()

    def dynamics(state: Tensor, action: Tensor) -> Tensor:
        after = network(state.reshape(-1, MEMBERS, OBSERVATIONS).transpose(0, 1), action)
        return after.transpose(0, 1).reshape(state.shape)

    def cost(state: Tensor, action: Tensor) -> Tensor:
        return -state.reshape(-1, MEMBERS, OBSERVATIONS)[..., 0].mean(dim=-1)

    ones = torch.ones(ACTIONS)
    mppi = MPPI(
        dynamics, cost, MEMBERS * OBSERVATIONS, torch.eye(ACTIONS) * 0.25, num_samples=CANDIDATES, horizon=HORIZON, u_min=-ones, u_max=ones
    )
    start = torch.zeros(MEMBERS * OBSERVATIONS)
    return lambda: mppi.command(start)


def mbrl(planner: str) -> Callable[[], object]:
    """mbrl-lib's CEM or MPPI over its own ensemble, one particle for each member (TSinf)."""
    from types import SimpleNamespace

    import numpy as np
    from mbrl.models import GaussianMLP, ModelEnv, OneDTransitionRewardModel
    from mbrl.planning import CEMOptimizer, MPPIOptimizer

    network = GaussianMLP(
        OBSERVATIONS + ACTIONS,
        OBSERVATIONS,
        "cpu",
        num_layers=LAYERS,
        ensemble_size=MEMBERS,
        hid_size=WIDTH,
        deterministic=True,
        propagation_method="fixed_model",
        activation_fn_cfg={"_target_": "torch.nn.SiLU"},
    )
    model = OneDTransitionRewardModel(network, target_is_delta=True, normalize=False, learned_rewards=False)

    def reward(action: Tensor, state: Tensor) -> Tensor:
        return state[:, :1]

    def never(action: Tensor, state: Tensor) -> Tensor:
        return torch.zeros(len(state), 1, dtype=torch.bool)

    spaces = SimpleNamespace(observation_space=None, action_space=None)
    world = ModelEnv(spaces, model, never, reward, torch.Generator().manual_seed(0))
    bounds = [[-1.0] * ACTIONS] * HORIZON, [[1.0] * ACTIONS] * HORIZON
    cpu = torch.device("cpu")
    search: CEMOptimizer | MPPIOptimizer
    if planner == "cem":
        search = CEMOptimizer(ITERATIONS, ELITES / CANDIDATES, CANDIDATES, *bounds, alpha=0.1, device=cpu)
    else:
        search = MPPIOptimizer(1, CANDIDATES, gamma=1.0, sigma=0.5, beta=0.6, lower_bound=bounds[0], upper_bound=bounds[1], device=cpu)
    start, first = np.zeros(OBSERVATIONS, np.float32), torch.zeros(HORIZON, ACTIONS)
    return lambda: search.optimize(lambda actions: world.evaluate_action_sequences(actions, start, MEMBERS), x0=first)


def main() -> None:
    """Times one peer."""
    name, planner, repeats, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    plan = {"torchrl": torchrl, "pytorch_mppi": pytorch_mppi, "mbrl": mbrl}[name](planner)
    times = []
    with torch.no_grad():
        for _ in range(int(repeats) + 2):
            started = time.perf_counter()
            plan()
            times.append(1e3 * (time.perf_counter() - started))
    print(json.dumps({"ms": times[2:], "version": f"{name} {importlib.metadata.version(name)}, torch {torch.__version__}"}))


if __name__ == "__main__":
    main()
