"""The update of Dreamer: it learns, it repeats and resumes bit for bit, and it survives what is not finite."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from one_thread import one_thread  # noqa: F401
from safetensors.torch import load, save
from small_dreamer import VERSIONS, batch, config, fit, learner, paid_batch
from small_sac import arm

from wm_ros.agents.dreamer import V1, V2, V3, DreamerController
from wm_ros.contract.errors import UserError
from wm_ros.data.sequence_buffer import SequenceBuffer
from wm_ros.models.rssm import Observed, State
from wm_ros.training.dreamer_learner import V1_FIT, DreamerFitConfig, DreamerLearner, replay_returns, replayed


def run(trained: DreamerLearner, updates: int, seed: int = 0) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    losses = [trained.update(batch(), trained.draw_noise(generator)) for _ in range(updates)]
    return [float(loss.world.total) for loss in losses]


@pytest.mark.parametrize("version", VERSIONS)
def test_one_batch_is_learned_by_heart(version: str) -> None:
    adam = replace(V1_FIT.optimizer, warm_up=0)
    trained = learner(version, learning_rate=1e-2, actor_rate=1e-3, critic_rate=1e-2, optimizer=adam)
    losses = run(trained, 100)
    floor = {"v1": 6.0, "v2": 1.0, "v3": 1.1}[version]  # what the free nats leave of the divergence
    assert sum(losses[-10:]) / 10 - floor < 0.4 * (losses[0] - floor)


@pytest.mark.parametrize("version", VERSIONS)
def test_equal_seeds_and_batches_give_equal_networks(version: str) -> None:
    first, second = learner(version), learner(version)
    assert run(first, 3) == run(second, 3)
    for name, tensor in first.state().items():
        assert torch.equal(tensor, second.state()[name]), name


@pytest.mark.parametrize("version", VERSIONS)
def test_a_checkpoint_goes_on_bit_for_bit(version: str) -> None:
    whole, begun = learner(version), learner(version)
    run(whole, 3)
    run(begun, 3)
    stored = save(begun.state())
    resumed = learner(version, seed=9)
    resumed.restore(load(stored))
    assert run(whole, 3, seed=1) == run(resumed, 3, seed=1)
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, resumed.state()[name]), name


def test_an_update_moves_world_model_actor_and_critic() -> None:
    for version in VERSIONS:
        trained = learner(version)
        before = {name: o.values.clone() for name, o in trained.optimizers.items()}
        run(trained, 2)
        for name, optimizer in trained.optimizers.items():
            assert (optimizer.values != before[name]).float().mean() > 0.5, (version, name)


def test_what_is_not_finite_is_skipped_and_counted_and_named_after_some_in_a_row() -> None:
    trained = learner()
    generator = torch.Generator().manual_seed(0)
    good, bad = batch(), batch(1)
    bad.reward[2, 3] = float("nan")
    before = trained.state()
    for _ in range(2):
        assert trained.update(bad, trained.draw_noise(generator)).skipped
    assert trained.skipped == 2 and trained.updates == 0
    assert all(torch.equal(v, before[k]) for k, v in trained.state().items() if k != "counters")
    assert not trained.update(good, trained.draw_noise(generator)).skipped
    for _ in range(2):
        trained.update(bad, trained.draw_noise(generator))
    with pytest.raises(UserError, match=r"3 updates in a row .* after 1 that were: the batch's reward, .*lower fit.learning_rate"):
        trained.update(bad, trained.draw_noise(generator))


def test_slow_critics_follow_as_their_version_says() -> None:
    trained = learner("v2", slow_every=3)
    first = trained.state()["slow"]
    run(trained, 2)
    assert torch.equal(trained.state()["slow"], first)
    run(trained, 1)
    assert torch.equal(trained.state()["slow"], trained.optimizers["critic"].values)
    trained = learner("v3")
    before, old = trained.optimizers["critic"].values.clone(), trained.state()["slow"]
    run(trained, 1)
    torch.testing.assert_close(trained.state()["slow"], 0.98 * old + 0.02 * trained.optimizers["critic"].values)
    assert not torch.equal(before, trained.optimizers["critic"].values)


def test_returns_count_in_the_running_range_of_their_percentiles_but_never_in_less_than_one() -> None:
    trained = learner()
    returns = torch.linspace(0.0, 100.0, 1001)
    range_, scale = trained._scale(returns)
    torch.testing.assert_close(range_, torch.tensor([0.05, 0.95]))  # a hundredth of 5 and 95
    torch.testing.assert_close(scale, torch.tensor(90.0))
    assert float(trained._scale(returns / 1000.0)[1]) == 1.0
    trained.return_range, trained.updates = range_, 1
    second = trained._scale(returns * 2.0)[1]
    torch.testing.assert_close(second, torch.tensor((0.99 * 90.0 + 180.0) / 1.99))


def test_replay_returns_stop_at_the_ends_of_episodes_and_bootstrap_from_imagination() -> None:
    generator = torch.Generator().manual_seed(3)
    length, discount, weight = 6, 0.9, 0.7
    data = batch().each(lambda column: column[3:, :length].clone())
    data.first[0, 3] = True  # rows 0 to 2, cut by time, and 3 to 5
    data = data.each(lambda column: column.transpose(0, 1))
    bootstrap, reward = torch.randn((length, 1), generator=generator), data.reward
    returns, last = replay_returns(data, bootstrap, discount, weight)

    def mixed(t: int, following: torch.Tensor) -> torch.Tensor:
        return reward[t] + discount * ((1 - weight) * bootstrap[t] + weight * following)

    torch.testing.assert_close(returns[4], reward[5] + discount * bootstrap[5])
    torch.testing.assert_close(returns[3], mixed(4, returns[4]))
    torch.testing.assert_close(returns[1], reward[2] + discount * bootstrap[2])
    torch.testing.assert_close(returns[0], mixed(1, returns[1]))
    assert last[:, 0].tolist() == [False, False, True, False, False]
    data.terminated[2] = True
    returns, last = replay_returns(data, bootstrap, discount, weight)
    torch.testing.assert_close(returns[1], reward[2])
    torch.testing.assert_close(returns[0], mixed(1, returns[1]))
    assert last[:, 0].tolist() == [False, False, True, False, False]


@pytest.mark.parametrize(("version", "reinforce"), [("v1", 0.0), ("v2", 0.0), ("v2", 0.5), ("v3", 0.0), ("v3", 1.0)])
def test_the_actor_of_each_version_learns_which_action_is_rewarded(version: str, reinforce: float) -> None:
    """The data reward the first joint's action; the actor must find this out in imagination."""
    adam = replace(V1_FIT.optimizer, warm_up=0)
    trained = learner(version, learning_rate=5e-3, actor_rate=1e-2, critic_rate=5e-3, optimizer=adam, reinforce=reinforce)
    generator = torch.Generator().manual_seed(4)
    for _ in range(180 if reinforce == 1.0 else 100):  # then it learns from what an action gave alone, not through the model
        trained.update(paid_batch(trained, generator), trained.draw_noise(generator))
    feature = trained.networks.world.rssm.start(1).feature
    mean = trained.networks.actor.limited(trained.networks.actor(feature)[0])[0]
    assert mean[0] > 0.5


