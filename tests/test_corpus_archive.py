"""Archives of all kinds, damaged ones, and some that try to get out of their folder."""

import io
import stat
import tarfile
import zipfile

import numpy as np
import pytest

from asr.corpus.archive import unpack
from asr.errors import AsrError, DownloadError

FILES = {"top/inner/a.wav": b"sound", "top/inner/deep/b.txt": b"text", "top/other/c": b"else"}


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def make_tar(path, files, mode="w:gz", extra=()):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in extra:
            archive.addfile(info)
    return path


def make_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


KINDS = {
    "a.tar": lambda p: make_tar(p, FILES, "w"),
    "a.tar.gz": lambda p: make_tar(p, FILES, "w:gz"),
    "a.tar.bz2": lambda p: make_tar(p, FILES, "w:bz2"),
    "a.tar.xz": lambda p: make_tar(p, FILES, "w:xz"),
    "a.zip": lambda p: make_zip(p, FILES),
}


@pytest.mark.parametrize("name", KINDS)
def test_archives_of_all_kinds_are_unpacked_as_far_as_wanted(tmp_path, name):
    path, seen = KINDS[name](tmp_path / name), []
    unpack(path, tmp_path / "out", inner="top/inner", progress=lambda *x: seen.append(x))
    assert tree(tmp_path / "out") == {"a.wav": b"sound", "deep/b.txt": b"text"}
    unpack(path, tmp_path / "all")
    assert tree(tmp_path / "all") == FILES
    assert names(tmp_path) == sorted([name, "all", "out"])
    assert all(0 <= done <= total == path.stat().st_size for done, total in seen)


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


EVIL_NAMES = [
    "../evil",
    "top/../../evil",
    "/tmp/evil",
    "a/../../../evil",
    "..\\evil",
    "C:\\evil",
    "\\evil",
    "C:evil",
]


@pytest.mark.parametrize("name", EVIL_NAMES)
@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_entries_that_would_land_outside_are_refused_and_nothing_is_kept(tmp_path, make, name):
    path = make(tmp_path / "a", {"top/good": b"x", name: b"evil"})
    with pytest.raises(DownloadError, match="outside of its folder"):
        unpack(path, tmp_path / "deep" / "out")
    assert not list(tmp_path.rglob("*evil*")) and not list((tmp_path / "deep").iterdir())


@pytest.mark.parametrize(
    "entries",
    [
        [link("top/link", "/etc")],
        [link("top/link", "..")],
        [link("top/hard", "/etc/passwd", tarfile.LNKTYPE)],
        [link("top/pipe", "", tarfile.FIFOTYPE)],
        [link("top/device", "", tarfile.CHRTYPE)],
    ],
    ids=["symbolic", "upwards", "hard", "pipe", "device"],
)
def test_links_and_devices_are_refused(tmp_path, entries):
    path = make_tar(tmp_path / "a", FILES, extra=entries)
    with pytest.raises(DownloadError, match="a link or a device"):
        unpack(path, tmp_path / "out")
    assert names(tmp_path) == ["a"]


def test_a_link_in_a_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc")
    with pytest.raises(DownloadError, match="a link, 'link'"):
        unpack(tmp_path / "a", tmp_path / "out")


@pytest.mark.parametrize("name", KINDS)
def test_damaged_archives_are_errors_and_leave_nothing(tmp_path, name):
    files = {"a": np.random.default_rng(0).bytes(50_000)}
    make = make_zip if name.endswith("zip") else lambda p, f: make_tar(p, f, "w:" + name.partition("tar.")[2])
    whole = make(tmp_path / name, files).read_bytes()
    changed = bytearray(whole)
    changed[20_000:20_100] = bytes(100)
    for harm in (whole[:-30_000], whole[:100], b"", b"<html>log in first</html>", bytes(changed)):
        if name == "a.tar" and harm == bytes(changed):
            continue  # a tar without compression has no checksum of its content
        (tmp_path / name).write_bytes(harm)
        with pytest.raises(AsrError, match=r"is damaged|holds no folder"):
            unpack(tmp_path / name, tmp_path / "out")
        assert names(tmp_path) == [name]


def test_an_archive_without_the_wanted_folder_is_an_error(tmp_path):
    path = make_tar(tmp_path / "a", FILES)
    with pytest.raises(DownloadError, match="holds no folder 'LibriSpeech'"):
        unpack(path, tmp_path / "out", inner="LibriSpeech")
