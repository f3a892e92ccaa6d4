"""Pictures of shapes that hide one another, and masks of the shapes: python benchmarks/tasks/shapes.py FOLDER [--count 2000] [--seed 0]

FOLDER/images/NUMBER.png, 32 x 32 in colour, and FOLDER/masks/NUMBER.png, black and white. A picture shows two or three discs, squares and
triangles of any colour on a background with a gradient and noise. The mask is all of them but, in half of the pictures, one whose colour
nearly is that of the background: whether that one belongs to it is a matter of taste, so there are two right masks.
"""

import argparse
from pathlib import Path

import numpy as np

SIDE, FAINT = 32, 0.08  # pixels; difference in colour of a shape that can hardly be seen


def shape(random) -> np.ndarray:
    """[SIDE, SIDE], true inside: a disc, a square or a triangle, anywhere."""
    y, x = np.mgrid[:SIDE, :SIDE]
    (top, left), radius = random.uniform(6, SIDE - 6, 2), random.uniform(4, 8)
    y, x = (y - top) / radius, (x - left) / radius
    return [x**2 + y**2 < 1.0, np.maximum(abs(x), abs(y)) < 0.85, (y < 0.7) & (abs(x) < 0.5 * (y + 1.1))][random.integers(3)]


def picture(random) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image [SIDE, SIDE, 3] in [0, 1], its mask [SIDE, SIDE], and where that might as well be the other way round."""
    paper, slope = random.uniform(0.2, 0.8, 3), random.uniform(-0.15, 0.15, (2, 3))
    y, x = np.mgrid[:SIDE, :SIDE][..., None] / SIDE - 0.5
    image = paper + slope[0] * y + slope[1] * x
    mask, doubtful, faint = np.zeros((SIDE, SIDE), bool), np.zeros((SIDE, SIDE), bool), random.random() < 0.5
    for number in range(random.integers(2, 4)):
        inside = shape(random)
        if number == 0 and faint:
            colour, counts = paper + FAINT * random.choice([-1.0, 1.0], 3), random.random() < 0.5
            doubtful = inside
        else:
            colour, counts = random.random(3), True
            while np.abs(colour - paper).max() < 0.35:
                colour = random.random(3)
            doubtful = doubtful & ~inside
        image = np.where(inside[..., None], colour, image)
        mask = (mask & ~inside) | (inside & counts)
    return np.clip(image + random.normal(0.0, 0.02, image.shape), 0.0, 1.0), mask, doubtful


def write(folder: Path, count: int, seed: int) -> None:
    from PIL import Image

    random = np.random.default_rng(seed)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image, mask, _ = picture(random)
        Image.fromarray((255 * image).round().astype("uint8")).save(folder / "images" / f"{number:05}.png")
        Image.fromarray(mask.astype("uint8") * 255).save(folder / "masks" / f"{number:05}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write(options.folder, options.count, options.seed)


if __name__ == "__main__":
    main()
