"""sheeprl's DreamerV3 (its `dreamer_v3_5`, after the paper of 2025) in a process of its own, at sizes that are given.

`python dreamer_peer.py JSON` needs sheeprl alone, so that it can run in another environment. Prints one line with versions and the number
of parameters; then, for each line that comes in, makes that many updates and prints the seconds they took.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
import warnings

warnings.filterwarnings("ignore")


def main() -> None:
    """Speaks by lines until its input ends."""
    import gymnasium
    import hydra
    import numpy as np
    import torch
    from lightning.fabric import Fabric

    sizes = json.loads(sys.argv[1])
    torch.set_num_threads(sizes["threads"])
    torch.manual_seed(0)
    out, sys.stdout = sys.stdout, sys.stderr  # what the peer prints by itself is none of the answer
    from sheeprl.algos.dreamer_v3.utils import Moments
    from sheeprl.algos.dreamer_v3_5.agent import build_agent
    from sheeprl.algos.dreamer_v3_5.dreamer_v3_5 import train
    from sheeprl.utils.utils import dotdict

    batch, length = sizes["batch"], sizes["length"]
    overrides = [
        "exp=dreamer_v3_5",
        "algo=dreamer_v3_5_1M",
        "env=dummy",
        "env.id=continuous_dummy",
        f"algo.horizon={sizes['horizon']}",
        f"algo.per_rank_batch_size={batch}",
        f"algo.per_rank_sequence_length={length}",
        f"algo.dense_units={sizes['units']}",
        f"algo.world_model.stochastic_size={sizes['groups']}",
        f"algo.world_model.discrete_size={sizes['classes']}",
        f"algo.world_model.recurrent_model.recurrent_state_size={sizes['deter']}",
        f"algo.world_model.recurrent_model.hidden_size={sizes['hidden']}",
        f"algo.world_model.recurrent_model.blocks={sizes['blocks']}",
        "algo.cnn_keys.encoder=[]",
        "algo.mlp_keys.encoder=[state]",
        "metric.log_level=0",
    ]
    with hydra.initialize_config_module("sheeprl.configs", version_base="1.3"):
        from omegaconf import OmegaConf

        cfg = dotdict(OmegaConf.to_container(hydra.compose("config", overrides), resolve=True))
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    fabric.launch()
    observations, actions = sizes["observations"], sizes["actions"]
    space = gymnasium.spaces.Dict({"state": gymnasium.spaces.Box(-np.inf, np.inf, (observations,), np.float32)})
    world, actor, critic, slow, _ = build_agent(fabric, (actions,), True, cfg, space)
    parameters = [*world.parameters(), *actor.parameters(), *critic.parameters()]
    optimizer = fabric.setup_optimizers(hydra.utils.instantiate(cfg.algo.optimizer, params=parameters, _convert_="all"))
    wanted = cfg.algo.actor.moments
    moments = Moments(wanted.decay, wanted.max, wanted.percentile.low, wanted.percentile.high)

    rows = (length + cfg.algo.replay_context, batch)
    first = torch.zeros((*rows, 1))
    first[rows[0] // 2, :: max(1, batch // 4)] = 1.0
    data = {
        "state": torch.randn((*rows, observations)),
        "actions": 2.0 * torch.rand((*rows, actions)) - 1.0,
        "rewards": torch.randn((*rows, 1)),
        "terminated": torch.zeros((*rows, 1)),
        "truncated": torch.zeros((*rows, 1)),
        "is_first": first,
        "deter": torch.zeros((*rows, sizes["deter"]), dtype=torch.float16),
        "stoch": torch.zeros((*rows, sizes["groups"]), dtype=torch.uint8),
    }

    def update() -> None:
        train(fabric, cfg, world, actor, critic, slow, optimizer, moments, dict(data), None, (actions,))

    versions = [importlib.metadata.version(name) for name in ("sheeprl", "torch")]
    count = sum(p.numel() for p in parameters if p.requires_grad)
    print(json.dumps({"sheeprl": versions[0], "torch": versions[1], "parameters": count}), file=out, flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        for _ in range(int(line)):
            update()
        print(time.perf_counter() - started, file=out, flush=True)


if __name__ == "__main__":
    main()
