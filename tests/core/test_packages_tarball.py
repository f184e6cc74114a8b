"""Layers as one file: the way there and back, and files that somebody made to do harm."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from pratai.config.schema import Packages as Limits
from pratai.errors import PayloadTooLarge, PrataiError
from pratai.packages import tarball
from pratai.packages.source import PackageDamaged

LONG = "a" * 200 + "/" + "b" * 200 + "/" + "c" * 90 + ".py"


def layer(root: Path) -> Path:
    for name in ("six.py", "pkg/__init__.py", "pkg/data/table.bin", LONG, "pkg/ünï.py"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 40_000)
        os.utime(path, (1_700_000_000, 1_700_000_000))
    (root / "bin").mkdir()
    (root / "bin" / "tool").write_bytes(b"#!/bin/sh\n")
    (root / "bin" / "tool").chmod(0o4755)
    (root / "empty").mkdir()
    (root / "none.py").write_bytes(b"")
    (root / "bin" / "six").symlink_to("../six.py")
    (root / "data").symlink_to("pkg/data")
    return root


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.size = len(content)
    made.mode = 0o644
    for field, value in fields.items():
        setattr(made, field, value)
    return made, content


def written(path: Path, *members: tuple[tarfile.TarInfo, bytes], **options: object) -> Path:
    options = {"format": tarfile.GNU_FORMAT, **options}
    with tarfile.open(path, "w:gz", **options) as archive:  # type: ignore[call-overload]
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return path


def test_a_layer_comes_back_as_it_was(tmp_path: Path) -> None:
    root, packed, target = layer(tmp_path / "layer"), tmp_path / "packed", tmp_path / "target"
    tarball.pack(str(root), str(packed), Limits())
    target.mkdir()

    sums = tarball.unpack(str(packed), str(target), Limits())

    names = sorted(path.relative_to(root) for path in root.rglob("*"))
    assert names == sorted(path.relative_to(target) for path in target.rglob("*"))
    for name in names:
        there, here = root / name, target / name
        assert there.is_symlink() == here.is_symlink()
        if there.is_symlink():
            assert os.readlink(there) == os.readlink(here)
        elif there.is_file():
            assert there.read_bytes() == here.read_bytes()
            assert int(there.stat().st_mtime) == int(here.stat().st_mtime)
    assert sums == tarball.sums_of(str(target))
    assert len(sums) == 7


def test_rights_beyond_reading_and_running_do_not_travel(tmp_path: Path) -> None:
    root, packed, target = layer(tmp_path / "layer"), tmp_path / "packed", tmp_path / "target"
    tarball.pack(str(root), str(packed), Limits())
    target.mkdir()

    tarball.unpack(str(packed), str(target), Limits())

    assert stat.S_IMODE((target / "bin" / "tool").stat().st_mode) == 0o555
    assert stat.S_IMODE((target / "six.py").stat().st_mode) == 0o444


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    root, one, two = layer(tmp_path / "layer"), tmp_path / "one", tmp_path / "two"

    sums = [tarball.pack(str(root), str(path), Limits()) for path in (one, two)]

    assert sums[0] == sums[1]
    assert one.read_bytes() == two.read_bytes()


FOLDER = member("d", type=tarfile.DIRTYPE)
DEEP = [member("a", type=tarfile.DIRTYPE), member("a/b", type=tarfile.DIRTYPE)]
HOSTILE = {
    "an absolute path": [member("/etc/evil", b"x")],
    "a way up": [member("../evil", b"x")],
    "a way up inside": [FOLDER, member("d/../../evil", b"x")],
    "a dot": [member("./evil", b"x")],
    "no folder before it": [member("d/evil", b"x")],
    "a file as a folder": [member("d", b"x"), member("d/evil", b"x")],
    "twice": [member("evil", b"x"), member("evil", b"y")],
    "a link out": [member("evil", type=tarfile.SYMTYPE, linkname="../outside")],
    "an absolute link": [member("evil", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
    "a link to nothing": [member("evil", type=tarfile.SYMTYPE, linkname="")],
    "a link down and up": [
        *DEEP,
        member("a/b/up", type=tarfile.SYMTYPE, linkname="../.."),
        member("evil", type=tarfile.SYMTYPE, linkname="a/b/up/../outside"),
    ],
    "a file through a link": [
        FOLDER,
        member("link", type=tarfile.SYMTYPE, linkname="d"),
        member("link/evil", b"x"),
    ],
    "a file over a link": [
        member("evil", type=tarfile.SYMTYPE, linkname="other"),
        member("evil", b"x"),
    ],
    "a hard link": [member("a", b"x"), member("evil", type=tarfile.LNKTYPE, linkname="a")],
    "a device": [member("evil", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "a pipe": [member("evil", type=tarfile.FIFOTYPE)],
    "too long a name": [member("a/" * 600 + "evil", b"x")],
    "too long a part": [member("e" * 256, b"x")],
    "a time before time": [member("evil", b"x", mtime=-1)],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_layer_is_refused_and_touches_nothing_outside(name: str, tmp_path: Path) -> None:
    packed = written(tmp_path / "packed", *HOSTILE[name])
    target = tmp_path / "room" / "target"
    target.mkdir(parents=True)

    with pytest.raises(PackageDamaged):
        tarball.unpack(str(packed), str(target), Limits())

    assert os.listdir(tmp_path / "room") == ["target"]
    assert sorted(os.listdir(tmp_path)) == ["packed", "room"]


def test_headers_that_we_do_not_write_are_refused(tmp_path: Path) -> None:
    packed = written(tmp_path / "packed", member("x" * 150, b"x"), format=tarfile.PAX_FORMAT)

    with pytest.raises(PackageDamaged):
        tarball.unpack(str(packed), str(tmp_path), Limits())


@pytest.mark.parametrize(
    ("limits", "members"),
    [
        (Limits(layer_files_max=2), [member(name, b"") for name in "abc"]),
        (
            Limits(layer_files_max=1, layer_bytes_max=10_000),
            [member("a", b"\0" * 1_000_000)],
        ),
    ],
)
def test_a_layer_beyond_its_bounds_is_refused(
    limits: Limits, members: list[tuple[tarfile.TarInfo, bytes]], tmp_path: Path
) -> None:
    packed = written(tmp_path / "packed", *members)
    (tmp_path / "target").mkdir()

    with pytest.raises(PayloadTooLarge):
        tarball.unpack(str(packed), str(tmp_path / "target"), limits)


@pytest.mark.parametrize("keep", [0, 5, 40, 200])
def test_a_layer_that_was_cut_off_is_refused(keep: int, tmp_path: Path) -> None:
    root, packed = layer(tmp_path / "layer"), tmp_path / "packed"
    tarball.pack(str(root), str(packed), Limits())
    packed.write_bytes(packed.read_bytes()[:keep])
    (tmp_path / "target").mkdir()

    with pytest.raises(PackageDamaged):
        tarball.unpack(str(packed), str(tmp_path / "target"), Limits())


def test_no_change_of_a_byte_is_answered_by_anything_but_a_refusal(tmp_path: Path) -> None:
    """The checksum is compared before; even without it nothing unforeseen comes of damage."""
    (tmp_path / "layer").mkdir()
    (tmp_path / "layer" / "six.py").write_bytes(b"x = 1\n" * 100)
    tarball.pack(str(tmp_path / "layer"), str(tmp_path / "packed"), Limits())
    plain = bytearray(gzip.decompress((tmp_path / "packed").read_bytes()))
    for at in range(0, 512, 3):
        changed = bytes(plain[:at]) + bytes([plain[at] ^ 0xFF]) + bytes(plain[at + 1 :])
        (tmp_path / "changed").write_bytes(gzip.compress(changed, 1))
        target = tmp_path / f"target{at}"
        target.mkdir()
        with pytest.raises(PrataiError):
            tarball.unpack(str(tmp_path / "changed"), str(target), Limits())
