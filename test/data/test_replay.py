"""The replay buffer against a naive one made of lists."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_ros.contract.errors import UserError
from wm_ros.data.episode import Episode, Provenance, load, save
from wm_ros.data.priorities import Priorities
from wm_ros.data.replay import Replay, ReplayOptions


def episode(rng: np.random.Generator, steps: int, terminated: bool) -> Episode:
    ends = np.zeros(steps, np.bool_)
    ends[-1] = terminated
    return Episode(
        observation=rng.normal(size=(steps + 1, 3)).astype(np.float32),
        action=rng.normal(size=(steps, 2)).astype(np.float32),
        reward=rng.normal(size=steps).astype(np.float32),
        terminated=ends,
        truncated=not terminated,
        stamp=np.arange(steps + 1, dtype=np.int64),
        provenance=Provenance(seed=steps),
    )


EPISODES = st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=6)


def naive(episodes: list[Episode], steps: int, discount: float) -> list[tuple[Any, ...]]:
    """Every transition over `steps` steps, by loops."""
    made = []
    for e in episodes:
        for t in range(len(e)):
            n = min(steps, len(e) - t)
            reward = sum(discount**i * float(e.reward[t + i]) for i in range(n))
            over = bool(e.terminated[t + n - 1])
            made.append((e.observation[t], e.action[t], reward, e.observation[t + n], over, 0.0 if over else discount**n))
    return made


@settings(deadline=None, max_examples=60)
@given(EPISODES, st.integers(1, 6), st.sampled_from([1.0, 0.9, 0.5]), st.integers(0, 2**32))
def test_transitions_over_n_steps_equal_those_of_a_list_also_at_the_borders(
    shape: list[tuple[int, bool]], steps: int, discount: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    episodes = [episode(rng, *s) for s in shape]
    replay = Replay(3, 2)
    for e in episodes:
        replay.add(e)
    expected = naive(episodes, steps, discount)
    assert len(replay) == len(expected) and replay.episodes == len(episodes)
    index = rng.permutation(len(replay))
    got = replay.transitions(index, steps, discount)
    for b, place in enumerate(index):
        observation, action, reward, after, terminated, factor = expected[place]
        assert got.observation[b].tolist() == observation.tolist() and got.action[b].tolist() == action.tolist()
        assert got.next_observation[b].tolist() == after.tolist() and got.terminated[b] == terminated
        assert got.reward[b] == pytest.approx(reward, rel=1e-5, abs=1e-5) and got.discount[b] == pytest.approx(factor)


@settings(deadline=None, max_examples=60)
@given(EPISODES, st.integers(1, 10), st.integers(0, 2**32))
def test_sequences_never_cross_an_episodes_border(shape: list[tuple[int, bool]], length: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    episodes = [episode(rng, *s) for s in shape]
    replay = Replay(3, 2)
    expected, start = {}, 0
    for e in episodes:
        replay.add(e)
        for t in range(len(e) - length + 1):
            expected[start + t] = (e.observation[t : t + length + 1], e.action[t : t + length], e.reward[t : t + length])
        start += len(e)
    starts = replay.sequence_starts(length)
    assert starts.tolist() == sorted(expected)
    if not expected:
        with pytest.raises(ValueError, match="no episode has"):
            replay.sample_sequences(rng, 4, length)
        return
    got = replay.sequences(starts, length)
    for b, place in enumerate(starts.tolist()):
        assert got.observation[b].tolist() == expected[place][0].tolist()
        assert got.action[b].tolist() == expected[place][1].tolist() and got.reward[b].tolist() == expected[place][2].tolist()
    assert set(replay.sample_sequences(rng, 50, length).index.tolist()) <= set(expected)
    impossible = sorted(set(range(len(replay))) - set(expected))
    if impossible:
        with pytest.raises(ValueError, match="leaves its episode"):
            replay.sequences(np.array(impossible[:1]), length)


def test_a_buffer_past_its_memory_lives_in_files_and_gives_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    episodes = [episode(rng, 900, False) for _ in range(4)]
    small, mapped = Replay(3, 2), Replay(3, 2, ReplayOptions(memory_bytes=40_000, folder=tmp_path / "replay"))
    for e in episodes:
        small.add(e)
        mapped.add(e)
    assert mapped.mapped and not small.mapped
    a, b = (r.sample(np.random.default_rng(1), 500, steps=3, discount=0.9) for r in (small, mapped))
    for name in ("observation", "action", "reward", "next_observation", "discount"):
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes()
    assert len(list((tmp_path / "replay").iterdir())) == 4  # the files of smaller sizes are gone
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="replay buffer cannot be kept there"):
        Replay(3, 2, ReplayOptions(memory_bytes=1, folder=tmp_path / "file" / "below")).add(episodes[0])


def test_uniform_and_recent_draws_have_the_stated_frequencies() -> None:
    rng = np.random.default_rng(0)
    replay = Replay(3, 2)
    replay.add(episode(rng, 8, False))
    draws = 80_000
    uniform = np.bincount(replay.uniform(rng, draws), minlength=8) / draws
    assert np.abs(uniform - 1 / 8).max() < 0.006  # five standard deviations
    recent = np.bincount(replay.recent(rng, draws, half_life=2.0), minlength=8) / draws
    weight = 0.5 ** (np.arange(8)[::-1] / 2.0)
    assert np.abs(recent - weight / weight.sum()).max() < 0.009


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=40), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 2**32))
def test_priorities_are_drawn_as_a_list_would_draw_them(priority: list[float], alpha: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tree = Priorities(alpha)
    tree.grow(len(priority))
    order = rng.permutation(len(priority))
    for part in np.array_split(order, 3):
        tree.update(part, np.array(priority)[part])
    batch = 64
    # The same stratified masses, looked up in the running sum.
    share = np.array(priority) ** alpha
    state = rng.bit_generator.state
    index, weight = tree.sample(rng, batch, beta=0.7)
    rng.bit_generator.state = state
    mass = (np.arange(batch) + rng.random(batch)) * share.sum() / batch
    expected = np.searchsorted(np.cumsum(share), mass, side="right").clip(max=len(priority) - 1)
    near = np.abs(np.cumsum(share)[np.minimum(index, expected)] - mass) < 1e-9 * share.sum()  # rounding at a border
    assert ((index == expected) | near).all()
    by_hand = (len(priority) * share[index] / share.sum()) ** -0.7
    assert weight == pytest.approx(by_hand / by_hand.max(), rel=1e-5)


def test_new_places_get_the_largest_priority_and_bad_ones_are_refused() -> None:
    tree = Priorities(alpha=1.0)
    tree.grow(3)
    tree.update(np.arange(3), np.array([1.0, 8.0, 2.0]))
    tree.grow(5)
    rng = np.random.default_rng(0)
    drawn = np.bincount(tree.sample(rng, 27_000)[0], minlength=5) / 27_000
    assert drawn == pytest.approx(np.array([1, 8, 2, 8, 8]) / 27, abs=2e-3)
    for bad in (np.nan, 0.0, -1.0, np.inf):
        with pytest.raises(ValueError, match="positive and finite"):
            tree.update(np.array([0]), np.array([bad]))


def test_an_episode_file_comes_back_equal_and_other_files_are_refused(tmp_path: Path) -> None:
    original = episode(np.random.default_rng(0), 7, True)
    save(original, tmp_path / "a.npz")
    again = load(tmp_path / "a.npz")
    for name in ("observation", "action", "reward", "terminated", "stamp"):
        assert getattr(again, name).tobytes() == getattr(original, name).tobytes()
    assert (again.truncated, again.provenance) == (original.truncated, original.provenance)
    whole = (tmp_path / "a.npz").read_bytes()
    for content in (b"", b"no", whole[: len(whole) // 2]):
        (tmp_path / "b.npz").write_bytes(content)
        with pytest.raises(UserError, match=r"b\.npz: not an episode file"):
            load(tmp_path / "b.npz")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reward": np.zeros(6, np.float32)}, "reward is float32\\[6\\], expected float32\\[7\\]"),
        ({"observation": np.zeros((8, 3))}, "observation is float64"),
        ({"truncated": True}, "exclude each other"),
        ({"stamp": np.zeros(8, np.int64)}, "stamp must rise"),
        ({"action": np.full((7, 2), np.nan, np.float32)}, "action holds a value that is not finite"),
    ],
)
def test_an_episode_with_wrong_columns_is_refused(change: dict[str, Any], words: str) -> None:
    from dataclasses import replace

    with pytest.raises(ValueError, match=words):
        replace(episode(np.random.default_rng(0), 7, True), **change)


# ---- images -----------------------------------------------------------------------------------------------------------

EYES = {"left": (2, 3, 3), "right": (1, 2, 1)}


def looking(rng: np.random.Generator, steps: int, terminated: bool = False) -> Episode:
    """An episode with the frames of two cameras, and of a third that nobody keeps."""
    frames = {n: rng.integers(0, 256, (steps + 1, *s), np.uint8) for n, s in {**EYES, "rear": (1, 1, 1)}.items()}
    return replace(episode(rng, steps, terminated), images=frames)


@settings(deadline=None, max_examples=40)
@given(EPISODES, st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**32))
def test_frames_stay_with_their_observations_over_borders_of_episodes_and_blocks(
    shape: list[tuple[int, bool]], steps: int, block_bytes: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    episodes = [looking(rng, *s) for s in shape]
    replay = Replay(3, 2, ReplayOptions(block_bytes=block_bytes), EYES)
    for e in episodes:
        replay.add(e)
    places = [(e, t) for e in episodes for t in range(len(e))]
    index = rng.permutation(len(replay))
    got = replay.transitions(index, steps)
    assert got.images.keys() == got.next_images.keys() == EYES.keys()
    for b, place in enumerate(index):
        e, t = places[place]
        for name in EYES:
            np.testing.assert_array_equal(got.images[name][b], e.images[name][t])
            np.testing.assert_array_equal(got.next_images[name][b], e.images[name][min(t + steps, len(e))])
    starts = replay.sequence_starts(steps)
    sequences = replay.sequences(starts, steps)
    for b, start in enumerate(starts):
        e, t = places[start]
        np.testing.assert_array_equal(sequences.images["left"][b], e.images["left"][t : t + steps + 1])
    assert replay.sequences(starts[:0], steps).images["left"].shape == (0, steps + 1, 2, 3, 3)


def test_frames_past_the_limit_live_in_files_and_are_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    episodes = [looking(rng, 50) for _ in range(4)]
    options = ReplayOptions(memory_bytes=28_000, folder=tmp_path / "replay", block_bytes=900)
    small, mapped = Replay(3, 2, images=EYES), Replay(3, 2, options, EYES)
    for e in episodes:
        small.add(e)
        mapped.add(e)
    kinds = [isinstance(block, np.memmap) for block in mapped._images["left"].blocks]
    assert mapped.mapped and not small.mapped and kinds[-1] and not kinds[0]
    assert sum(b.nbytes for r in mapped._images.values() for b in r.blocks if not isinstance(b, np.memmap)) < 28_000
    for name in EYES:
        np.testing.assert_array_equal(small.transitions().images[name], mapped.transitions().images[name])


def test_frames_of_a_bag_are_decoded_a_few_at_a_time() -> None:
    asked: list[int] = []

    class Frames:
        shape = (301, 2, 3, 3)

        def __len__(self) -> int:
            return 301

        def __getitem__(self, index: Any, /) -> np.ndarray:
            rows = np.arange(301)[index]
            asked.append(len(rows))
            return np.broadcast_to((rows % 256).astype(np.uint8)[:, None, None, None], (len(rows), 2, 3, 3))

    replay = Replay(3, 2, images={"left": (2, 3, 3)})
    replay.add(replace(episode(np.random.default_rng(0), 300, False), images={"left": Frames()}))
    assert max(asked) <= 64 and sum(asked) == 301
    assert replay.transitions(np.array([299])).next_images["left"][0, 0, 0, 0] == 300 % 256


def test_an_episode_whose_frames_cannot_be_read_leaves_the_buffer_as_it_was() -> None:
    rng = np.random.default_rng(0)
    good, bad = looking(rng, 5), looking(rng, 5)

    class Damaged:
        shape = (6, 2, 3, 3)

        def __len__(self) -> int:
            return 6

        def __getitem__(self, index: Any, /) -> np.ndarray:
            raise UserError("damaged")

    replay = Replay(3, 2, images=EYES)
    replay.add(good)
    with pytest.raises(UserError, match="damaged"):
        replay.add(replace(bad, images={**bad.images, "left": Damaged()}))
    replay.add(bad)
    assert replay.episodes == 2
    np.testing.assert_array_equal(replay.transitions().images["left"], np.concatenate([e.images["left"][:-1] for e in (good, bad)]))


def test_missing_frames_and_frames_of_another_size_are_refused() -> None:
    e = looking(np.random.default_rng(0), 3)
    with pytest.raises(ValueError, match=r"images left of shape \(2, 3, 3\); this buffer has \(4, 3, 3\)"):
        Replay(3, 2, images={"left": (4, 3, 3)}).add(e)
    with pytest.raises(ValueError, match="images top of shape none"):
        Replay(3, 2, images={"top": (4, 3, 3)}).add(e)


def test_a_file_that_the_disk_has_no_room_for_is_an_error_and_no_crash(tmp_path: Path) -> None:
    options = ReplayOptions(memory_bytes=0, folder=tmp_path, block_bytes=1 << 60)
    with pytest.raises(UserError, match=r"images.left_0.bin: the replay buffer cannot be kept there: .*free some space"):
        Replay(3, 2, options, {"left": (2, 3, 3)}).add(looking(np.random.default_rng(0), 3))
    assert not list(tmp_path.glob("images*"))
