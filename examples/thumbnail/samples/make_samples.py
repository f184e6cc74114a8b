"""Draws the three pictures of this folder. They are generated, not photographs.

`python make_samples.py` writes lake.jpg, dunes_rotated.jpg (stored on its side, with the EXIF
note that says so, as phones do) and badge.png (with transparency).
"""

import math
import random
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter

HERE = Path(__file__).parent
ORIENTATION = 0x0112


def gradient(size, stops):
    """A vertical gradient through `stops`: [(0..1, (r, g, b)), ...]."""
    column = Image.new("RGB", (1, size[1]))
    for y in range(size[1]):
        at = y / (size[1] - 1)
        (a, low), (b, high) = next(p for p in zip(stops, stops[1:]) if p[1][0] >= at)
        part = (at - a) / (b - a)
        column.putpixel((0, y), tuple(round(x + (z - x) * part) for x, z in zip(low, high)))
    return column.resize(size)


def ridge(rng, width, base, height, rough=0.55):
    """Heights of a mountain line, by halving a segment and shaking its middle."""
    points = [base, base]
    while len(points) < width:
        finer = []
        for left, right in zip(points, points[1:]):
            finer += [left, (left + right) / 2 + rng.uniform(-height, height)]
        points, height = [*finer, points[-1]], height * rough
    return points[:width]


def glow(image, centre, radius, colour):
    """Adds soft light, as of a low sun."""
    light = Image.new("RGB", image.size)
    x, y = centre
    ImageDraw.Draw(light).ellipse((x - radius, y - radius, x + radius, y + radius), colour)
    return ImageChops.add(image, light.filter(ImageFilter.GaussianBlur(radius * 0.9)))


def fill_below(image, line, colour, bottom):
    draw = ImageDraw.Draw(image)
    draw.polygon([(0, bottom), *enumerate(line), (image.width, bottom)], colour)


def lake(width=1600, height=1067):
    rng = random.Random(7)
    shore = int(height * 0.6)
    sky = [(0, (38, 66, 120)), (0.6, (236, 170, 140)), (1, (255, 222, 170))]
    land = glow(gradient((width, shore), sky), (1130, 470), 90, (255, 200, 130))
    for depth, colour in enumerate([(134, 124, 160), (92, 92, 134), (54, 64, 96), (26, 38, 52)]):
        line = ridge(rng, width, shore - 210 + depth * 62, 150 - depth * 30)
        fill_below(land, line, colour, shore)
    draw = ImageDraw.Draw(land)
    for x in range(0, width, 9):  # a forest along the shore
        tall = rng.uniform(14, 58) * (1.2 - math.sin(x / width * math.pi))
        draw.polygon([(x - 8, shore), (x, shore - tall), (x + 8, shore)], (14, 26, 30))
    image = Image.new("RGB", (width, height))
    image.paste(land, (0, 0))
    water = land.transpose(Image.Transpose.FLIP_TOP_BOTTOM).crop((0, 0, width, height - shore))
    water = water.filter(ImageFilter.BoxBlur((3, 5))).point(lambda v: int(v * 0.72))
    for y in range(0, water.height, 2):  # ripples: shift each line a little, more when near
        row = water.crop((0, y, width, y + 2))
        water.paste(row, (round(math.sin(y / 3.1) * (1 + y / 40)), y))
    image.paste(water, (0, shore))
    return image


def dunes(width=900, height=1350):
    rng = random.Random(21)
    sky = [(0, (70, 40, 92)), (0.35, (214, 96, 90)), (0.55, (255, 190, 110)), (1, (255, 214, 150))]
    image = glow(gradient((width, height), sky), (300, 600), 80, (255, 230, 160))
    ImageDraw.Draw(image).ellipse((240, 540, 360, 660), (255, 244, 214))
    colours = [(196, 110, 72), (170, 88, 60), (138, 66, 50), (96, 44, 42), (58, 28, 34)]
    for depth, colour in enumerate(colours):
        swing, at = rng.uniform(0, 6), height * (0.5 + depth * 0.105)
        line = [at + 60 * math.sin(x / (260 + depth * 40) + swing) + 14 * math.sin(x / 61 + swing)
                for x in range(width)]
        fill_below(image, line, colour, height)
    return image.filter(ImageFilter.GaussianBlur(0.8))


def badge(side=720):
    image = Image.new("RGBA", (side * 2, side * 2))
    draw = ImageDraw.Draw(image)
    middle = side
    for turn in range(24):  # a sun of 24 rays
        angle = turn * math.pi / 12
        spread = math.pi / 40
        far = side * (0.97 if turn % 2 else 0.86)
        draw.polygon([(middle + math.cos(angle - spread) * side * 0.5,
                       middle + math.sin(angle - spread) * side * 0.5),
                      (middle + math.cos(angle) * far, middle + math.sin(angle) * far),
                      (middle + math.cos(angle + spread) * side * 0.5,
                       middle + math.sin(angle + spread) * side * 0.5)], (240, 160, 40, 255))
    for radius, colour in ((0.62, (28, 60, 88, 255)), (0.56, (250, 240, 220, 255))):
        edge = side * radius
        draw.ellipse((middle - edge, middle - edge, middle + edge, middle + edge), colour)
    draw.polygon([(side * 0.62, side * 1.3), (side * 0.92, side * 0.72), (side * 1.06, side * 0.98),
                  (side * 1.16, side * 0.84), (side * 1.42, side * 1.3)], (60, 110, 96, 255))
    return image.resize((side, side), Image.Resampling.LANCZOS)


def write():
    lake().save(HERE / "lake.jpg", quality=80, optimize=True)
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # "turn me 90 degrees clockwise to look at me"
    on_its_side = dunes().transpose(Image.Transpose.ROTATE_90)
    on_its_side.save(HERE / "dunes_rotated.jpg", quality=82, optimize=True, exif=exif)
    badge().save(HERE / "badge.png", optimize=True)


if __name__ == "__main__":
    write()
