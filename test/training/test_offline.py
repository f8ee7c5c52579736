"""Which bags are learned from, which episodes are held out, and what a checkpoint promises."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from cartpole_bags import contract, write_cartpole
from small_agents import PETS

from wm_ros.contract.errors import UserError
from wm_ros.data.episode import Episode
from wm_ros.runtime.artifact import TrainingBag
from wm_ros.training import bag_set, checkpoint
from wm_ros.training.bag_set import BagSet
from wm_ros.training.checkpoint import Plan
from wm_ros.training.config import AgentConfig
from wm_ros.training.offline import split

LONG = PETS.stride * PETS.planner.horizon
"""Ticks that an episode must have to be measured."""


def episode(ticks: int) -> Episode:
    columns = np.zeros((ticks + 1, 5), np.float32), np.zeros((ticks, 1), np.float32), np.zeros(ticks, np.float32)
    return Episode(*columns, np.zeros(ticks, np.bool_), True, np.arange(ticks + 1))


def plan(seed: int = 0, holdout: float = 0.1) -> Plan:
    bags = (TrainingBag(path="a", sha256="0" * 64),)
    return Plan(contract().canonical_json(), AgentConfig(pets=PETS), bags, (("b", "no topic"),), {}, seed, holdout)


def drawn(lengths: list[list[int]], **options: float) -> tuple[list[list[Episode]], list[Episode], list[list[Episode]]]:
    episodes = [[episode(n) for n in bag] for bag in lengths]
    return *split(BagSet(episodes=episodes), plan(**options)), episodes  # type: ignore[arg-type]


def test_every_episode_is_either_learned_from_or_held_out() -> None:
    kept, held, all_of_them = drawn([[LONG] * 5, [LONG] * 15], holdout=0.2)
    assert len(held) == 4 and [len(k) + sum(h in e for h in held) for k, e in zip(kept, all_of_them, strict=True)] == [5, 15]
    assert not {id(e) for k in kept for e in k} & {id(e) for e in held}


def test_the_seed_draws_what_is_held_out() -> None:
    def places(seed: int) -> list[int]:
        _, held, (bag,) = drawn([[LONG] * 20], seed=seed, holdout=0.3)
        return [bag.index(e) for e in held]

    assert places(1) == places(1) and len({tuple(places(s)) for s in range(5)}) > 1


@pytest.mark.parametrize(
    ("lengths", "holdout", "count"),
    [
        ([[LONG]], 0.1, 0),  # the only one is learned from
        ([[LONG, LONG]], 0.01, 1),
        ([[LONG], [LONG - 1]], 0.1, 1),
        ([[LONG], [1]], 0.1, 0),  # nothing to learn from would be left
        ([[LONG - 1, LONG - 1]], 0.1, 0),  # too short to be measured
        ([[LONG] * 4], 0.99, 3),
        ([[LONG] * 4], 0.0, 0),
        ([[LONG] * 100], 0.9, 20),  # measuring takes memory
    ],
)
def test_one_episode_is_held_out_where_that_leaves_something_to_learn_from(lengths: list[list[int]], holdout: float, count: int) -> None:
    kept, held, _ = drawn(lengths, holdout=holdout)
    assert len(held) == count and all(len(e) >= LONG for e in held)
    assert any(len(e) >= PETS.stride for bag in kept for e in bag)


def test_a_bag_that_cannot_train_is_named_with_its_reason_and_the_others_are_used(tmp_path: Path) -> None:
    good = write_cartpole(tmp_path / "good", 40)
    copy = shutil.copytree(good, tmp_path / "copies" / "good")
    idle = write_cartpole(tmp_path / "idle", 40, skip_command=frozenset(range(40)))
    short = write_cartpole(tmp_path / "short", 2)
    robot = write_cartpole(tmp_path / "robot", 40, namespace="/other/robot")
    broken = write_cartpole(tmp_path / "broken", 40)
    next(broken.glob("*.mcap")).write_bytes(b"no bag at all")
    paths = [good, copy, idle, short, robot, broken]
    seen: list[Path] = []
    found = bag_set.read(paths, contract(), 5, namespace="", on_bag=seen.append)
    assert seen == paths and [bag.path for bag in found.bags] == [str(good), str(robot)]
    reasons = dict(found.refused)
    assert sorted(reasons) == sorted(map(str, (copy, idle, short, broken)))
    assert f"a copy of {good}" in reasons[str(copy)] and "no messages: was its publisher running?" in reasons[str(idle)]
    assert "2 ticks, a model step has 5: record longer episodes" in reasons[str(short)]
    assert all(str(path) in reason for path, reason in reasons.items())


def test_memory_grows_by_what_is_kept_and_not_by_what_is_read(tmp_path: Path) -> None:
    paths = [write_cartpole(tmp_path / f"b{n}", 300 + n) for n in range(7)]
    bag_set.read(paths[:1], contract(), 2)  # fills the caches of message definitions
    tracemalloc.start()
    try:
        bag_set.read(paths[:1], contract(), 2)
        _, peak_of_one = tracemalloc.get_traced_memory()
        found = bag_set.read(paths, contract(), 2)
        _, peak_of_all = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    kept = sum(c.nbytes for bag in found.episodes for e in bag for c in (e.observation, e.action, e.reward, e.terminated, e.stamp))
    read = sum(f.stat().st_size for path in paths for f in path.iterdir())
    assert len(found.bags) == 7 and peak_of_all - peak_of_one < 2 * kept + 50_000 < read


def test_paths_folders_and_globs_name_bags_each_once(tmp_path: Path) -> None:
    for name in ("run1/bags/a", "run1/bags/b", "run2/bags/c"):
        write_cartpole(tmp_path / name, 3)
    (tmp_path / "run3" / "bags").mkdir(parents=True)
    found, refused = bag_set.find([str(tmp_path / "run?" / "bags"), str(tmp_path / "run1/bags/b"), str(tmp_path / "**" / "c")])
    assert [str(p.relative_to(tmp_path)) for p in found] == ["run1/bags/a", "run1/bags/b", "run2/bags/c"]
    assert len(refused) == 1 and "run3/bags: no bag in it or below it" in refused[0][1]
    with pytest.raises(UserError, match="no such file or folder: give rosbag2 directories"):
        bag_set.find([str(tmp_path / "run9*")])


def test_a_checkpoint_gives_back_what_was_written(tmp_path: Path) -> None:
    state = {"a": torch.arange(3), "b": torch.tensor([float("inf"), 0.1], dtype=torch.float64)}
    checkpoint.write(tmp_path / "c", plan(seed=5), state)
    again, values = checkpoint.read(tmp_path / "c")
    assert again == plan(seed=5) and all(torch.equal(state[k], values[k]) for k in state) and set(values) == set(state)


def test_a_write_that_fails_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c"
    checkpoint.write(path, plan(), {"a": torch.zeros(1)})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"c: cannot be written: No space left on device: .* --resume"):
        checkpoint.write(path, plan(), {"a": torch.ones(1)})
    assert float(checkpoint.read(path)[1]["a"]) == 0.0 and [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_damaged_or_missing_checkpoint_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave --resume away to begin"):
        checkpoint.read(tmp_path / "c")
    checkpoint.write(tmp_path / "c", plan(), {"a": torch.zeros(100)})
    data = (tmp_path / "c").read_bytes()
    for damaged in (b"", data[:50], data[:-9], data.replace(b"bags", b"bugs")):
        assert damaged != data
        (tmp_path / "c").write_bytes(damaged)
        with pytest.raises(UserError, match=r"damaged, or of another version: .*: begin anew in another folder"):
            checkpoint.read(tmp_path / "c")
