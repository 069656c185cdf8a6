"""Archives of a checkpoint: what they hold, and where it leads."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from fuzz.cases import ERROR, Change, Expected, Format, Values, cut, flips, grown, zeroed

__all__ = ["formats"]

_Members = list[tuple[tarfile.TarInfo, bytes]]


def _file(name: str, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member, content


def _link(kind: bytes, name: str, to: str) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, to
    return member, b""


def _read(path: Path) -> _Members:
    with tarfile.open(path) as tar:
        return [_file(each.name, tar.extractfile(each).read()) for each in tar]


def _write(path: Path, members: _Members) -> None:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))


def _repacked(name: str, change: Callable) -> Change:
    """A change of the members: `change(chance, members)`."""

    def changed(chance: random.Random, folder: Path) -> Expected:
        members = _read(folder / name)
        expected = change(chance, members)
        _write(folder / name, members)
        return expected

    return changed


def _outside(chance: random.Random, members: _Members) -> Expected:
    names = ("../outside", "/outside", "a/../../outside", "./../outside", "..", "/", "a//..//../x")
    members.insert(chance.randrange(len(members) + 1), _file(chance.choice(names), b"x"))
    return ERROR


def _links(chance: random.Random, members: _Members) -> Expected:
    kind = chance.choice((tarfile.SYMTYPE, tarfile.LNKTYPE))
    to = chance.choice(("/etc/passwd", "../outside", "model.ckpt.index", ".", "link"))
    members.insert(0, _link(kind, "link", to))
    if chance.random() < 0.5:
        # A file behind the link.
        members.insert(1, _file("link/outside", b"x"))
    return ERROR


def _devices(chance: random.Random, members: _Members) -> Expected:
    kind = chance.choice((tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"))
    members.insert(0, _link(kind, "device", ""))
    return None if kind == b"Z" else ERROR


def _instead(chance: random.Random, members: _Members) -> Expected:
    """A link or a device in place of the data."""
    at = next(n for n, (member, _) in enumerate(members) if ".data-" in member.name)
    kind = chance.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE))
    members[at] = _link(kind, members[at][0].name, "/dev/zero")
    return ERROR


def _names(chance: random.Random, members: _Members) -> Expected:
    names = ("Größe/重み", "a" * 300, "/".join("d" * 200), "a\nb", "\x1b[2J", "a\\..\\b", "._x")
    members.append(_file(chance.choice(names), b"x"))
    return None


def _twice(chance: random.Random, members: _Members) -> Expected:
    member, content = chance.choice(members)
    members.append(_file(member.name, bytes(len(content))))
    return ERROR


def _two_networks(chance: random.Random, members: _Members) -> Expected:
    members[:] = [_file(f"{n}/{each.name}", content) for n in "ab" for each, content in members]
    return ERROR


def _lacking(chance: random.Random, members: _Members) -> Expected:
    del members[chance.randrange(len(members))]
    return ERROR


def _empty(chance: random.Random, members: _Members) -> Expected:
    members.clear()
    if chance.random() < 0.5:
        members.append(_link(tarfile.DIRTYPE, "folder", ""))
    return ERROR


def _many(chance: random.Random, members: _Members) -> Expected:
    members += [_file(f"{n}", b"") for n in range(12_000)]
    return ERROR


def _file_as_folder(chance: random.Random, members: _Members) -> Expected:
    members.insert(0, _file("a", b"x"))
    members.insert(1, _file("a/b", b"x"))
    return ERROR


def _nested(name: str) -> Change:
    """An archive in an archive."""

    def change(chance: random.Random, folder: Path) -> Expected:
        path = folder / name
        for _ in range(chance.choice((1, 3))):
            _write(path, [_file(path.name, path.read_bytes())])
        return None

    return change


def _bomb(name: str) -> Change:
    """More than two gibibytes of zeros in two megabytes."""

    def change(chance: random.Random, folder: Path) -> Expected:
        member = tarfile.TarInfo("zeros")
        member.size = 33 << 26
        zeros = gzip.compress(bytes(1 << 26), 1)
        (folder / name).write_bytes(gzip.compress(member.tobuf()) + zeros * 33)
        return ERROR

    return change


def _sparse(name: str) -> Change:
    """A member that says it is a terabyte of holes."""

    def change(chance: random.Random, folder: Path) -> Expected:
        head = tarfile.TarInfo("holes")
        head.size = 512
        head.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.realsize": str(1 << 40),
            "GNU.sparse.name": "model.ckpt.data-00000-of-00001",
        }
        packed = head.tobuf(tarfile.PAX_FORMAT) + b"1\n0\n0\n".ljust(512, b"\0") + bytes(1024)
        is_gzip = name.endswith("gz")
        (folder / name).write_bytes(gzip.compress(packed) if is_gzip else packed)
        return ERROR

    return change


def _sizes(name: str) -> Change:
    """Headers of members that say other sizes and other checksums."""

    def change(chance: random.Random, folder: Path) -> Expected:
        path = folder / name
        content = path.read_bytes()
        content = bytearray(gzip.decompress(content) if name.endswith("gz") else content)
        field = chance.choice(
            (b"77777777777\0", b"-0000000001\0", b"\x80" + b"\xff" * 11, b"x" * 12)
        )
        content[124:136] = field
        if chance.random() < 0.7:
            content[148:156] = b" " * 8
            content[148:156] = b"%06o\0 " % sum(content[:512])
        path.write_bytes(gzip.compress(content) if name.endswith("gz") else bytes(content))
        return ERROR

    return change


def _a_zip(name: str) -> Change:
    """A zip by another name; zips of weights are not read."""

    def change(chance: random.Random, folder: Path) -> Expected:
        members = _read(folder / name)
        with zipfile.ZipFile(folder / name, "w") as archive:
            for member, content in members:
                archive.writestr(member.name, content)
        return ERROR

    return change


def formats(values: Values, sample: Path) -> list[Format]:
    """The formats; the seeds hold the checkpoint at the prefix `sample`."""
    return [_format(suffix, sample) for suffix in ("tgz", "tar")]


def _format(suffix: str, sample: Path) -> Format:
    name = f"model.{suffix}"

    def make(folder: Path) -> None:
        files = (f"{sample}.index", f"{sample}.data-00000-of-00001")
        _write(
            folder / name,
            [_file(f"model.ckpt{Path(f).suffix}", Path(f).read_bytes()) for f in files],
        )

    members = {
        "names that lead outside": _outside,
        "links": _links,
        "devices": _devices,
        "a link instead of the data": _instead,
        "odd names": _names,
        "one name twice": _twice,
        "two networks": _two_networks,
        "lacking file": _lacking,
        "empty": _empty,
        "12,000 members": _many,
        "a file as a folder": _file_as_folder,
    }
    changes = {
        "flipped bits": flips(name),
        "cut": cut(name),
        "bytes appended": grown(name),
        "zeroed block": zeroed(name),
        **{kind: _repacked(name, change) for kind, change in members.items()},
        "nested": _nested(name),
        "forged sizes": _sizes(name),
        "a terabyte of holes": _sparse(name),
        "a zip": _a_zip(name),
        **({"a bomb": _bomb(name)} if suffix == "tgz" else {}),
    }
    return Format(
        f".{suffix}",
        make,
        name,
        changes,
        once=frozenset({"a bomb", "12,000 members", "a zip", "a terabyte of holes"}),
    )