@pytest.mark.parametrize("version", VERSIONS)
def test_a_stretch_that_begins_at_the_stored_state_goes_on_where_the_last_one_ended(version: str) -> None:
    whole, data = learner(version, stored_states=True), batch(length=16)
    data.first.zero_()
    data.first[0, 8] = True  # there it makes no difference what is stored
    noise = whole.draw_noise(torch.Generator().manual_seed(1))
    both = torch.rand((16, *noise.posterior.shape[1:]), generator=torch.Generator().manual_seed(2))

    def reached(rows: slice, before: dict[str, torch.Tensor]) -> State:
        part = replace(data.each(lambda column: column[:, rows]), before=before)
        return learner(version, stored_states=True).update(part, replace(noise, posterior=both[rows])).reached

    first = reached(slice(0, 16), {})
    middle = State(first.deter[7], first.stoch[7])
    before = {name: torch.from_numpy(part) for name, part in whole.packed(middle).items()}
    second, anew = reached(slice(8, 16), before), reached(slice(8, 16), {})
    torch.testing.assert_close(second.deter, first.deter[8:], atol=5e-3, rtol=5e-3)  # half precision
    assert torch.equal(second.deter[:, 0], anew.deter[:, 0]) and not torch.allclose(second.deter[0, 1:], anew.deter[0, 1:], atol=1e-2)


def test_the_replay_remembers_where_the_model_was_with_the_rows_that_were_learned_from() -> None:
    trained, data = learner(), batch()
    buffer = SequenceBuffer(100, 7, 3, remembered=trained.kept())
    for t in range(8):
        buffer.add(0, data.action[0, t].numpy(), 0.5, data.observation[0, t].numpy(), False)
    losses = replayed(trained, buffer, np.random.default_rng(0), torch.Generator().manual_seed(0))
    state = buffer.state()
    last = losses.reached.deter[:, -1].numpy()  # all stretches are the same one, with other noise
    np.testing.assert_allclose(state["remembered.deter"][0], last, atol=1e-3)
    assert state["remembered.stoch"].shape == (1, 8, 4) and state["remembered.stoch"].min() >= 1
    assert learner("v1").kept() == learner("v2").kept() == {}


