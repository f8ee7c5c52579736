"""Mixture density networks: several possible futures, each a Gaussian (Bishop 1994, "Mixture Density Networks")."""

from __future__ import annotations

import torch
from torch import Tensor

from wm_ros.models.ensemble import EnsembleConfig, softly_between
from wm_ros.models.forward_network import Decoder, ForwardNetwork
from wm_ros.models.uniform import uniform


class MixtureEnsemble(ForwardNetwork):
    """M independent networks whose prediction is one of K diagonal Gaussians over all D targets at once.

    The categorical draw decides between futures as a whole, so that columns which go together stay together. Without noise a prediction is
    the mean of the most probable component, for the mean of the mixture may be a future that never happens.
    """

    def __init__(self, config: EnsembleConfig, inputs: int, outputs: int, components: int, members: int | None = None) -> None:
        """Args: see `EnsembleConfig`; `components` is K."""
        m = config.members if members is None else members
        super().__init__(m, inputs, config.layers, config.width, components * (1 + 2 * outputs))
        self.outputs, self.components = outputs, components
        self.noise_columns = outputs + 1  # the last one chooses the component
        self.log_variance_low = torch.nn.Parameter(torch.full((outputs,), config.log_variance_low))
        self.log_variance_high = torch.nn.Parameter(torch.full((outputs,), config.log_variance_high))
        self.register_buffer("_choices", torch.eye(components), persistent=False)

    def initialize(self, generator: torch.Generator) -> None:
        """As of every network, with the components' means one deviation apart: equal ones would never part."""
        super().initialize(generator)
        k, d = self.components, self.outputs
        with torch.no_grad():
            means = self.biases[-1][..., k : k + k * d]
            means.copy_(torch.randn(means.shape, generator=generator))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The mixture.

        Args:
            inputs: `[M, B, I]`, normalized.

        Returns:
            log-probabilities `[M, B, K]`, means `[M, B, K, D]`, log-variances `[M, B, K, D]`.
        """
        return self._parts(self.raw(inputs))

    def _parts(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k, d = self.components, self.outputs
        logits, means, log_variances = raw.split([k, k * d, k * d], dim=-1)
        bounded = softly_between(log_variances.unflatten(-1, (k, d)), self.log_variance_low, self.log_variance_high)
        return torch.log_softmax(logits, dim=-1), means.unflatten(-1, (k, d)), bounded

    def _drawn(self, parts: tuple[Tensor, Tensor, Tensor], noise: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Mean of a component, and the deviation from it that the noise gives, `[M, B, D]` each."""
        log_probability, means, log_variances = parts
        if noise is None:
            chosen = torch.index_select(self._choices, 0, log_probability.argmax(dim=-1).flatten())
            chosen = chosen.unflatten(0, log_probability.shape[:-1]).unsqueeze(-1)
            return (chosen * means).sum(dim=-2), None
        # Inverse transform: one where the uniform number lies between a component's cumulative probability and that of the one before.
        beyond = (uniform(noise[..., -1:]) > torch.cumsum(log_probability.exp(), dim=-1)[..., :-1]).to(means.dtype)
        first = torch.ones_like(log_probability[..., :1])
        chosen = (torch.cat([first.expand(*beyond.shape[:-1], 1), beyond], -1) - torch.cat([beyond, 0.0 * first], -1)).unsqueeze(-1)
        deviation = (chosen * torch.exp(0.5 * log_variances)).sum(dim=-2)
        return (chosen * means).sum(dim=-2), deviation * noise[..., :-1]

    def predict(self, inputs: Tensor, noise: Tensor | None) -> Tensor:
        """See `ForwardNetwork.predict`; the noise's last column chooses the component."""
        mean, drawn = self._drawn(self(inputs), noise)
        return mean if drawn is None else mean + drawn

    def decoder(self, scale: Tensor, shift: Tensor) -> Decoder:
        """See `ForwardNetwork.decoder`."""
        weight, bias = self.weights[-1], self.biases[-1]

        def decode(hidden: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor | None]:
            mean, drawn = self._drawn(self._parts(torch.matmul(hidden, weight) + bias), noise)
            return mean * scale + shift, None if drawn is None else drawn * scale

        return decode

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Twice the negative log-likelihood per target, without constants, summed over members (Bishop 1994, eq. 29).

        With one component it is `ensemble.gaussian_loss`, so that learning rates carry over.
        """
        joint, _ = self._joint(inputs, targets)
        return (-2.0 / self.outputs * torch.logsumexp(joint, dim=-1)).mean(dim=1).sum()

    def errors(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared distance `[M]` to the components, each as responsible for a row as it is likely to have made it.

        The error of one prediction would call every model bad where the future is truly open.
        """
        joint, squared = self._joint(inputs, targets)
        return (torch.softmax(joint, dim=-1) * squared).sum(dim=-1).mean(dim=1)

    def _joint(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density of component and target together, without constants, and mean squared distances: `[M, B, K]` each."""
        log_probability, means, log_variances = self(inputs)
        squared = (targets.unsqueeze(-2) - means) ** 2
        misfit = (squared * torch.exp(-log_variances) + log_variances).sum(dim=-1)
        return log_probability - 0.5 * misfit, squared.mean(dim=-1)

    def looseness(self) -> Tensor:
        """Sum of the distances between the learned bounds."""
        return self.log_variance_high.sum() - self.log_variance_low.sum()
