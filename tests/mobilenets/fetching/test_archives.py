"""Archives are unpacked within bounds, or refused before anything is written."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import pytest
from local_hosts import tgz
from published_archive import DATA, INDEX, PUBLISHED, files

from mobilenets.fetching import ArchiveError, FetchError, archives, local, unpack, unpacked


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = target
    return member, b""


def unpack_refusal(packed: bytes, folder: Path) -> str:
    """Returns the one line with which unpacking fails, having left nothing anywhere."""
    source = folder / "own.tgz"
    source.write_bytes(packed)
    with pytest.raises(ArchiveError) as caught:
        unpack(source, folder / "inner" / "out")
    assert files(folder) == {"own.tgz": packed}
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(source))
    return str(caught.value)


def test_a_folder_is_unpacked_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "own.tgz").write_bytes(tgz({"top/a": b"a", "top/b/c": b"c"}))
    for _ in range(2):
        unpacked(tmp_path / "own.tgz", tmp_path / "out")
        assert files(tmp_path / "out") == {"a": b"a", "b/c": b"c"}
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "evil.tgz").write_bytes(tgz({"a": b"new", "../b": b"evil"}))
    with pytest.raises(ArchiveError):
        unpacked(tmp_path / "evil.tgz", tmp_path / "out")
    assert files(tmp_path / "out") == {"a": b"a", "b/c": b"c"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "evil.tgz",
        "out",
        "own.tgz",
        "plain",
    ]


@pytest.mark.parametrize("suffix", ["tgz", "tar.gz", "tar"])
def test_unpack_keeps_files_in_their_folders(tmp_path: Path, suffix: str) -> None:
    content = {"./saved_model.pb": b"g", "variables/variables.index": b"i", "a/b/c": b"c"}
    packed = tgz({**content, f"._{INDEX}": b"macOS", "variables/._x": b"macOS"})
    source = tmp_path / f"own.{suffix}"
    source.write_bytes(gzip.decompress(packed) if suffix == "tar" else packed)
    expected = {name.removeprefix("./"): value for name, value in content.items()}
    unpack(source, tmp_path / "out")
    assert files(tmp_path / "out") == expected
    with local(source) as folder:
        assert files(folder) == expected
    assert not folder.exists()


def test_the_content_says_whether_it_is_compressed(tmp_path: Path) -> None:
    (tmp_path / "own.tgz").write_bytes(gzip.decompress(tgz({"a": b"a"})))
    unpack(tmp_path / "own.tgz", tmp_path / "out")
    assert files(tmp_path / "out") == {"a": b"a"}


def test_of_two_files_of_a_name_the_last_counts(tmp_path: Path) -> None:
    """So does `tar --append` mean it."""
    members = [(tarfile.TarInfo("a"), b"old"), (tarfile.TarInfo("a"), b"new")]
    (tmp_path / "own.tgz").write_bytes(tgz(members))
    unpack(tmp_path / "own.tgz", tmp_path / "out")
    assert files(tmp_path / "out") == {"a": b"new"}


@pytest.mark.parametrize(
    "name",
    [f"../{INDEX}", f"../../{INDEX}", f"a/../../{INDEX}", "/tmp/../{INDEX}", "ABSOLUTE", "a/.."],
    ids=["parent", "grandparent", "through a folder", "absolute parent", "absolute", "a folder"],
)
def test_names_that_lead_outside_are_refused(tmp_path: Path, name: str) -> None:
    name = str(tmp_path / "outside" / INDEX) if name == "ABSOLUTE" else name.format(INDEX=INDEX)
    message = unpack_refusal(tgz({DATA: b"d", INDEX: b"i", name: b"evil"}), tmp_path)
    assert f"refused, since {name!r} leads outside" in message


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE],
    ids=["symbolic link", "hard link", "fifo", "character device", "block device"],
)
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    target = tmp_path / "target"
    packed = tgz([(tarfile.TarInfo(INDEX), b"i"), special(DATA, kind, str(target))])
    message = unpack_refusal(packed, tmp_path)
    assert f"refused, since {DATA!r} is a link or a device" in message


def test_a_file_behind_a_folder_link_is_not_written(tmp_path: Path) -> None:
    (outside := tmp_path / "outside").mkdir()
    member = (tarfile.TarInfo("way/file"), b"evil")
    (tmp_path / "own.tgz").write_bytes(tgz([special("way", tarfile.SYMTYPE, str(outside)), member]))
    with pytest.raises(ArchiveError, match="'way' is a link"):
        unpack(tmp_path / "own.tgz", tmp_path / "out")
    unpack(tmp_path / "own.tgz", tmp_path / "out", lambda name: name == "way/file")
    assert files(outside) == {}
    assert files(tmp_path / "out") == {"way/file": b"evil"}


def test_members_that_are_not_wanted_are_ignored_whatever_they_are(tmp_path: Path) -> None:
    others = [
        (tarfile.TarInfo("../evil.txt"), b"evil"),
        (tarfile.TarInfo(str(tmp_path / "evil.txt")), b"evil"),
        special("link", tarfile.SYMTYPE, "/etc/passwd"),
        special(f"folder/{INDEX}", tarfile.DIRTYPE),
    ]
    members = [(tarfile.TarInfo(name), b"x") for name in (DATA, INDEX)]
    (tmp_path / "own.tgz").write_bytes(tgz([*others, *members]))
    unpack(tmp_path / "own.tgz", tmp_path / "in", lambda name: name in (DATA, INDEX))
    assert files(tmp_path / "in") == {DATA: b"x", INDEX: b"x"}


def test_a_mode_in_the_archive_has_no_effect(tmp_path: Path) -> None:
    index, data = tarfile.TarInfo(INDEX), tarfile.TarInfo(DATA)
    index.mode = data.mode = 0o4777
    (tmp_path / "own.tgz").write_bytes(tgz([(index, b"i"), (data, b"d")]))
    unpack(tmp_path / "own.tgz", tmp_path)
    plain = tmp_path / "plain"
    plain.touch()
    for name in (INDEX, DATA):
        assert (tmp_path / name).stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"<html>Sign in to the network</html>",
        tgz(PUBLISHED)[:1000],
        tgz(PUBLISHED)[:-3],
        tgz(PUBLISHED)[:-8] + bytes(8),
        gzip.compress(b"no tar" * 500),
        gzip.compress(gzip.decompress(tgz(PUBLISHED))[:100_000]),
    ],
    ids=["empty", "a page", "cut early", "cut late", "wrong checksum", "no tar", "cut tar"],
)
def test_a_damaged_archive_is_refused(tmp_path: Path, packed: bytes) -> None:
    source = tmp_path / "own.tgz"
    source.write_bytes(packed)
    with pytest.raises(ArchiveError, match=r"own\.tgz cannot be unpacked \(.*\); download or pack"):
        unpack(source, tmp_path / "out")


def test_an_absent_archive_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"cannot read .*absent\.tgz: No such file"):
        unpack(tmp_path / "absent.tgz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_CEILING", 1 << 20)
    message = unpack_refusal(tgz({INDEX: b"i", DATA: bytes(2 << 20)}), tmp_path)
    assert "unpacks to more than" in message


def test_a_sparse_file_is_as_large_as_it_becomes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few bytes of an archive can stand for a terabyte of zeros; here, for two megabytes."""
    monkeypatch.setattr(archives, "_CEILING", 1 << 20)
    member = tarfile.TarInfo("zeros")
    member.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "zeros",
        "GNU.sparse.realsize": str(2 << 20),
    }
    message = unpack_refusal(tgz([(member, b"1\n0\n4\n".ljust(512, b"\0") + b"data")]), tmp_path)
    assert "unpacks to more than 2 GiB" in message


def test_a_flood_of_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_MOST_MEMBERS", 3)
    three = dict.fromkeys("abc", b"")
    (tmp_path / "three.tgz").write_bytes(tgz(three))
    unpack(tmp_path / "three.tgz", tmp_path / "out")
    assert files(tmp_path / "out") == three
    (tmp_path / "four").mkdir()
    assert "holds more than 3 members" in unpack_refusal(tgz(three | {"d": b""}), tmp_path / "four")


def test_a_target_that_is_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "own.tgz").write_bytes(tgz(PUBLISHED))
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(FetchError, match=r"cannot write .*out: "):
        unpack(tmp_path / "own.tgz", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "in the way"
