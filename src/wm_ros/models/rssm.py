"""The recurrent state-space model (PlaNet, Hafner et al. 2019, arXiv 1811.04551): a deterministic recurrent and a stochastic part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor, nn

from wm_ros.models import rssm_adjoint as adjoint
from wm_ros.models.products import products_of
from wm_ros.models.rssm_latent import CategoricalLatent, GaussianLatent, Latent
from wm_ros.models.rssm_layers import Activation, BlockGru, BlockParts, DenseGru, Mlp, Norm, Normed


@dataclass(frozen=True)
class RssmConfig:
    """Sizes and kinds of the parts; the defaults are DreamerV3's at its size of one million parameters."""

    latent: Literal["categorical", "gaussian"] = "categorical"
    """Of the stochastic part: V2 and V3 have categories, V1 a Gaussian."""
    groups: int = 32
    """Categorical variables, or dimensions of the Gaussian."""
    classes: int = 4
    """Of each categorical variable; a Gaussian has none."""
    unimix: float = 0.01
    """Share of the uniform distribution in every categorical one (V3)."""
    deter: int = 512
    """Units of the deterministic part."""
    hidden: int = 64
    """Units of the layers in front of the recurrence and of both distributions."""
    blocks: int = 8
    """Diagonal blocks of the recurrent weights (V3); 0 takes the dense cell of V1 and V2."""
    prior_layers: int = 2
    """Hidden layers from the deterministic part to the prior."""
    posterior_layers: int = 1
    """Hidden layers from the deterministic part and the embedded observation to the posterior."""
    norm: Norm = "rms"
    """After hidden products: V3 root mean square; V1 none; V2 has `layer` in its recurrent cell (see `dense_norm`)."""
    dense_norm: bool = True
    """Whether dense layers have the norm as well, not the recurrent cell alone (V2)."""
    activation: Activation = "silu"
    """V3 SiLU, V1 and V2 ELU."""

    def __post_init__(self) -> None:
        for name in ("groups", "deter", "hidden", "prior_layers", "posterior_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if self.latent == "categorical" and self.classes < 2:
            raise ValueError(f"classes {self.classes} must be at least 2")
        if not 0.0 <= self.unimix < 1.0:
            raise ValueError(f"unimix {self.unimix} must be at least 0 and below 1")
        if self.blocks < 0 or (self.blocks and self.deter % self.blocks):
            raise ValueError(f"blocks {self.blocks} must be 0 or divide deter {self.deter}")

    @property
    def layer_norm(self) -> Norm:
        """Norm of dense layers."""
        return self.norm if self.dense_norm else "none"

    def make_latent(self) -> Latent:
        """The stochastic part."""
        if self.latent == "gaussian":
            return GaussianLatent(self.groups)
        return CategoricalLatent(self.groups, self.classes, self.unimix)


@dataclass(frozen=True, eq=False)
class State:
    """Where the model is."""

    deter: Tensor
    """[..., D]."""
    stoch: Tensor
    """[..., S], a sample."""

    @property
    def feature(self) -> Tensor:
        """[..., D+S], what heads, actor and critic see."""
        return torch.cat([self.deter, self.stoch], dim=-1)


@dataclass(frozen=True, eq=False)
class Observed:
    """What the model makes of a stretch of data."""

    state: State
    """[L, B, ...], posterior samples."""
    posterior: Tensor
    """[L, B, P], parameters of the latent given the observation too."""
    prior: Tensor
    """[L, B, P], parameters of the latent given the past alone."""


@dataclass(frozen=True, eq=False)
class Trace:
    """Of an imagined step, what its gradient needs."""

    parts: BlockParts
    """Of the cell."""
    products: list[Tensor]
    """[N, hidden], of the prior's hidden layers."""
    raw: Tensor
    """[N, P], the prior."""


class Rssm(nn.Module):
    """The recurrence and its two distributions; actions are in half ranges, and clipped to them."""

    def __init__(self, actions: int, embedded: int, config: RssmConfig) -> None:
        """Args: sizes of an action and of an embedded observation, and of the model."""
        super().__init__()
        self.config, self.latent = config, config.make_latent()
        norm, activation, hidden = config.layer_norm, config.activation, config.hidden
        stoch, parameters = self.latent.size, self.latent.parameters
        self.cell = (
            BlockGru(stoch, actions, config.deter, hidden, config.blocks, norm, activation)
            if config.blocks
            else DenseGru(stoch, actions, config.deter, hidden, config.norm, activation)
        )
        self.prior = Mlp(config.deter, hidden, config.prior_layers, parameters, norm, activation)
        # The first layer of the posterior in two parts: that of the observations is one product for a whole stretch.
        self.from_deter, self.from_embedded = nn.Linear(config.deter, hidden), nn.Linear(embedded, hidden, bias=False)
        self.after_first = Normed(hidden, norm, activation)
        self.posterior = Mlp(hidden, hidden, config.posterior_layers - 1, parameters, norm, activation)

    def start(self, *batch: int) -> State:
        """The state `[*batch, ...]` before the first observation: zero."""
        like = self.from_deter.weight
        return State(like.new_zeros(*batch, self.config.deter), like.new_zeros(*batch, self.latent.size))

    def observe_step(self, state: State, action: Tensor, embedded: Tensor, noise: Tensor) -> State:
        """The posterior state after one more action and observation.

        Args:
            state: [B, ...], before.
            action: [B, A], that led here; zero at an episode's first observation, where the state is zero too.
            embedded: [B, E].
            noise: [B, G].
        """
        deter = self.cell(state.deter, state.stoch, self.cell.action_part(action.clamp(-1.0, 1.0)))
        return State(deter, self.latent.sample(self._posterior(deter, self.from_embedded(embedded)), noise))

    def observe(self, start: State, action: Tensor, embedded: Tensor, first: Tensor, noise: Tensor) -> Observed:
        """Follows L steps of data, and begins anew wherever an episode does.

        Args:
            start: [B, ...], before the first step.
            action: [L, B, A], that led to each observation.
            embedded: [L, B, E].
            first: [L, B] bool, where an episode begins: neither state nor action from before count there.
            noise: [L, B, G].
        """
        keep = (~first).to(action.dtype).unsqueeze(-1)
        parts, embedded = self.cell.action_part(action.clamp(-1.0, 1.0) * keep), self.from_embedded(embedded)
        by_hand = torch.is_grad_enabled() and self.known_by_hand and self.config.posterior_layers == 1
        with torch.set_grad_enabled(torch.is_grad_enabled() and not by_hand), products_of(first.shape[1]):
            deter, stoch, raw = self._walk(start, parts, embedded, first, keep, noise)
        if by_hand:
            deter, stoch, raw = self._chained(start, parts, embedded, first, keep, (deter, stoch, raw))
        return Observed(State(deter, stoch), raw, self.prior(deter))

    def _walk(self, start: State, parts: Tensor, embedded: Tensor, first: Tensor, keep: Tensor, noise: Tensor) -> adjoint.Walked:
        """Deterministic parts, samples and posteriors `[L, B, ...]`, one step behind the other."""
        deter, stoch = start.deter, start.stoch
        deters, stochs, posteriors = [], [], []
        # Unbound, not indexed: the gradient of every index would be a tensor of the whole stretch.
        steps = zip(first.any(1).tolist(), keep.unbind(), parts.unbind(), embedded.unbind(), noise.unbind(), strict=True)
        for begins, kept, part, seen, draw in steps:
            if begins:
                deter, stoch = deter * kept, stoch * kept
            deter = self.cell(deter, stoch, part)
            raw = self._posterior(deter, seen)
            stoch = self.latent.sample(raw, draw)
            deters.append(deter)
            stochs.append(stoch)
            posteriors.append(raw)
        return torch.stack(deters), torch.stack(stochs), torch.stack(posteriors)

    def _chained(
        self, start: State, parts: Tensor, embedded: Tensor, first: Tensor, keep: Tensor, walked: adjoint.Walked
    ) -> adjoint.Walked:
        """What was walked without gradients, with them: every step once more in one batch, connected by `rssm_adjoint`."""
        assert isinstance(self.cell, BlockGru) and isinstance(self.latent, CategoricalLatent) and self.posterior.output is not None
        deter, stoch, _ = walked
        shape, old = first.shape, torch.cat([start.deter.detach().unsqueeze(0), deter[:-1]]) * keep
        old_stoch = torch.cat([start.stoch.detach().unsqueeze(0), stoch[:-1]]) * keep
        after, inner = self.cell.step(old.flatten(0, 1), old_stoch.flatten(0, 1), parts.flatten(0, 1))
        hidden = self.from_deter(deter) + embedded
        raw = self.posterior(self.after_first(hidden))
        with torch.no_grad():
            stretched = BlockParts(
                inner.from_deter.unflatten(0, shape),
                inner.from_stoch.unflatten(0, shape),
                inner.mixed.unflatten(0, shape),
                inner.gates.unflatten(1, shape).transpose(0, 1),
            )
            cell = adjoint.CellBack(self.cell, old, stretched)
            layer = (adjoint.Slope(hidden, self.after_first.scale), self.from_deter.weight)
            connected = adjoint.Adjoint(cell, adjoint.LatentBack(self.latent, raw, self.posterior.output.weight, [layer]), first)
        return adjoint.chained(after.unflatten(0, shape), raw, walked, connected)

    def imagine_step(self, state: State, action: Tensor, noise: Tensor) -> State:
        """The prior state `[B, ...]` after one more action `[B, A]`, with noise `[B, G]`."""
        deter = self.cell(state.deter, state.stoch, self.cell.action_part(action))
        return State(deter, self.latent.sample(self.prior(deter), noise))

    @property
    def known_by_hand(self) -> bool:
        """Whether the gradient from step to step is, so that `imagine_traced` and `with_gradients` can be asked."""
        return adjoint.applies(self.cell, self.latent, self.after_first)

    @torch.no_grad()
    def imagine_traced(self, state: State, action: Tensor, noise: Tensor) -> tuple[State, Trace]:
        """`imagine_step` without gradients, and what `with_gradients` needs of the step."""
        assert isinstance(self.cell, BlockGru) and self.prior.output is not None
        deter, parts = self.cell.step(state.deter, state.stoch, self.cell.action_part(action))
        value, products = deter, []
        for linear, after in zip(self.prior.hidden, self.prior.after, strict=True):
            products.append(linear(value))
            value = after(products[-1])
        raw = self.prior.output(value)
        return State(deter, self.latent.sample(raw, noise)), Trace(parts, products, raw)

    def with_gradients(self, states: Sequence[State], traces: Sequence[Trace], action: Tensor) -> State:
        """The states `[H, N, ...]` behind the first of these, with gradients by the actions that led to them; the weights have none.

        Args:
            states: H+1 times [N, ...], as `imagine_traced` found them.
            traces: H, of these steps.
            action: [H, N, A], with gradients.
        """
        assert isinstance(self.cell, BlockGru) and isinstance(self.latent, CategoricalLatent) and self.prior.output is not None
        with torch.no_grad():
            deter, stoch = torch.stack([s.deter for s in states]), torch.stack([s.stoch for s in states[1:]])
            parts = (torch.stack([getattr(t.parts, f.name) for t in traces]) for f in fields(BlockParts))
            cell = adjoint.CellBack(self.cell, deter[:-1], BlockParts(*parts))
            products = (torch.stack([t.products[i] for t in traces]) for i in range(len(self.prior.hidden)))
            layers = [
                (adjoint.Slope(product, after.scale), linear.weight)
                for product, after, linear in zip(products, self.prior.after, self.prior.hidden, strict=True)
            ]
            latent = adjoint.LatentBack(self.latent, torch.stack([t.raw for t in traces]), self.prior.output.weight, layers)
        return State(*adjoint.imagined(self.cell.action_part(action), deter[1:], stoch, cell, latent))

    def _posterior(self, deter: Tensor, embedded: Tensor) -> Tensor:
        return self.posterior(self.after_first(self.from_deter(deter) + embedded))
