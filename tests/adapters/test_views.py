"""Views against the plain pixel-by-pixel meaning of each step."""

import colorsys
import math
from dataclasses import replace

import pytest
import torch
from nets import images
from torch import Tensor

from adapters.parts.colors import shift_hue
from adapters.parts.dice import Dice
from adapters.parts.views import Viewpoint, draw, seen_from, view, views

CPU = torch.device("cpu")


def pixel(image: Tensor, y: int, x: int, padding: str) -> Tensor:
    """The pixel, or what is beyond the border."""
    place = []
    for i, n in ((y, image.size(1)), (x, image.size(2))):
        if padding == "reflect":
            place.append(min(i % (2 * (n - 1)), -i % (2 * (n - 1))))
        else:
            place.append(min(max(i, 0), n - 1))
    return image[:, place[0], place[1]]


def moved_slowly(image: Tensor, point: Viewpoint, padding: str) -> Tensor:
    """Pad by half, rotate and scale about the center after shifting, blur, crop, mirror: one pixel at a time."""
    _, height, width = image.shape
    angle = math.radians(point.degrees)

    def affine(y: int, x: int) -> Tensor:
        dy, dx = y - (height - 1) / 2 - point.down, x - (width - 1) / 2 - point.right
        at_x = (math.cos(angle) * dx + math.sin(angle) * dy) / point.scale + (width - 1) / 2
        at_y = (-math.sin(angle) * dx + math.cos(angle) * dy) / point.scale + (height - 1) / 2
        y0, x0 = math.floor(at_y), math.floor(at_x)
        v, u = at_y - y0, at_x - x0
        above = (1 - u) * pixel(image, y0, x0, padding) + u * pixel(image, y0, x0 + 1, padding)
        below = (1 - u) * pixel(image, y0 + 1, x0, padding) + u * pixel(image, y0 + 1, x0 + 1, padding)
        return (1 - v) * above + v * below

    taps = [math.exp(-0.5 * (i / point.sigma) ** 2) if point.sigma else float(i == 0) for i in range(-2, 3)]
    taps = [t / sum(taps) for t in taps]
    field = {(y, x): affine(y, x) for y in range(-2, height + 2) for x in range(-2, width + 2)}
    out = torch.empty_like(image)
    for y in range(height):
        for x in range(width):
            blurred = sum(taps[i + 2] * taps[j + 2] * field[y + i, x + j] for i in range(-2, 3) for j in range(-2, 3))
            out[:, y, width - 1 - x if point.mirrored else x] = blurred
    return out


@pytest.mark.parametrize("padding", ["edge", "reflect"])
@pytest.mark.parametrize(
    "point",
    [
        Viewpoint(degrees=13.0),
        Viewpoint(right=-2, down=1),
        Viewpoint(scale=0.9),
        Viewpoint(mirrored=True),
        Viewpoint(sigma=0.5),
        Viewpoint(degrees=-9.0, right=1, down=-2, scale=1.07, sigma=0.4, mirrored=True),
    ],
)
def test_one_sampling_equals_pad_affine_blur_crop_and_mirror(point: Viewpoint, padding: str) -> None:
    batch = images(2, 12).double()[:, :, :, :10].contiguous()
    seen = seen_from(batch, point, Dice(0, CPU), padding)
    slow = torch.stack([moved_slowly(image, point, padding) for image in batch])
    torch.testing.assert_close(seen, slow, rtol=0, atol=1e-9)


@pytest.mark.parametrize("turns", [-0.06, 0.03, 0.4])
def test_hue_is_that_of_colorsys(turns: float) -> None:
    batch = torch.rand(2, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    batch[0, :, 0] = 0.3  # gray
    batch[0, 1, 1] = batch[0, 0, 1]  # ties
    batch[0, :, 2] = torch.tensor([[1.0], [0.0], [0.0]], dtype=torch.float64)
    slow = torch.empty_like(batch)
    for n in range(2):
        for y in range(5):
            for x in range(5):
                h, s, v = colorsys.rgb_to_hsv(*batch[n, :, y, x].tolist())
                slow[n, :, y, x] = torch.tensor(colorsys.hsv_to_rgb((h + turns) % 1.0, s, v), dtype=torch.float64)
    torch.testing.assert_close(shift_hue(batch.clone(), turns), slow, rtol=0, atol=1e-12)


def test_colors_one_image_at_a_time() -> None:
    batch = images(3, 6).double()
    point = Viewpoint(
        brightness=1.3, contrast=0.8, saturation=1.4, gamma=0.9, order=("contrast", "gamma", "saturation", "brightness")
    )
    weights = torch.tensor([0.2989, 0.587, 0.114], dtype=torch.float64).view(3, 1, 1)
    for image, seen in zip(batch, seen_from(batch, point, Dice(0, CPU)), strict=True):
        slow = (0.8 * image + 0.2 * (weights * image).sum(0).mean()).clamp(0, 1)
        slow = slow.clamp(1e-8, 1) ** 0.9
        slow = (1.4 * slow - 0.4 * (weights * slow).sum(0)).clamp(0, 1)
        torch.testing.assert_close(seen, (1.3 * slow).clamp(0, 1), rtol=0, atol=1e-12)


def test_drawn_parameters_fill_the_published_ranges() -> None:
    dice, batch = Dice(3, CPU), torch.zeros(1, 3, 32, 32)
    hard = [draw(dice, 1.0, batch) for _ in range(400)]
    for field, low, high in [
        ("brightness", 0.6, 1.4), ("contrast", 0.7, 1.3), ("saturation", 0.5, 1.5), ("hue", -0.06, 0.06),
        ("gamma", 0.7, 1.3), ("degrees", -15, 15), ("right", -4, 4), ("down", -4, 4), ("scale", 0.9, 1.1),
        ("sigma", 0.001, 0.5),
    ]:  # fmt: skip
        values = [getattr(point, field) for point in hard]
        slack = 0.05 * (high - low)
        assert low <= min(values) < low + slack, field
        assert high - slack < max(values) <= high, field
    assert 150 < sum(point.mirrored for point in hard) < 250
    assert len({point.order for point in hard}) > 100
    soft = draw(dice, 0.5, batch)
    assert abs(soft.brightness - 1) <= 0.2
    assert soft.noise == hard[0].noise == 0.005
    bare = draw(dice, 1.0, batch, blur=False, noise=False)
    assert (bare.sigma, bare.noise) == (0.0, 0.0)


def test_strength_zero_and_identity_are_the_images_themselves() -> None:
    batch, dice = images(4), Dice(0, CPU)
    assert torch.equal(view(batch, dice, 0.0), batch)
    assert torch.equal(view(batch, dice, 1.0, kind="identity"), batch)
    assert torch.equal(view(batch, dice, 1.0, kind="flip"), batch.flip(3))
    for k, seen in enumerate(views(batch, 4, dice, 1.0, "flip")):
        assert torch.equal(seen, batch.flip(3) if k % 2 else batch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_view_follows_its_dice_and_leaves_the_images_alone(dtype: torch.dtype) -> None:
    batch = images(4).to(dtype)
    before = batch.clone()
    one, again, other = (view(batch, Dice(seed, CPU), 1.0) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(batch, before)
    assert one.dtype == dtype
    assert 0.0 <= float(one.min()) <= float(one.max()) <= 1.0


def test_noise_has_its_strength() -> None:
    gray = torch.full((8, 3, 32, 32), 0.5)
    seen = seen_from(gray, replace(Viewpoint(), noise=0.005), Dice(0, CPU))
    assert float(seen.std()) == pytest.approx(0.005, rel=0.05)
