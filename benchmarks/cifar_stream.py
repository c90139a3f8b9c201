"""Make a stream of the development data: CIFAR-10 test images under fifteen corruptions, and clean.

python benchmarks/cifar_stream.py cifar10c_like_s5_1000.npz out/cifar10c.npz
tta-daemon replay out/cifar10c.npz --config config.toml --method tent,eata
"""

import argparse
from pathlib import Path

import numpy as np


def main() -> None:
    """Lay the arrays of the file, one a corruption, behind one another; the clean images first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="an .npz with one array of images for each corruption, and labels")
    parser.add_argument("out", type=Path, help="the stream to write")
    parser.add_argument("--images", type=int, default=0, help="images of each corruption; all where absent")
    options = parser.parse_args()
    with np.load(options.data) as file:
        names = ["clean", *(name for name in file.files if name not in {"clean", "labels"})]
        most = options.images or len(file["labels"])
        images = np.concatenate([file[name][:most] for name in names])
        labels = np.tile(file["labels"][:most], len(names))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    severity = np.repeat([0 if name == "clean" else 5 for name in names], most)
    np.savez(options.out, images=images, labels=labels, domain=np.repeat(names, most), severity=severity)
    print(f"{options.out}: {len(labels)} images, {len(names)} domains")


if __name__ == "__main__":
    main()
