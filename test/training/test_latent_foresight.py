"""What a latent model imagines of recordings, against steps taken one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_dreamer import VERSIONS, config
from small_sac import arm

from wm_ros.agents.dreamer import DreamerNetworks
from wm_ros.contract import schema
from wm_ros.contract.schema import Contract
from wm_ros.data.episode import Episode
from wm_ros.training.diagnose import diagnose
from wm_ros.training.latent_foresight import LatentForesight
from wm_ros.training.open_loop import windows

CONTEXT, STEPS = 4, 3


def camera_arm() -> Contract:
    data = arm().model_dump(mode="json")
    image = {"height": 8, "width": 8, "encoding": "rgb8"}
    data["observation"].append({"name": "front", "topic": "front", "type": "sensor_msgs/msg/Image", "max_age_s": 1.0, "image": image})
    return schema.parse(data, "test")


def episodes(count: int = 2, ticks: int = 12) -> list[Episode]:
    rng = np.random.default_rng(0)
    return [
        Episode(
            rng.standard_normal((ticks + 1, 7)).astype(np.float32),
            rng.uniform(-1, 2, (ticks, 3)).astype(np.float32),
            rng.standard_normal(ticks).astype(np.float32),
            np.zeros(ticks, np.bool_),
            True,
            np.arange(ticks + 1),
            images={"front": rng.integers(0, 256, (ticks + 1, 8, 8, 3), dtype=np.uint8)},
        )
        for _ in range(count)
    ]


def networks(version: str = "v3", see: str = "all", contract: Contract | None = None) -> DreamerNetworks:
    whole = config(version)
    made = DreamerNetworks(contract or camera_arm(), replace(whole, world=replace(whole.world, see=see, image_depth=4)))
    made.initialize(torch.Generator().manual_seed(1))
    with torch.no_grad():  # the head of V3 begins at zero, and every reward would be the same
        made.world.reward_head.parameters().__next__().add_(0.1)
    return made


@pytest.mark.parametrize("version", VERSIONS)
def test_the_imagined_is_what_steps_one_by_one_give(version: str) -> None:
    model, recorded = networks(version), episodes()
    foresight = LatentForesight(model, recorded, CONTEXT)
    given = windows([foresight.columns(e) for e in recorded], STEPS, 1, 2, CONTEXT)
    assert given is not None and given.place.tolist() == [[0, 4], [0, 9], [1, 4], [1, 9]]
    imagined = foresight.imagine(given, 2, torch.Generator().manual_seed(5))
    assert imagined.shape == (STEPS, 2, 4, 8)

    world, generator = model.world, torch.Generator().manual_seed(5)
    draw = torch.rand if world.rssm.latent.distribution == "uniform" else torch.randn
    filtering = draw((CONTEXT + 1, 8, world.rssm.latent.noise), generator=generator)
    dreaming = [draw((8, world.rssm.latent.noise), generator=generator) for _ in range(STEPS)]
    for particle in range(2):
        for start, (number, tick) in enumerate(given.place):
            episode, row = recorded[number], 4 * particle + start
            state = world.rssm.start(1)
            with torch.no_grad():
                for i, t in enumerate(range(tick - CONTEXT, tick + 1)):
                    action = torch.zeros(1, 3) if i == 0 else model.to_half_ranges(torch.from_numpy(episode.action[t - 1 : t]))
                    picture = {"front": torch.from_numpy(episode.images["front"][t : t + 1])}
                    embedded = world.embed(torch.from_numpy(episode.observation[t : t + 1]), picture)
                    state = world.rssm.observe_step(state, action, embedded, filtering[i, row : row + 1])
                for h in range(STEPS):
                    action = model.to_half_ranges(torch.from_numpy(episode.action[tick + h : tick + h + 1])).clamp(-1.0, 1.0)
                    state = world.rssm.imagine_step(state, action, dreaming[h][row : row + 1])
                    expected = torch.cat([world.decode(state)[0], world.reward(state.feature)])
                    np.testing.assert_allclose(imagined[h, particle, start], expected.numpy(), atol=2e-4)


def test_truth_has_the_reward_that_came_with_each_observation() -> None:
    (episode,) = episodes(1)
    foresight = LatentForesight(networks(), [episode], CONTEXT)
    columns, _ = foresight.columns(episode)
    assert foresight.names(("a", "b")) == ("a", "b", "reward")
    np.testing.assert_array_equal(columns[:, :7], episode.observation)
    np.testing.assert_array_equal(columns[:, 7], [0.0, *episode.reward])


def test_a_model_of_cameras_alone_is_measured_by_reward_and_pictures() -> None:
    recorded = episodes()
    foresight = LatentForesight(networks(see="images"), recorded, CONTEXT)
    columns = [foresight.columns(e) for e in recorded]
    assert columns[0][0].shape == (13, 1)
    found = diagnose(foresight, [("bag", columns)], STEPS, 0.02, foresight.names(("a", "b")), starts=4, particles=3)
    assert found is not None and found.columns == ["reward"] and found.disagreement is None
    pictures = found.pictures["front"]
    assert pictures.starts == found.starts == 4 and len(pictures.rmse) == STEPS
    apart = []
    for number, tick in ((0, 4), (0, 9), (1, 4), (1, 9)):
        shown = recorded[number].images["front"].astype(float) / 255
        apart.append((shown[tick + 2] - shown[tick]) ** 2)
    assert pictures.unchanged[1] == pytest.approx(np.sqrt(np.mean(apart)), rel=1e-5)


def test_a_film_shows_recorded_ticks_beside_what_is_made_of_them() -> None:
    recorded = episodes()
    foresight = LatentForesight(networks(), recorded, CONTEXT)
    film = foresight.films(STEPS, torch.Generator().manual_seed(0))["front"]
    assert film.seen == 5 and film.recorded.shape == film.imagined.shape == (8, 6, 8, 8, 3)
    np.testing.assert_array_equal(film.recorded[:, 0], recorded[0].images["front"][:8])
    np.testing.assert_array_equal(film.recorded[-1, -1], recorded[1].images["front"][12])
    assert not np.array_equal(film.imagined[5], film.imagined[6])


def test_a_model_without_cameras_has_no_film() -> None:
    foresight = LatentForesight(networks(contract=arm()), episodes(), 0)
    assert foresight.films(STEPS, torch.Generator()) == {}


def test_too_short_episodes_are_no_starts() -> None:
    recorded = episodes(ticks=6)
    foresight = LatentForesight(networks(), recorded, CONTEXT)
    columns = [foresight.columns(e) for e in recorded]
    assert diagnose(foresight, [("bag", columns)], STEPS, 0.02, foresight.names(arm().observation_names)) is None
    with pytest.raises(ValueError, match="no episode has 7 ticks"):
        foresight.films(STEPS, torch.Generator())
