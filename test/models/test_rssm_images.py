"""Pictures in the world model: sizes, what is seen and expected again, and how far an encoder and a decoder get with one batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_dreamer import config

from wm_ros.models.rssm_images import ImageDecoder, ImageEncoder, ImageSize, PatchDecoder, PatchEncoder, halvings, patches, pixels, scaled
from wm_ros.models.rssm_layers import initialize
from wm_ros.models.rssm_world import RssmWorld

CAMERAS: dict[str, ImageSize] = {"front": (16, 16, 3), "wrist": (8, 16, 1)}


def world(see: str = "all", layers: str = "convolutions", cameras: dict[str, ImageSize] = CAMERAS) -> RssmWorld:
    whole = config("v3")
    made = RssmWorld(7, 3, whole.rssm, replace(whole.world, see=see, image_depth=4, image_layers=layers), cameras)
    made.initialize(torch.Generator().manual_seed(0))
    return made


def pictures(*shape: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randint(0, 256, (*shape, *size), generator=generator, dtype=torch.uint8) for name, size in CAMERAS.items()}


def loss(model: RssmWorld, images: dict[str, torch.Tensor], length: int = 4, rows: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    none = torch.zeros(length, rows, dtype=torch.bool)
    first = none.clone()
    first[0] = True
    recorded = (
        torch.randn((length, rows, 7), generator=generator),
        torch.rand((length, rows, 3), generator=generator),
        torch.randn((length, rows), generator=generator),
        none,
        first,
        torch.rand((length, rows, model.rssm.latent.noise), generator=generator),
    )
    return model.loss(model.rssm.start(rows), *recorded, images)[0].observation


def test_pictures_are_halved_until_four_pixels_are_left() -> None:
    assert [halvings((s, s, 3)) for s in (8, 16, 64, 96)] == [1, 2, 4, 4]
    assert halvings((48, 64, 3)) == 3
    with pytest.raises(ValueError, match=r"world\.see: pictures of 84 x 84: both must be multiples of 16"):
        halvings((84, 84, 3))


@pytest.mark.parametrize("size", [(64, 64, 3), (16, 32, 1), (48, 64, 3)])
@pytest.mark.parametrize(("encode", "decode"), [(ImageEncoder, ImageDecoder), (PatchEncoder, PatchDecoder)])
def test_a_decoder_gives_what_an_encoder_takes(encode: type, decode: type, size: tuple[int, int, int]) -> None:
    encoder, decoder = encode(size, 2, "rms", "silu"), decode(11, size, 2, "rms", "silu")
    image = torch.zeros(2, 3, *size, dtype=torch.uint8)
    assert encoder(image).shape == (2, 3, encoder.outputs)
    assert decoder(torch.zeros(2, 3, 11)).shape == image.shape


def test_patches_see_and_draw_at_their_own_place() -> None:
    size = (64, 48, 3)
    assert patches(size) == [4, 2] and patches((64, 64, 3)) == [4, 2, 2]
    encoder, decoder = PatchEncoder(size, 2, "rms", "silu"), PatchDecoder(5, size, 2, "rms", "silu")
    for part in (encoder, decoder):
        initialize(part, torch.Generator().manual_seed(0))
    image = torch.full((1, *size), 90, dtype=torch.uint8)
    changed = image.clone()
    changed[0, 37, 20, 1] = 200  # row 4 and column 2 of places that are 8 pixels wide
    moved = (encoder(changed) - encoder(image)).view(8, 6, -1).abs().amax(-1)
    assert moved[4, 2] > 0 and (moved > 0).sum() == 1
    with torch.no_grad():
        before = decoder(torch.zeros(1, 5))
        decoder.first.bias.view(8, 6, -1)[4, 2] = torch.randn(8, generator=torch.Generator().manual_seed(1))
        drawn = (decoder(torch.zeros(1, 5)) - before)[0].abs().amax(-1)
    assert (drawn[32:40, 16:24] > 0).all() and drawn.count_nonzero() == 8 * 8
    with pytest.raises(ValueError, match="8 x 16 are too small for patches: use convolutions"):
        patches((8, 16, 3))


def test_pixels_come_back_from_their_scale() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(16, 16, 1)
    assert torch.equal(pixels(scaled(every)), every)
    assert scaled(every).min() == -0.5 and scaled(every).max() == 0.5


def test_first_weights_keep_the_size_of_what_goes_through() -> None:
    encoder, decoder = ImageEncoder((64, 64, 3), 8, "none", "silu"), ImageDecoder(64, (64, 64, 3), 8, "none", "silu")
    generator = torch.Generator().manual_seed(0)
    for part in (encoder, decoder):
        initialize(part, generator)
    assert 0.2 < decoder.first(torch.randn((50, 64), generator=generator)).std() < 2.0
    last = decoder.layers[-1]
    assert 0.5 < last(torch.randn((4, last.in_channels, 32, 32), generator=generator)).std() < 2.0
    assert 0.5 < encoder.layers[1](torch.randn((4, 8, 32, 32), generator=generator)).std() < 2.0


def test_a_model_sees_what_its_settings_say() -> None:
    images, others = pictures(5), pictures(5, seed=1)
    observation, other = torch.zeros(5, 7), torch.ones(5, 7)
    for see, by_vector, by_images in (("all", True, True), ("images", False, True), ("vector", True, False)):
        model = world(see)
        embedded = model.embed(observation, images)
        assert torch.equal(embedded, model.embed(other, images)) is not by_vector
        assert torch.equal(embedded, model.embed(observation, others)) is not by_images
        assert model.images == (CAMERAS if by_images else {})
    with pytest.raises(ValueError, match="cameras alone"):
        world("images").decode(world("images").rssm.start(1))
    with pytest.raises(ValueError, match="there is no camera"):
        RssmWorld(7, 3, config().rssm, replace(config().world, see="images"))


def test_the_loss_counts_pixels_beside_columns() -> None:
    model, images = world(), pictures(4, 3)
    both = loss(model, images)
    brighter = {**images, "front": 255 - images["front"]}
    assert not torch.equal(both, loss(model, brighter))
    state = model.rssm.start(5)
    shown = model.decode_images(state)
    assert {name: (image.dtype, tuple(image.shape)) for name, image in shown.items()} == {
        name: (torch.uint8, (5, *size)) for name, size in CAMERAS.items()
    }


@pytest.mark.parametrize("layers", ["convolutions", "patches"])
def test_pictures_of_one_batch_are_learned_by_heart(layers: str) -> None:
    model = world("images", layers, {"front": CAMERAS["front"]})
    smooth = {name: (torch.arange(12).view(4, 3, 1, 1, 1) * 20).expand(4, 3, *size).to(torch.uint8) for name, size in CAMERAS.items()}
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        error = loss(model, smooth)
        error.backward()
        optimizer.step()
        losses.append(float(error.detach()))
    assert losses[-1] < 0.1 * losses[0]
