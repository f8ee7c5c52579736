"""Dreamer's imagination and its controller."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from small_dreamer import VERSIONS, config, learner
from small_sac import arm

from wm_ros.agents.dreamer import DreamerController, imagine, lambda_returns
from wm_ros.agents.imagined_pictures import GOLDEN, LOOK_AHEAD
from wm_ros.contract import schema
from wm_ros.contract.errors import UserError
from wm_ros.contract.schema import Contract
from wm_ros.export import controller as export
from wm_ros.export.template import filled, template
from wm_ros.models import rssm_adjoint
from wm_ros.models.rssm import State
from wm_ros.runtime.acting_graph import acting_graph
from wm_ros.runtime.controller import ControllerSession


def controller(version: str = "v3", explore: bool = False) -> DreamerController:
    made = DreamerController(arm(), config(version), explore)
    made.networks.initialize(torch.Generator().manual_seed(5))
    return made


def camera_arm(size: int = 16) -> Contract:
    """The arm with a camera."""
    data = arm().model_dump(mode="json")
    image = {"height": size, "width": size, "encoding": "rgb8"}
    camera = {"name": "front", "topic": "camera/front", "type": "sensor_msgs/msg/Image", "max_age_s": 1.0, "image": image}
    data["observation"].append(camera)
    return schema.parse(data, "test")


def test_lambda_returns_are_the_average_of_all_n_step_returns() -> None:
    generator = torch.Generator().manual_seed(0)
    horizon, weight = 6, 0.8
    reward, value = (torch.randn((horizon, 3), generator=generator) for _ in range(2))
    discount = torch.rand((horizon, 3), generator=generator)
    expected = torch.zeros(horizon, 3)
    for t in range(horizon):
        n_step = []
        for n in range(1, horizon - t + 1):
            total, so_far = torch.zeros(3), torch.ones(3)
            for k in range(n):
                total = total + so_far * reward[t + k]
                so_far = so_far * discount[t + k]
            n_step.append(total + so_far * value[t + n - 1])
        mixed = sum((1 - weight) * weight**i * r for i, r in enumerate(n_step[:-1]))
        expected[t] = mixed + weight ** (len(n_step) - 1) * n_step[-1]
    torch.testing.assert_close(lambda_returns(reward, value, discount, weight), expected)


@pytest.mark.parametrize(
    ("version", "through_dynamics", "actor_rows"), [("v3", True, 80), ("v3", False, 80), ("v1", True, 40), ("v1", False, 80)]
)
def test_imagination_asks_every_network_once_per_state_and_the_actor_again_where_its_loop_has_no_gradient(
    version: str, through_dynamics: bool, actor_rows: int
) -> None:
    networks = controller(version).networks
    rssm = networks.world.rssm
    asked = {"actor": networks.actor.network.output, "prior": rssm.prior.output, "cell": getattr(rssm.cell, "mixed", None)}
    rows = {name: 0 for name, module in asked.items() if module is not None}

    def count(name: str) -> object:
        def hook(module: object, inputs: tuple[torch.Tensor, ...], output: object) -> None:
            rows[name] += inputs[0].shape[:-1].numel()

        return hook

    for name in rows:
        asked[name].register_forward_hook(count(name))
    start = rssm.start(10)
    imagined = imagine(networks, start, torch.rand(4, 10, 4), torch.randn(4, 10, 3), through_dynamics)
    assert rows == {name: actor_rows if name == "actor" else 40 for name in rows}
    assert imagined.feature.shape == (5, 10, networks.world.feature_size) and imagined.mean.shape == (4, 10, 3)
    assert imagined.feature.requires_grad is through_dynamics and imagined.mean.requires_grad


def test_the_gradient_through_the_dynamics_by_hand_is_that_of_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = controller().networks
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in networks.parameters():  # biases and norms away from where they begin
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    start = State(torch.randn((10, 24), generator=generator), torch.rand((10, 20), generator=generator))
    latent, wiggle = torch.rand((5, 10, 4), generator=generator), torch.randn((5, 10, 3), generator=generator)
    found = []
    for by_hand in (True, False):
        monkeypatch.setattr(rssm_adjoint, "applies", lambda *of, by_hand=by_hand: by_hand)
        imagined = imagine(networks, start, latent, wiggle, through_dynamics=True)
        parts = (imagined.feature, imagined.mean, imagined.std, imagined.sample)
        generator = torch.Generator().manual_seed(2)
        loss = sum((part * torch.randn(part.shape, generator=generator)).sum() for part in parts)
        found.append([*parts, *torch.autograd.grad(loss, list(networks.actor.parameters()))])
    assert "_Imagined" in str(found[0][0].grad_fn.next_functions[1][0].next_functions) and found[0][4].abs().max() > 0.01
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)


def test_the_gradient_through_the_dynamics_is_that_of_finite_differences() -> None:
    networks = controller("v1").networks.double()
    generator = torch.Generator().manual_seed(1)
    latent, wiggle = (torch.randn((3, 2, n), generator=generator, dtype=torch.float64) for n in (4, 3))
    start = State(*(torch.randn((2, n), generator=generator, dtype=torch.float64) for n in (24, 4)))

    def reached() -> torch.Tensor:
        return networks.world.reward(imagine(networks, start, latent, wiggle, through_dynamics=True).feature[1:]).sum()

    bias = networks.actor.network.output.bias
    found = torch.autograd.grad(reached(), bias)[0]
    # The actor sees its features without gradient, so the difference is taken with its later inputs held.
    fixed = imagine(networks, start, latent, wiggle, through_dynamics=True).feature.detach()

    def held() -> torch.Tensor:
        state, total = start, torch.zeros((), dtype=torch.float64)
        for h in range(3):
            mean, std = networks.actor(fixed[h])
            state = networks.world.rssm.imagine_step(state, networks.actor.limited(mean + std * wiggle[h]), latent[h])
            total = total + networks.world.reward(state.feature).sum()
        return total

    with torch.no_grad():
        for i in range(len(bias)):
            step = torch.zeros_like(bias)
            step[i] = 1e-6
            bias.add_(step)
            above = held()
            bias.sub_(2 * step)
            below = held()
            bias.add_(step)
            torch.testing.assert_close(found[i], (above - below) / 2e-6, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("version", VERSIONS)
def test_actions_are_within_the_limits_of_each_joint(version: str) -> None:
    policy = controller(version, explore=True)
    carry = {name: torch.zeros(shape) for name, shape in policy.carry.items()}
    generator = torch.Generator().manual_seed(0)
    low, high = (torch.tensor([getattr(j, side) for j in arm().action.joints]) for side in ("low", "high"))
    for _ in range(20):
        noise = {"latent": torch.rand(4, generator=generator), "action": 5.0 * torch.randn(3, generator=generator)}
        with torch.no_grad():
            result = policy(10.0 * torch.randn(7, generator=generator), carry, noise)
        carry = result["next"]
        assert (result["action"] >= low).all() and (result["action"] <= high).all()


@pytest.mark.parametrize("version", VERSIONS)
def test_torch_and_onnxruntime_agree_over_a_rollout_of_500_steps(version: str, tmp_path: Path) -> None:
    policy, contract = controller(version), arm()
    written = export.write(tmp_path / "controller.onnx", template(policy, contract), policy, contract, export.Origin(version=1, seed=5))
    assert written.parity < 1e-4
    session = ControllerSession.load(tmp_path / "controller.onnx", contract)
    session.reset(9)
    draws = np.random.Generator(np.random.PCG64(np.random.SeedSequence(9)))
    rng = np.random.default_rng(3)
    observation, carry = np.zeros(7, np.float32), {name: torch.zeros(shape) for name, shape in policy.carry.items()}
    worst, actions = 0.0, []
    for _ in range(500):
        noise = draws.random(4, np.float32) if version != "v1" else draws.standard_normal(4, np.float32)
        with torch.no_grad():
            expected = policy(torch.from_numpy(observation), carry, {"latent": torch.from_numpy(noise)})
        carry = expected["next"]
        output = session.act(observation)
        session.prepare()
        worst = max(worst, float(np.abs(output.action - expected["action"].numpy()).max()))
        actions.append(output.action.copy())
        observation = (0.9 * observation + 0.3 * rng.standard_normal(7)).astype(np.float32)
    assert worst < 1e-4 and np.std(actions, axis=0).min() > 1e-3


@pytest.mark.parametrize(("see", "layers"), [("all", "convolutions"), ("images", "convolutions"), ("images", "patches")])
def test_with_cameras_torch_and_onnxruntime_agree_over_a_rollout_of_500_steps(see: str, layers: str, tmp_path: Path) -> None:
    contract, whole = camera_arm(), config()
    policy = DreamerController(contract, replace(whole, world=replace(whole.world, see=see, image_depth=4, image_layers=layers)))
    policy.networks.initialize(torch.Generator().manual_seed(5))
    written = export.write(tmp_path / "controller.onnx", template(policy, contract), policy, contract, export.Origin(version=1, seed=5))
    assert written.parity < 1e-4
    session = ControllerSession.load(tmp_path / "controller.onnx", contract)
    assert session.cameras == ("front",)
    session.reset(9)
    draws = np.random.Generator(np.random.PCG64(np.random.SeedSequence(9)))
    rng = np.random.default_rng(3)
    carry = {name: torch.zeros(shape) for name, shape in policy.carry.items()}
    worst, actions = 0.0, []
    for _ in range(500):
        observation = rng.standard_normal(7).astype(np.float32)
        picture = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        noise = {"latent": torch.from_numpy(draws.random(4, np.float32))}
        with torch.no_grad():
            expected = policy(torch.from_numpy(observation), carry, noise, {"front": torch.from_numpy(picture).unsqueeze(0)})
        carry = expected["next"]
        output = session.act(observation, {"front": picture})
        session.prepare()
        worst = max(worst, float(np.abs(output.action - expected["action"].numpy()).max()))
        actions.append(output.action.copy())
    assert worst < 1e-4 and np.std(actions, axis=0).min() > 1e-3


@pytest.mark.parametrize(
    ("version", "see", "layers"), [("v3", "all", "convolutions"), ("v1", "images", "convolutions"), ("v3", "images", "patches")]
)
def test_what_cameras_will_show_is_imagined_with_the_policys_own_actions(version: str, see: str, layers: str, tmp_path: Path) -> None:
    contract, whole = camera_arm(), config(version)
    policy = DreamerController(contract, replace(whole, world=replace(whole.world, see=see, image_depth=4, image_layers=layers)))
    policy.networks.initialize(torch.Generator().manual_seed(5))
    written = export.write(tmp_path / "controller.onnx", template(policy, contract), policy, contract, export.Origin(version=1, seed=5))
    assert written.parity < 1e-4
    session = ControllerSession.load(tmp_path / "controller.onnx", contract)
    session.act(np.full(7, 0.3, np.float32), {"front": np.full((16, 16, 3), 90, np.uint8)})
    inputs = session.inputs()
    imagined = session.imagine(inputs)
    assert session.imagined_cameras == ("front",) and imagined["imagined_front"].shape == (LOOK_AHEAD, 16, 16, 3)
    assert ("plan.observation" in imagined) == (see == "all")
    # One step after the other by hand, from the state that the tick ended in.
    networks, noise = policy.networks, torch.from_numpy(inputs["noise.latent"])[None]
    state = State(torch.from_numpy(imagined["next.deter"])[None], torch.from_numpy(imagined["next.stoch"])[None])
    with torch.no_grad():
        for row in range(LOOK_AHEAD):
            action = networks.actor.limited(networks.actor(state.feature)[0])
            np.testing.assert_allclose(imagined["plan.action"][row], networks.to_contract(action)[0], atol=1e-4)
            drawn = torch.zeros_like(noise) if version == "v1" else (noise + GOLDEN * (row + 1)) % 1.0
            state = networks.world.rssm.imagine_step(state, action, drawn)
            shown = networks.world.decode_images(state)["front"][0].numpy().astype(int)
            assert np.abs(shown - imagined["imagined_front"][row]).max() <= 1
            if see == "all":
                np.testing.assert_allclose(imagined["plan.observation"][row], networks.world.decode(state)[0], atol=1e-4, rtol=1e-4)


def test_the_robot_decodes_no_pictures(tmp_path: Path) -> None:
    contract, whole = camera_arm(), config()
    policy = DreamerController(contract, replace(whole, world=replace(whole.world, image_depth=4)))
    graph = filled(template(policy, contract), policy)
    acting = acting_graph(graph.SerializeToString())
    assert acting is not None
    kinds, weights = (lambda m: {n.op_type for n in m.graph.node}), (lambda m: {i.name for i in m.graph.initializer})
    driving = onnx.load_model_from_string(acting)
    assert "Loop" in kinds(graph) and not {"Loop", "ConvTranspose"} & kinds(driving) and "Conv" in kinds(driving)
    assert any("decoder" in name for name in weights(graph)) and not any("decoder" in name for name in weights(driving))


def test_cameras_of_another_size_than_can_be_halved_are_refused() -> None:
    with pytest.raises(UserError, match=r"dreamer\.world\.see: pictures of 18 x 18: both must be multiples of 4"):
        DreamerController(camera_arm(size=18), config())


def test_a_reset_begins_with_an_empty_carry(tmp_path: Path) -> None:
    policy, contract = controller(), arm()
    export.write(tmp_path / "controller.onnx", template(policy, contract), policy, contract, export.Origin(version=1, seed=5))
    session = ControllerSession.load(tmp_path / "controller.onnx", contract)
    observation, runs = np.ones(7, np.float32), []
    for _ in range(2):
        session.reset(1)
        runs.append([session.act(observation).action.copy() for _ in range(3)])
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0][0], runs[0][2])


def test_the_networks_of_a_learner_fit_the_controller() -> None:
    policy = DreamerController(arm(), config())
    policy.networks.load_state_dict(learner().networks.state_dict())
