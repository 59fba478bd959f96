"""Thumbnails of a folder of pictures: plain bodies that compute, four at a time, each on a thread.

    pip install pillow
    ironflow dev examples/thumbnails.py
    ironflow publish album.created --data '{"folder": "album", "pictures": 12}' --wait

The pictures are drawn by the first step, so that nothing has to be fetched. Steps hand on paths and sizes and
never the pictures themselves: what a step returns is kept in the journal, which is no place for megabytes.
So all workers of this queue need the same folder. On workers without one, keep pictures in an object store.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from PIL import Image, ImageDraw

import ironflow
from ironflow import Context, NonRetryableError, Step

MOST_PICTURES = 1_000
AT_ONCE = 4
LANDSCAPE, PORTRAIT = (1280, 853), (853, 1280)


class Album(msgspec.Struct):
    """What to make thumbnails of: so many pictures in a folder. The longest side is in pixels."""

    folder: str
    pictures: int = 12
    longest_side: int = 160


class Thumbnail(msgspec.Struct):
    """A picture, and its thumbnail."""

    picture: str
    path: str
    width: int
    height: int


@ironflow.function(id="make-thumbnails", queue="pictures", triggers=["album.created"])
async def make_thumbnails(ctx: Context[Album]) -> list[Thumbnail]:
    """Draw an album and make a thumbnail of each of its pictures, in their order."""
    album = ctx.event.data
    pictures = await ctx.step.run("draw-pictures", draw_pictures, album)

    async def shrink_one(picture: str, step: Step, _index: int) -> Thumbnail:
        return await step.run("shrink", shrink, picture, album.longest_side)

    return await ctx.step.map("all-pictures", pictures, shrink_one, concurrency=AT_ONCE)


def draw_pictures(album: Album) -> list[str]:
    """Draw the pictures of an album, and return their paths."""
    if not 1 <= album.pictures <= MOST_PICTURES:
        raise NonRetryableError(f"an album has 1 to {MOST_PICTURES:,} pictures, got {album.pictures}")
    folder = Path(album.folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [draw(folder / f"picture-{number:04}.jpg", number) for number in range(1, album.pictures + 1)]


def draw(path: Path, number: int) -> str:
    """Draw a picture that shows its number on a sky of its own colour; every third one is upright."""
    size = PORTRAIT if number % 3 == 0 else LANDSCAPE
    light = Image.linear_gradient("L").resize(size)
    sky = Image.merge("RGB", (light, light.rotate(180), Image.new("L", size, number * 37 % 256)))
    ImageDraw.Draw(sky).text((40, 40), str(number), fill="white", font_size=200)
    save(sky, path)
    return str(path)


def shrink(picture: str, longest_side: int) -> Thumbnail:
    """Make the thumbnail of one picture. It blocks, and may: a plain body has a thread of its own."""
    source = Path(picture)
    target = source.with_name(f"{source.stem}.thumbnail.jpg")
    with Image.open(source) as image:
        image.thumbnail((longest_side, longest_side))
        save(image, target)
        return Thumbnail(picture, str(target), image.width, image.height)


def save(image: Image.Image, path: Path) -> None:
    """Write a picture whole or not at all: a body that is killed half-way runs again, and others may read meanwhile."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    image.save(unfinished, format="JPEG")
    unfinished.replace(path)
