"""Two hundred JPEG photographs of different sizes, to replay as a user would.

    pip install scikit-image matplotlib && pip install --no-deps gradio
    python benchmarks/photographs.py out/photos

They are crops of nine photographs that come with these packages, labeled by eye with ImageNet's classes. Nine scenes
show that a folder of photographs can be replayed; they say little about which method is best on photographs.
"""

import argparse
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
from PIL import Image

SCENES = {
    ("scikit-image", "skimage/data/chelsea.png"): 281,  # tabby
    ("scikit-image", "skimage/data/coffee.png"): 967,  # espresso
    ("scikit-image", "skimage/data/rocket.jpg"): 657,  # missile
    ("scikit-image", "skimage/data/camera.png"): 872,  # tripod
    ("matplotlib", "matplotlib/mpl-data/sample_data/grace_hopper.jpg"): 652,  # military uniform
    ("gradio", "gradio/media_assets/images/cheetah.jpg"): 293,  # cheetah
    ("gradio", "gradio/media_assets/images/cheetah1.jpg"): 293,
    ("gradio", "gradio/test_data/cheetah2.jpg"): 293,
    ("gradio", "gradio/media_assets/images/lion.jpg"): 291,  # lion
}


def crops(picture: Image.Image, count: int, chance: np.random.Generator) -> Iterator[Image.Image]:
    """Parts of a photograph, from all of it to a half, at other sizes and shapes."""
    yield picture
    for _ in range(count - 1):
        width, height = (round(side * chance.uniform(0.7, 1.0)) for side in picture.size)
        left, top = chance.integers(picture.width - width + 1), chance.integers(picture.height - height + 1)
        scale = chance.uniform(240, 900) / max(width, height)
        part = picture.crop((int(left), int(top), int(left) + width, int(top) + height))
        yield part.resize((round(width * scale), round(height * scale)), Image.Resampling.LANCZOS)


def main() -> None:
    """Write the folder ``class number/name.jpg``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--count", type=int, default=200, help="photographs in all")
    options = parser.parse_args()
    chance = np.random.default_rng(0)
    shares = np.full(len(SCENES), options.count // len(SCENES))
    shares[: options.count % len(SCENES)] += 1
    for ((package, file), label), share in zip(SCENES.items(), shares, strict=True):
        path = Path(str(distribution(package).locate_file(file)))
        folder = options.out / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        for number, part in enumerate(crops(Image.open(path).convert("RGB"), int(share), chance)):
            part.save(folder / f"{path.stem}-{number:02}.jpg", quality=int(chance.integers(60, 96)))
    written = sorted(options.out.rglob("*.jpg"))
    sizes = {Image.open(path).size for path in written}
    print(f"{options.out}: {len(written)} photographs of {len(sizes)} sizes, from {min(sizes)} to {max(sizes)}")


if __name__ == "__main__":
    main()
