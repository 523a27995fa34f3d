"""The slide's own tiles: their pixels, the bounded pool of open slides, damage."""

import ctypes
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import openslide
import pytest
from openslide.deepzoom import DeepZoomGenerator
from PIL import Image

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.slide.open import SlideError, open_slide
from digipath_ray.storage.bucket import put
from digipath_ray.viewer.tiles.lru import LruCache
from digipath_ray.viewer.tiles.pool import Fetching, SlidePool
from digipath_ray.viewer.tiles.pyramid import (
    MOST_PX,
    TILE_PX,
    NoTile,
    TiledSlide,
    encode_jpeg,
    max_level,
    read_shrunk,
)
from digipath_ray.viewer.tiles.slidetiles import Tiles, shrink
from tests.slides import noise, write_levels, write_pyramid, write_scn
from tests.viewing import decode, write_gradient

if TYPE_CHECKING:
    from tests.buckets import Bucket


@pytest.fixture(scope="module")
def gradient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gradient(tmp_path_factory.mktemp("slides") / "gradient.tif")


@pytest.fixture
def pool() -> Iterator[SlidePool]:
    made = SlidePool(most=2)
    yield made
    made.close()


def row(path: Path, slide_id: str | None = None) -> SlideRow:
    return SlideRow(slide_id=slide_id or path.stem, path=str(path))


def test_tiles_are_openslides_own(gradient: Path) -> None:
    with openslide.OpenSlide(gradient) as slide:
        oracle = DeepZoomGenerator(slide, TILE_PX, 0)
        with open_slide(gradient) as ours:
            tiled = TiledSlide(ours)
            assert tiled.zoom.level_tiles == oracle.level_tiles
            for level, col, at_row in ((12, 3, 4), (12, 7, 5), (10, 1, 1)):
                want = np.asarray(oracle.get_tile(level, (col, at_row)))
                np.testing.assert_array_equal(tiled.tile(level, col, at_row), want)
            want = np.asarray(oracle.get_tile(7, (0, 0))).astype(int)
            assert np.abs(tiled.tile(7, 0, 0).astype(int) - want).max() <= 2


def test_the_finest_level_is_that_of_deep_zoom() -> None:
    assert max_level(4000, 3000) == 12
    assert max_level(4096, 1) == 12
    assert max_level(4097, 1) == 13
    assert max_level(1, 1) == 0


@pytest.mark.parametrize("at", [(12, 8, 0), (12, 0, 6), (13, 0, 0), (99, 0, 0)])
def test_beyond_the_slide_there_is_no_tile(
    gradient: Path, at: tuple[int, int, int]
) -> None:
    with open_slide(gradient) as slide, pytest.raises(NoTile):
        TiledSlide(slide).tile(*at)


def test_tiles_count_from_the_scanned_bounds(tmp_path: Path) -> None:
    pixels = noise(600, 300)
    path = write_scn(
        tmp_path / "s.scn", pixels, mpp=0.5, offset=(512, 256), canvas=(2048, 1024)
    )
    with open_slide(path) as slide:
        tiled = TiledSlide(slide)
        np.testing.assert_array_equal(tiled.tile(10, 1, 0), pixels[:, 512:])


def test_a_plain_image_has_tiles_and_is_decoded_once(tmp_path: Path) -> None:
    pixels = noise(700, 520)
    path = tmp_path / "plain.png"
    Image.fromarray(pixels).save(path)
    with open_slide(path) as slide:
        tiled = TiledSlide(slide)
        with ThreadPoolExecutor(4) as threads:
            tiles = list(threads.map(lambda _: tiled.tile(10, 1, 1), range(4)))
    for tile in tiles:
        np.testing.assert_array_equal(tile, pixels[512:, 512:])


