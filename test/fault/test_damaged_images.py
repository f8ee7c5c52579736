"""A damaged bag with a camera gives pictures that were recorded, or one clear error."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from camera_bags import COMPRESSED, RAW, compressed_image, every, raw_image, scene, with_camera, write_with_camera
from fault.fuzz_bags import MUTATIONS, loose_mcap, sqlite

from wm_ros.contract.errors import UserError
from wm_ros.data.align import iterate_episodes
from wm_ros.data.bag_writer import BagOptions

MAKERS = {
    RAW: lambda k, stamp: raw_image(scene(k), "bgr8", stamp),
    COMPRESSED: lambda k, stamp: compressed_image(scene(k, 48, 64), "png" if k % 2 else "jpeg", stamp),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_200_bags_damaged_at_random_give_recorded_pictures_or_a_clear_error(kind: str, tmp_path: Path) -> None:
    of = with_camera(kind)
    bag = write_with_camera(tmp_path / "bag", 16, of, every(16, MAKERS[kind]), options=BagOptions(chunk_bytes=4000))
    (whole,) = iterate_episodes(bag, of)
    recorded = {frame.tobytes() for frame in np.asarray(whole.images["camera"])}
    chunked = (bag / "bag_0.mcap").read_bytes()
    originals = [(chunked, ".mcap"), (loose_mcap(bag, tmp_path / "loose.mcap"), ".mcap"), (sqlite(bag, tmp_path / "x.db3"), ".db3")]
    outcomes: Counter[str] = Counter()
    for seed in range(200):
        rng = np.random.default_rng(seed)
        content, suffix = originals[seed % 3]
        data = bytearray(content)
        MUTATIONS[rng.integers(len(MUTATIONS))](rng, data)
        damaged = tmp_path / f"damaged{suffix}"
        damaged.write_bytes(data)
        try:
            for episode in iterate_episodes(damaged, of, force=True, whole_bytes=0 if seed % 2 else 1 << 30):
                frames = np.asarray(episode.images["camera"])
                assert frames.shape == (len(episode) + 1, 6, 8, 3), f"seed {seed}"
                # Chunks have checksums; the others guard only what says how the bytes are to be read.
                assert content is not chunked or {frame.tobytes() for frame in frames} <= recorded, f"seed {seed}"
                outcomes["frames"] += len(frames)
        except UserError as error:
            assert str(error), f"seed {seed}"
            outcomes["error"] += 1
    assert outcomes["frames"] > 500 and outcomes["error"] > 20