def exploring(weight: float, version: str = "v3", **changes: object) -> DreamerLearner:
    networks = replace(config(version), explore=weight, predictors=3)
    return DreamerLearner(arm(), networks, replace(fit(version), **changes), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("version", VERSIONS)
def test_disagreement_is_rewarded_in_imagination_and_the_world_model_learns_as_without_it(version: str) -> None:
    plain, curious = exploring(0.0, version, replay_value=0.0), exploring(50.0, version, replay_value=0.0)
    noise = plain.draw_noise(torch.Generator().manual_seed(1))
    first, second = plain.update(batch(), noise), curious.update(batch(), noise)
    assert second.value > first.value + 1.0
    assert torch.equal(plain.optimizers["world"].values, curious.optimizers["world"].values)
    assert not torch.equal(plain.optimizers["actor"].values, curious.optimizers["actor"].values)
    assert "predictors" not in plain.optimizers and curious.optimizers["predictors"].steps == 1


def test_recorded_rows_are_rewarded_for_disagreement_too_but_not_those_that_nothing_led_to() -> None:
    curious, data = exploring(2.0), batch().each(lambda column: column.transpose(0, 1))
    state = State(torch.randn(8, 4, 24), torch.rand(8, 4, 20))
    seen = Observed(state, posterior=torch.randn(8, 4, 20), prior=torch.randn(8, 4, 20))
    loss, bonus = curious._predicted(seen, curious.networks.to_half_ranges(data.action), data.first)
    assert loss > 0 and bonus.shape == (8, 4) and not bonus[0].any()
    assert torch.equal(bonus[1:] > 0, ~data.first[1:])


def test_predictors_are_fitted_to_the_means_of_latents_and_not_to_the_draws() -> None:
    curious, data = exploring(2.0), batch().each(lambda column: column.transpose(0, 1))
    action, posterior = curious.networks.to_half_ranges(data.action), torch.randn(8, 4, 20)
    deter, before = torch.randn(8, 4, 24), torch.rand(8, 4, 20)
    mean, losses = curious.networks.world.rssm.latent.mean(posterior[1:]), []
    for last_draw in (torch.zeros(1, 4, 20), torch.ones(1, 4, 20)):
        state = State(deter, torch.cat([before[:-1], last_draw]))
        losses.append(curious._predicted(Observed(state, posterior, posterior), action, data.first)[0])
    feature = torch.cat([deter, before], -1)[:-1]
    expected = curious.networks.predictors.loss(feature, action[1:].clamp(-1.0, 1.0), mean)
    assert torch.equal(*losses)
    torch.testing.assert_close(losses[0], ((~data.first[1:]) * expected).mean())


def test_predictors_learn_and_go_on_bit_for_bit() -> None:
    adam = replace(V1_FIT.optimizer, warm_up=0)
    rates = {"learning_rate": 1e-3, "optimizer": adam}
    whole, begun = exploring(1.0, **rates), exploring(1.0, **rates)
    run(whole, 2)
    run(begun, 2)
    resumed = exploring(1.0, **rates)
    resumed.restore(load(save(begun.state())))
    assert run(whole, 2, seed=1) == run(resumed, 2, seed=1)
    assert torch.equal(whole.optimizers["predictors"].values, resumed.optimizers["predictors"].values)
    assert DreamerController(arm(), replace(config(), explore=1.0, predictors=3)).networks.load_state_dict(whole.networks.state_dict())


def test_the_worth_of_disagreement_fades_to_nothing_and_then_the_predictors_rest() -> None:
    fading, noise = exploring(50.0, explore_updates=4), exploring(50.0).draw_noise(torch.Generator().manual_seed(1))
    worth, values, steps = [], [], []
    for _ in range(6):
        worth.append(fading.explore)
        values.append(float(fading.update(batch(), noise).value))
        steps.append(fading.optimizers["predictors"].steps)
    assert worth == [50.0, 37.5, 25.0, 12.5, 0.0, 0.0] and steps == [1, 2, 3, 4, 4, 4]
    assert values[0] > values[3] + 0.5 and values[3] > values[4] + 0.1 and abs(values[4] - values[5]) < 0.1
    assert exploring(50.0).explore == 50.0


def test_exploring_settings_that_cannot_be_are_refused() -> None:
    planning = {"explore": 1.0, "act": "planner"}
    for bad, why in (({"explore": -1.0}, "explore -1"), ({"predictors": 1}, "predictors 1"), (planning, "act: actor")):
        with pytest.raises(ValueError, match=why):
            replace(config(), **bad)


def test_settings_that_cannot_be_are_refused() -> None:
    refused = (
        ({"length": 1}, "length at least 2"),
        ({"reinforce": 1.5}, "reinforce 1.5"),
        ({"warm_up": 10}, "stretches are drawn"),
        ({"explore_updates": -1}, "explore_updates must not"),
    )
    for bad, why in refused:
        with pytest.raises(ValueError, match=why):
            DreamerFitConfig(**bad)


def test_the_versions_differ_in_their_parts_as_their_papers_do() -> None:
    assert [v.rssm.latent for v in (V1, V2, V3)] == ["gaussian", "categorical", "categorical"]
    assert [v.world.symlog for v in (V1, V2, V3)] == [False, False, True]
    assert [v.rssm.blocks > 0 for v in (V1, V2, V3)] == [False, False, True]
    assert [v.critic for v in (V1, V2, V3)] == ["gaussian", "gaussian", "twohot"]
