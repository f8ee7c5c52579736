"""The recurrence: resets at the borders of episodes, one step beside many, the block cell beside its definition."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_dreamer import VERSIONS, config

from wm_ros.models import rssm_adjoint
from wm_ros.models.rssm import Rssm, State
from wm_ros.models.rssm_layers import BlockGru, initialize


def model(version: str = "v3") -> Rssm:
    made = Rssm(3, 9, config(version).rssm)
    initialize(made, torch.Generator().manual_seed(1))
    return made


def stretch(rssm: Rssm, length: int, rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return (
        2.0 * torch.rand((length, rows, 3), generator=generator) - 1.0,
        torch.randn((length, rows, 9), generator=generator),
        torch.rand((length, rows, rssm.latent.noise), generator=generator),
    )


@torch.no_grad()
@pytest.mark.parametrize("version", VERSIONS)
def test_at_the_border_of_an_episode_the_model_begins_anew(version: str) -> None:
    rssm = model(version)
    action, embedded, noise = stretch(rssm, 9, 2)
    first = torch.zeros(9, 2, dtype=torch.bool)
    first[4, 1] = True
    whole = rssm.observe(rssm.start(2), action, embedded, first, noise)
    begun, none = torch.cat([torch.zeros(1, 1, 3), action[5:, 1:]]), torch.zeros(5, 1, dtype=torch.bool)
    alone = rssm.observe(rssm.start(1), begun, embedded[4:, 1:], none, noise[4:, 1:])
    for name in ("posterior", "prior"):
        torch.testing.assert_close(getattr(whole, name)[4:, 1:], getattr(alone, name), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole.state.stoch[4:, 1:], alone.state.stoch, atol=1e-5, rtol=1e-5)
    unbroken = rssm.observe(rssm.start(2), action, embedded, torch.zeros_like(first), noise)
    assert torch.equal(whole.posterior[:, 0], unbroken.posterior[:, 0])
    assert not torch.allclose(whole.posterior[4, 1], unbroken.posterior[4, 1])


def test_no_gradient_crosses_the_border_of_an_episode() -> None:
    rssm = model()
    action, embedded, noise = stretch(rssm, 6, 1)
    embedded.requires_grad_()
    first = torch.zeros(6, 1, dtype=torch.bool)
    first[3] = True
    seen = rssm.observe(rssm.start(1), action, embedded, first, noise)
    by = torch.autograd.grad(seen.posterior[5].square().sum(), embedded)[0]
    assert torch.equal(by[:3], torch.zeros_like(by[:3])) and (by[3:].abs().sum((1, 2)) > 0).all()


def test_the_gradient_by_hand_is_that_of_autograd_over_borders_of_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    rssm = model()
    with torch.no_grad():
        for parameter in rssm.parameters():  # biases and norms away from where they begin
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    action, embedded, noise = stretch(rssm, 7, 3)
    embedded.requires_grad_()
    first = torch.zeros(7, 3, dtype=torch.bool)
    first[0, 0] = first[3, 1] = first[4, 2] = first[5, 2] = True
    generator = torch.Generator().manual_seed(6)
    start = State(torch.randn((3, 24), generator=generator), torch.rand((3, 20), generator=generator))
    found = []
    for by_hand in (True, False):
        monkeypatch.setattr(rssm_adjoint, "applies", lambda *of, by_hand=by_hand: by_hand)
        seen = rssm.observe(start, action, embedded, first, noise)
        parts = (seen.state.deter, seen.state.stoch, seen.posterior, seen.prior)
        generator = torch.Generator().manual_seed(7)
        loss = sum((part * torch.randn(part.shape, generator=generator)).sum() for part in parts)
        found.append([*parts, *torch.autograd.grad(loss, [embedded, *rssm.parameters()])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)


def test_the_gradient_by_hand_is_taken_for_the_parts_of_v3_alone() -> None:
    walked = []
    for version in VERSIONS:
        rssm = model(version)
        action, embedded, noise = stretch(rssm, 3, 2)
        seen = rssm.observe(rssm.start(2), action, embedded, torch.zeros(3, 2, dtype=torch.bool), noise)
        assert seen.state.deter.grad_fn is not None
        walked.append(type(seen.state.deter.grad_fn).__name__)
    assert walked[2] == "_ChainBackward" and "_ChainBackward" not in walked[:2]


@torch.no_grad()
@pytest.mark.parametrize("version", VERSIONS)
def test_a_stretch_is_the_same_as_its_steps(version: str) -> None:
    rssm = model(version)
    action, embedded, noise = stretch(rssm, 5, 3)
    whole = rssm.observe(rssm.start(3), action, embedded, torch.zeros(5, 3, dtype=torch.bool), noise)
    state = rssm.start(3)
    for t in range(5):
        state = rssm.observe_step(state, action[t], embedded[t], noise[t])
        torch.testing.assert_close(whole.state.deter[t], state.deter, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(whole.state.stoch[t], state.stoch, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_actions_past_their_limits_count_as_the_limits() -> None:
    rssm = model()
    state, noise = rssm.start(1), torch.full((1, 4), 0.5)
    steps = [rssm.observe_step(state, torch.full((1, 3), size), torch.ones(1, 9), noise).deter for size in (1.0, 7.0)]
    assert torch.equal(*steps)


@torch.no_grad()
def test_imagination_begins_where_the_posterior_is_and_takes_the_prior_s_latent() -> None:
    rssm = model()
    action, embedded, noise = stretch(rssm, 2, 3)
    seen = rssm.observe(rssm.start(3), action, embedded, torch.zeros(2, 3, dtype=torch.bool), noise)
    imagined = rssm.imagine_step(State(seen.state.deter[0], seen.state.stoch[0]), action[1], noise[1])
    torch.testing.assert_close(imagined.deter, seen.state.deter[1])
    torch.testing.assert_close(imagined.stoch, rssm.latent.sample(seen.prior[1], noise[1]))


@torch.no_grad()
def test_the_block_cell_is_a_gru_of_every_block_with_all_inputs() -> None:
    cell = BlockGru(stoch=6, actions=3, deter=12, hidden=5, blocks=3, norm="none", activation="silu")
    initialize(cell, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(4)
    deter, stoch, action = (torch.randn((2, n), generator=generator) for n in (12, 6, 3))
    silu = torch.nn.functional.silu
    inputs = torch.cat([silu(cell.deter_in(deter)), silu(cell.stoch_in(stoch)), silu(cell.action_in(action))], -1)
    expected = []
    hidden = [
        silu(torch.cat([deter[:, 4 * g : 4 * g + 4], inputs], -1) @ torch.cat([cell.own[g], cell.mixed.weight[4 * g : 4 * g + 4].T]))
        for g in range(3)
    ]
    for g in range(3):
        reset, candidate, update = (hidden[g] @ cell.gates[g]).chunk(3, -1)
        update = torch.sigmoid(update - 1.0)
        expected.append(update * torch.tanh(torch.sigmoid(reset) * candidate) + (1.0 - update) * deter[:, 4 * g : 4 * g + 4])
    torch.testing.assert_close(cell(deter, stoch, cell.action_part(action)), torch.cat(expected, -1), atol=1e-6, rtol=1e-5)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="blocks 5 must be 0 or divide deter 24"):
        replace(config().rssm, blocks=5)
    with pytest.raises(ValueError, match="classes 1"):
        replace(config().rssm, classes=1)