def test_a_level_is_shrunk_in_strips_as_it_is_whole(
    gradient: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("digipath_ray.viewer.tiles.pyramid.STRIP_PX", 4000 * 100)
    with open_slide(gradient) as slide:
        strips = read_shrunk(slide, 0, (0, 0, 4000, 3000), (400, 300))
        whole = slide.read_level(0, 0, 0, 4000, 3000)
    want = whole.reshape(300, 10, 400, 10, 3).mean(axis=(1, 3))
    assert np.abs(strips - want).max() <= 1


def test_a_slide_without_a_pyramid_is_not_decoded_whole(tmp_path: Path) -> None:
    side = int((MOST_PX) ** 0.5) + 512
    with open_slide(write_levels(tmp_path / "s.tif", [noise(64, 64)], mpp=1.0)) as s:
        with pytest.raises(SlideError, match="no level is coarse enough") as caught:
            read_shrunk(s, 0, (0, 0, side, side), (64, 64))
        assert "pyramid" in caught.value.hint


def test_a_downsample_that_is_nearly_4_does_for_4(tmp_path: Path) -> None:
    levels = [noise(1001, 1001), noise(250, 250)]
    with open_slide(write_levels(tmp_path / "s.tif", levels, mpp=1.0)) as slide:
        assert slide.info.level_downsamples[1] == pytest.approx(4.004)
        assert TiledSlide(slide).zoom.get_tile_coordinates(8, (0, 0))[1] == 1


# The pool


def test_the_least_used_slide_is_closed_first(pool: SlidePool, tmp_path: Path) -> None:
    rows = [row(write_levels(tmp_path / f"{i}.tif", [noise(64, 64)], mpp=1)) for i in
            range(3)]  # fmt: skip
    first = open_tiled(pool, rows[:2])
    with pool.use(rows[0]) as again:
        assert again is first[0]
    open_tiled(pool, rows[2:])
    assert len(pool) == 2
    with pool.use(rows[0]) as kept:
        assert kept is first[0]
    with pool.use(rows[1]) as anew:
        assert anew is not first[1]
    assert is_closed(first[1])


def open_tiled(pool: SlidePool, rows: list[SlideRow]) -> list[TiledSlide]:
    found = []
    for one in rows:
        with pool.use(one) as tiled:
            tiled.tile(0, 0, 0)
            found.append(tiled)
    return found


def is_closed(tiled: TiledSlide) -> bool:
    """Whether reading fails as OpenSlide's closed handles do."""
    try:
        tiled.tile(0, 0, 0)
    except ctypes.ArgumentError:
        return True
    return False


def test_a_slide_in_use_is_not_closed(pool: SlidePool, tmp_path: Path) -> None:
    rows = [row(write_levels(tmp_path / f"{i}.tif", [noise(64, 64)], mpp=1)) for i in
            range(4)]  # fmt: skip
    with ExitStack() as stack:
        used = stack.enter_context(pool.use(rows[0]))
        others = open_tiled(pool, rows[1:])
        assert used.tile(0, 0, 0).shape == (1, 1, 3)
        assert len(pool) == 2
        assert [is_closed(other) for other in others] == [True, True, False]
    open_tiled(pool, rows[1:3])
    assert is_closed(used)


def test_a_slide_replaced_while_in_use_is_closed_by_its_last_user(
    pool: SlidePool, tmp_path: Path
) -> None:
    path = write_levels(tmp_path / "s.tif", [noise(64, 64)], mpp=1)
    other = write_levels(tmp_path / "o.tif", [noise(64, 64, seed=1)], mpp=1)
    with pool.use(row(path)) as used:
        other.replace(path)
        with pool.use(row(path)) as anew:
            assert anew is not used
        assert used.tile(0, 0, 0).shape == (1, 1, 3)
    assert is_closed(used)
    assert not is_closed(anew)


def test_plain_images_count_by_their_pixels(tmp_path: Path) -> None:
    pool = SlidePool(most=9, most_bytes=3 * 24 << 20)
    for i in range(3):
        Image.new("RGB", (4000, 3000)).save(tmp_path / f"{i}.jpg")
    rows = [row(tmp_path / f"{i}.jpg") for i in range(3)]  # of 36 MB each
    for one in rows:
        with pool.use(one):
            pass
    assert len(pool) == 2
    pool.close()


def test_many_threads_open_a_slide_once(
    pool: SlidePool, gradient: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    real = open_slide

    def counted(*args: object, **options: object) -> object:
        opened.append(args)
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("digipath_ray.viewer.tiles.pool.open_slide", counted)
    start = threading.Barrier(8)

    def read(_: int) -> int:
        start.wait()
        with pool.use(row(gradient)) as tiled:
            return int(tiled.tile(12, 0, 0)[0, 0, 2])

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(read, range(8))) == [90] * 8
    assert len(opened) == 1


def test_a_replaced_file_is_opened_anew(pool: SlidePool, tmp_path: Path) -> None:
    path = write_levels(tmp_path / "s.tif", [np.full((64, 64, 3), 10, np.uint8)], mpp=1)
    tiles = Tiles(pool)
    assert decode(tiles.tile(row(path), 6, 0, 0))[0, 0, 0] == 10
    version = pool.version(row(path))
    other = write_levels(
        tmp_path / "o.tif", [np.full((64, 64, 3), 200, np.uint8)], mpp=1
    )
    other.replace(path)
    assert pool.version(row(path)) != version
    assert decode(tiles.tile(row(path), 6, 0, 0))[0, 0, 0] == 200


def test_a_slide_damaged_in_one_place_is_shown_elsewhere(
    pool: SlidePool, tmp_path: Path
) -> None:
    path = write_pyramid(tmp_path / "s.tif", noise(1024, 1024), mpp=1.0, tile=256)
    data = bytearray(path.read_bytes())
    # The first tiles of level 0 lie right behind the header.
    data[400:60_000] = bytes(59_600)
    path.write_bytes(data)
    for _ in range(2):
        with (
            pytest.raises(SlideError, match="cannot be read"),
            pool.use(row(path)) as p,
        ):
            p.tile(10, 0, 0)
        with pool.use(row(path)) as tiled:
            assert tiled.tile(10, 1, 1).shape == (512, 512, 3)


def test_a_file_that_is_gone_says_so(pool: SlidePool, tmp_path: Path) -> None:
    with (
        pytest.raises(SlideError, match=r"s\.tif: the slide's file is missing"),
        pool.use(row(tmp_path / "s.tif")),
    ):
        pass
    with pytest.raises(SlideError, match=r"\.tif: the slide's file is missing"):
        pool.version(SlideRow(slide_id="s", path="/a\0b.tif"))


# What is kept


def test_what_is_kept_never_exceeds_its_bytes() -> None:
    kept: LruCache[bytes] = LruCache(10, len)
    for i in range(5):
        kept.put(i, bytes(4))
        assert kept.nbytes <= 10
    assert [kept.get(i) is not None for i in range(5)] == [False] * 3 + [True] * 2
    kept.get(3)
    kept.put(5, bytes(4))
    assert kept.get(3) is not None
    assert kept.get(4) is None
    kept.put(6, bytes(11))
    assert kept.get(6) is None
    kept.put(3, bytes(10))
    assert kept.nbytes == 10


def test_a_tile_is_decoded_once(pool: SlidePool, gradient: Path) -> None:
    tiles = Tiles(pool)
    first = tiles.tile(row(gradient), 12, 1, 1)
    assert tiles.tile(row(gradient), 12, 1, 1) is first
    assert tiles.kept.nbytes == len(first)


def test_a_thumbnail_is_the_whole_slide(pool: SlidePool, gradient: Path) -> None:
    small = decode(Tiles(pool).thumbnail(row(gradient)))
    assert small.shape == (240, 320, 3)
    assert np.abs(small[120, :, 0] - np.linspace(0, 255, 320)).max() < 6
    stored = encode_jpeg(np.zeros((700, 1400, 3), np.uint8))
    assert decode(shrink(stored)).shape == (160, 320, 3)


def test_a_real_slide_and_a_broken_one(pool: SlidePool, shared_data: Path) -> None:
    tiles = Tiles(pool)
    real = row(shared_data / "wsi" / "CMU-1-Small-Region.svs")
    assert decode(tiles.tile(real, 12, 1, 1)).shape == (512, 512, 3)
    for name in ("unreadable", "broken"):
        with pytest.raises(SlideError):
            tiles.tile(row(shared_data / "wsi" / f"{name}.svs"), 4, 0, 0)
    assert decode(tiles.tile(real, 12, 2, 2)).shape == (512, 512, 3)


def test_a_slide_in_a_bucket_is_copied_once(
    pool: SlidePool, bucket_url: str, bucket_server: "Bucket", gradient: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("DIGIPATH_CACHE", str(tmp_path / "cache"))
    url = f"{bucket_url}/slide.tif"
    put(url, gradient.read_bytes())
    one = SlideRow(slide_id="slide", path=url)
    tiles = Tiles(pool)
    bucket_server.requests.clear()
    for col in range(4):
        assert decode(tiles.tile(one, 12, col, 0)).shape == (512, 512, 3)
    assert bucket_server.asked("GET", "slide.tif") <= 2
    pool.close()
    shutil.rmtree(tmp_path / "cache")


@pytest.fixture
def in_bucket(
    bucket_url: str, gradient: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[SlideRow]:
    """Four slides in a bucket, and a cache that holds one and a half of them."""
    monkeypatch.setenv("DIGIPATH_CACHE", str(tmp_path / "cache"))
    size = gradient.stat().st_size
    monkeypatch.setenv("DIGIPATH_CACHE_GB", str(1.5 * size / 1e9))
    rows = []
    for i in range(4):
        put(f"{bucket_url}/{i}.tif", gradient.read_bytes())
        rows.append(SlideRow(slide_id=str(i), path=f"{bucket_url}/{i}.tif"))
    return rows


def tile_of(pool: SlidePool, one: SlideRow, *, within_s: float) -> float:
    """Ask for a slide until it is here; the seconds that the longest try took."""
    longest, started = 0.0, time.monotonic()
    while True:
        asked = time.monotonic()
        try:
            with pool.use(one) as tiled:
                assert tiled.tile(12, 0, 0).shape == (512, 512, 3)
                return max(longest, time.monotonic() - asked)
        except Fetching:
            longest = max(longest, time.monotonic() - asked)
            assert time.monotonic() - started < within_s
            time.sleep(0.05)


def test_unused_copies_make_room_for_the_next(in_bucket: list[SlideRow]) -> None:
    pool = SlidePool(wait_s=0.2)
    for one in in_bucket:
        assert tile_of(pool, one, within_s=20) < 5
    pool.close()


def test_where_there_is_no_room_nobody_waits_long(in_bucket: list[SlideRow]) -> None:
    pool = SlidePool(wait_s=0.2)
    tile_of(pool, in_bucket[0], within_s=20)
    with pool.use(in_bucket[0]):  # so its copy stays
        for _ in range(3):
            started = time.monotonic()
            with pytest.raises(Fetching), pool.use(in_bucket[1]):
                pass
            assert time.monotonic() - started < 5
        with pool.use(in_bucket[0]) as tiled:
            assert tiled.tile(12, 1, 1).shape == (512, 512, 3)
    tile_of(pool, in_bucket[1], within_s=20)
    pool.close()


def test_few_copies_stay_open_unused(
    in_bucket: list[SlideRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DIGIPATH_CACHE_GB")
    pool = SlidePool(most_copies=2)
    for one in in_bucket * 2:  # a fetch closes all others; then all are here
        tile_of(pool, one, within_s=20)
    assert len(pool) == 2
    pool.close()
