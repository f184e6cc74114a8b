"""Uploads: what is a package, what is refused, and that packing is repeatable."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pratai.config.schema import Packages as Limits
from pratai.errors import CallerError, InvalidField, PayloadTooLarge
from pratai.packages import tree
from pratai.packages.archive import listing, matches, recognise, unpack
from pratai.packages.pack import pack

PATIENT = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
LIMITS = Limits(unpacked_bytes_max=1_000_000, files_max=100)
CODE = b"def main(payload):\n    return payload\n"


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def special(name: str, kind: int, mode: int = 0o777) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (kind | mode) << 16
    return info


def paths(data: bytes) -> list[str]:
    return [member.path for member in listing(data, LIMITS).members]


def unpacked(data: bytes, folder: Path, limits: Limits = LIMITS) -> dict[str, bytes]:
    target = tree.begin(str(folder))
    unpack(data, listing(data, limits), target, limits)
    return {
        os.path.relpath(os.path.join(here, name), target): Path(here, name).read_bytes()
        for here, _, names in os.walk(target)
        for name in names
    }


def refusal(data: bytes) -> CallerError:
    with pytest.raises(CallerError) as caught:
        listing(data, LIMITS)
    assert caught.value.field == "package"
    assert caught.value.next_step
    return caught.value


def test_a_source_file_is_unpacked_as_main(tmp_path: Path) -> None:
    assert recognise(CODE) == "source"
    assert unpacked(CODE, tmp_path) == {"main.py": CODE}


def test_a_zip_is_unpacked_as_it_is(tmp_path: Path) -> None:
    data = zipped(("main.py", CODE), ("lib/", b""), ("lib/a.py", b"x"), ("empty", b""))
    assert unpacked(data, tmp_path) == {"main.py": CODE, "lib/a.py": b"x", "empty": b""}


def test_what_is_unpacked_is_read_only_and_readable_by_all(tmp_path: Path) -> None:
    data = zipped(("main.py", CODE), (special("bin/run", stat.S_IFREG, 0o4755), b"#!"))
    target = tree.begin(str(tmp_path))
    unpack(data, listing(data, LIMITS), target, LIMITS)
    modes = {
        name: stat.S_IMODE(os.stat(os.path.join(target, name)).st_mode)
        for name in ("", "main.py", "bin", "bin/run")
    }
    assert modes == {"": 0o555, "main.py": 0o444, "bin": 0o555, "bin/run": 0o555}
    tree.remove(target)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b" \n\t", "empty"),
        (b"\x1f\x8b\x08\x00\x00\x00", "neither a zip nor"),
        (b"PK\x03\x04", "cannot be read"),
        (b"PK\x05\x06" + b"\0" * 18, "no files"),
        (zipped(("main.py", CODE))[:-30], "cannot be read"),
        (zipped(("lib/", b"")), "no files"),
        (zipped(("__MACOSX/._main.py", b"x"), (".DS_Store", b"x")), "no files"),
    ],
)
def test_what_is_no_package_is_refused(data: bytes, words: str) -> None:
    assert words in refusal(data).detail


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "\\\\server\\share",
        "C:\\x.py",
        "c:/x.py",
        "../x.py",
        "a/../../x.py",
        "a\\..\\..\\x.py",
        "..",
        "a/..",
        "a\nb.py",
        "a\x1b[31m.py",
        "x" * 300,
        "d/" * 600 + "x",
        "\x7f",
    ],
)
def test_a_name_that_leaves_the_folder_or_cannot_be_one_is_refused(name: str) -> None:
    error = refusal(zipped(("main.py", CODE), (name, b"x")))
    assert "entry" in error.detail
    assert error.detail.isprintable()


def test_a_name_cut_by_nul_is_refused() -> None:
    data = zipped(("mainXpy", CODE)).replace(b"mainXpy", b"main\0py")
    assert "control characters" in refusal(data).detail


@pytest.mark.parametrize(
    "kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK]
)
def test_links_and_devices_are_refused(kind: int) -> None:
    data = zipped(("main.py", CODE), (special("evil", kind), b"/etc/passwd"))
    assert "link or device" in refusal(data).detail


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ("a.py", "a.py", "twice"),
        ("a.py", "./a.py", "twice"),
        ("a.py", "A.py", "case"),
        ("lib/x.py", "LIB/y.py", "case"),
        ("stra\u00dfe.py", "strasse.py", "case"),
        ("\u00e9.py", "e\u0301.py", "case"),
        ("a", "a/b", "both a file and a folder"),
        ("x/b\\c.py", "x/b/c.py", "twice"),
    ],
)
def test_names_that_collide_on_some_file_system_are_refused(
    one: str, other: str, words: str
) -> None:
    assert words in refusal(zipped((one, b"1"), (other, b"2"))).detail


def test_an_encrypted_zip_is_refused() -> None:
    data = bytearray(zipped(("main.py", CODE)))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    assert "encrypted" in refusal(bytes(data)).detail


def test_an_unusual_compression_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("main.py", CODE)
    assert "deflate" in refusal(buffer.getvalue()).detail


def test_a_bomb_that_tells_its_size_is_refused_unread() -> None:
    data = zipped(*((f"{n}.bin", b"\0" * 300_000) for n in range(4)))
    assert len(data) < 10_000
    error = refusal(data)
    assert isinstance(error, PayloadTooLarge)
    assert "unpacked_bytes_max" in error.next_step


def test_a_bomb_that_lies_about_its_size_writes_no_more_than_it_claimed(tmp_path: Path) -> None:
    data = zipped(("main.py", b"\0" * 5_000_000))
    real, small = struct.pack("<I", 5_000_000), struct.pack("<I", 10)
    lying = data.replace(real, small)
    assert lying != data
    with pytest.raises(InvalidField):
        unpacked(lying, tmp_path)
    assert tree.size(str(tmp_path)) <= 1_000_000


def test_bytes_are_counted_as_they_inflate(tmp_path: Path) -> None:
    data = zipped(("main.py", b"\0" * 2_000_000))
    listed = listing(data, Limits())
    target = tree.begin(str(tmp_path))
    with pytest.raises(PayloadTooLarge):
        unpack(data, listed, target, LIMITS)
    assert tree.size(str(tmp_path)) <= 1_100_000


def test_too_many_files_are_refused() -> None:
    data = zipped(*((f"{n}.py", b"") for n in range(101)))
    assert isinstance(refusal(data), PayloadTooLarge)


def test_a_directory_of_very_many_entries_is_refused_before_it_is_read() -> None:
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 65_535, 65_535, 50_000_000, 0, 0)
    assert isinstance(refusal(b"PK\x03\x04" + b"\0" * 100 + end), PayloadTooLarge)


def test_a_zip64_directory_is_refused() -> None:
    data = zipped(("main.py", CODE))
    end = data.rindex(b"PK\x05\x06")
    wide = data[:end] + b"PK\x06\x07" + b"\0" * 16 + data[end:]
    assert "zip64" in refusal(wide).detail


def test_damaged_content_is_refused_when_unpacked(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("main.py", CODE)
    with pytest.raises(InvalidField, match="cannot be read"):
        unpacked(buffer.getvalue().replace(b"payload", b"PAYLOAD"), tmp_path)


def test_a_lone_folder_with_the_code_is_left_off() -> None:
    data = zipped(("repo-main/main.py", CODE), ("repo-main/lib/a.py", b""))
    listed = listing(data, LIMITS)
    assert [member.path for member in listed.members] == ["lib/a.py", "main.py"]
    assert listed.stripped == "repo-main"


@pytest.mark.parametrize(
    "names",
    [
        ("pkg/__init__.py", "pkg/main.py"),
        ("main.py", "pkg/main.py"),
        ("src/deep/main.py", "src/deep/x.py"),
        ("a/main.py", "b/main.py"),
    ],
)
def test_a_folder_whose_name_the_code_may_need_stays(names: tuple[str, ...]) -> None:
    assert paths(zipped(*((name, CODE) for name in names))) == sorted(names)


def test_what_a_desktop_adds_is_left_out() -> None:
    data = zipped(("f/main.py", CODE), ("__MACOSX/f/._main.py", b"x"), ("f/.DS_Store", b"x"))
    assert paths(data) == ["main.py"]


def test_a_directory_matches_its_listing_until_anything_changes(tmp_path: Path) -> None:
    data = zipped(("main.py", CODE), ("lib/a.py", b"abc"))
    listed = listing(data, LIMITS)
    target = tree.begin(str(tmp_path))
    unpack(data, listed, target, LIMITS)
    assert matches(listed, target)
    changed = Path(target, "lib", "a.py")
    changed.chmod(0o644)
    changed.write_bytes(b"abd")
    assert not matches(listed, target)
    changed.write_bytes(b"abc")
    Path(target).chmod(0o755)
    Path(target, "more.py").write_bytes(b"")
    assert not matches(listed, target)


NAMES = st.text(
    alphabet=st.sampled_from(list("aA./\\:-_ \u00e9\u0301\n\x0e~")), min_size=1, max_size=12
)


@PATIENT
@pytest.mark.filterwarnings("ignore:Duplicate name")
@given(st.lists(NAMES, min_size=1, max_size=4))
def test_whatever_the_names_nothing_is_written_outside(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    inside = outside / "a" / "b"
    # The writer would cut names at NUL itself, so NUL is put in afterwards.
    data = zipped(*((name, b"x") for name in names)).replace(b"\x0e", b"\0")
    try:
        unpacked(data, inside)
    except InvalidField:
        return
    written = [Path(here) for here, _, files in os.walk(outside) if files]
    assert written
    assert all(path.is_relative_to(inside) for path in written)


@PATIENT
@given(st.binary(max_size=60), st.integers(0, 400))
def test_a_damaged_zip_is_read_or_refused(tmp_path: Path, damage: bytes, position: int) -> None:
    whole = zipped(("main.py", CODE), ("lib/a.py", b"abc" * 50))
    at = position % len(whole)
    data = b"PK\x03\x04" + (whole[:at] + damage + whole[at + len(damage) :])[4:]
    error = None
    try:
        unpacked(data, tmp_path)
    except CallerError as refused:
        error = refused
    assert error is None or error.next_step


# Packing


def make(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CODE)
    return folder


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    one = make(tmp_path / "one", "main.py", "lib/a.py", "b.txt")
    two = make(tmp_path / "two", "b.txt", "lib/a.py", "main.py")
    os.utime(two / "main.py", (1, 1))
    (two / "main.py").chmod(0o600)
    assert pack(str(one))[0] == pack(str(two))[0]
    (two / "main.py").write_bytes(b"x = 1")
    assert pack(str(one))[0] != pack(str(two))[0]


def test_a_packed_folder_is_a_package(tmp_path: Path) -> None:
    folder = make(tmp_path / "f", "main.py", "lib/a.py")
    (folder / "lib" / "a.py").chmod(0o755)
    seen: list[tuple[int, int]] = []
    data, content_type, summary = pack(
        str(folder), on_progress=lambda done, total: seen.append((done, total))
    )
    assert content_type == "application/zip"
    assert (summary.kind, summary.files, summary.bytes) == ("zip", 2, 2 * len(CODE))
    assert seen == [(len(CODE), 2 * len(CODE)), (2 * len(CODE), 2 * len(CODE))]
    executable = {member.path: member.executable for member in listing(data, LIMITS).members}
    assert executable == {"lib/a.py": True, "main.py": False}


def test_what_is_never_part_of_a_function_stays_out(tmp_path: Path) -> None:
    folder = make(
        tmp_path / "f",
        "main.py",
        ".git/config",
        ".venv/bin/python",
        "__pycache__/main.cpython-311.pyc",
        "lib/__pycache__/a.pyc",
        "node_modules/x/index.js",
        "lib/a.py",
        "a.pyc",
    )
    data, _, summary = pack(str(folder))
    assert paths(data) == ["lib/a.py", "main.py"]
    assert summary.left_out == 6


def test_the_ignore_file_works_as_git_has_it(tmp_path: Path) -> None:
    folder = make(
        tmp_path / "f",
        "main.py",
        "data/big.bin",
        "data/keep.txt",
        "notes.txt",
        "lib/notes.txt",
        "lib/deep/x.tmp",
        "top.log",
        "lib/top.log",
        "file1",
        "filex",
    )
    (folder / ".pratai-ignore").write_text(
        "# a comment\n\n*.bin\n/notes.txt\n**/*.tmp\n*.log\n!lib/top.log\nfile[0-9]\n"
    )
    assert paths(pack(str(folder))[0]) == [
        "data/keep.txt",
        "filex",
        "lib/notes.txt",
        "lib/top.log",
        "main.py",
    ]


def test_a_pattern_that_means_nothing_is_told(tmp_path: Path) -> None:
    folder = make(tmp_path / "f", "main.py")
    (folder / ".pratai-ignore").write_text("[z-a]\n")
    with pytest.raises(CallerError, match="means nothing"):
        pack(str(folder))


def test_a_file_is_packed_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_bytes(CODE)
    data, content_type, summary = pack(str(tmp_path / "hello.py"))
    assert (data, content_type, summary.kind) == (CODE, "text/x-python", "source")
    (tmp_path / "code.zip").write_bytes(zipped(("main.py", CODE)))
    assert pack(str(tmp_path / "code.zip"))[1] == "application/zip"


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_packed(tmp_path: Path) -> None:
    folder = make(tmp_path / "f", "main.py")
    (folder / "same.py").symlink_to("main.py")
    assert paths(pack(str(folder))[0]) == ["main.py", "same.py"]
    (folder / "evil").symlink_to("/etc/passwd")
    with pytest.raises(CallerError, match="link"):
        pack(str(folder))


def test_a_folder_above_the_limits_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "f", "a.py", "b.py", "c.py")
    with pytest.raises(PayloadTooLarge, match="more than 2 files"):
        pack(str(folder), limits=Limits(files_max=2))
    with pytest.raises(PayloadTooLarge, match="bytes"):
        pack(str(folder), limits=Limits(unpacked_bytes_max=50))


def test_a_path_that_is_not_there_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidField) as caught:
        pack(str(tmp_path / "none.py"))
    assert caught.value.field == "path"
    with pytest.raises(CallerError, match="no files"):
        pack(str(tmp_path))
