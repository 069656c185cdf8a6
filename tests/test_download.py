from __future__ import annotations

import csv
import dataclasses
import errno
import gzip
import hashlib
import io
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from convert import download
from convert.download import Archive, archives, fetch, unpack
from convert.errors import ConvertError

NAME = "mobilenet_v1_0.25_128"
PREFIX = f"{NAME}.ckpt"
INDEX = f"{PREFIX}.index"
DATA = f"{PREFIX}.data-00000-of-00001"
# Incompressible and several of the downloader's reads long, so that a drop comes midway.
WEIGHTS = random.Random(0).randbytes(300_000)
PUBLISHED = {
    f"./{DATA}": WEIGHTS,
    f"./{INDEX}": b"the index",
    f"./{PREFIX}.meta": b"a graph",
    f"./{NAME}_frozen.pb": b"another graph",
    f"./{NAME}.tflite": b"a model",
    f"./{NAME}_info.txt": b"Model: mobilenet",
}
NO_WAIT = (0.0, 0.0, 0.0)


def tgz(members: dict[str, bytes] | list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """Packs files by name, or whatever the given headers say."""
    if isinstance(members, dict):
        members = [(tarfile.TarInfo(name), content) for name, content in members.items()]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for member, content in members:
            if member.isreg():
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = target
    return member, b""


def files(folder: Path) -> dict[str, bytes]:
    """Returns every file under a folder, with folders left out but nothing else."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or not path.is_dir()
    }


UNPACKED = {DATA: WEIGHTS, INDEX: b"the index"}
FETCHED = {f"{NAME}/{name}": content for name, content in UNPACKED.items()}


class Site(ThreadingHTTPServer):
    """One archive on 127.0.0.1, and a record of what was asked and sent."""

    daemon_threads = True

    def __init__(self, body: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = body
        self.ranges = True
        self.statuses: list[int] = []  # of the first requests, before it serves; 0 hangs up
        self.shift = 0  # how far a partial answer is off what was asked
        self.cuts: list[tuple[str, int]] = []  # how, and after how many bytes, the first ones end
        self.length = True
        self.asked: list[tuple[str, str | None]] = []
        self.sent: list[int] = []
        self.closing = threading.Event()

    def archive(self) -> Archive:
        return Archive(
            name="mobilenet_v1_025_128",
            slim_name=NAME,
            million_macs=14,
            million_parameters=0.47,
            top1=41.5,
            top5=66.3,
            url=f"http://127.0.0.1:{self.server_port}/models/{NAME}.tgz",
            sha256=hashlib.sha256(self.body).hexdigest(),
        )


class Handler(BaseHTTPRequestHandler):
    server: Site
    timeout = 10

    def do_GET(self) -> None:
        site = self.server
        asked = self.headers["Range"]
        site.asked.append((self.path, asked))
        if site.statuses:
            status = site.statuses.pop(0)
            if not status:
                return
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and site.ranges else 0
        if start and start >= len(site.body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(site.body)}")
            self.end_headers()
            return
        start += site.shift if start else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header(
                "Content-Range", f"bytes {start}-{len(site.body) - 1}/{len(site.body)}"
            )
        if site.length:
            self.send_header("Content-Length", str(len(site.body) - start))
        self.end_headers()
        how, cut = site.cuts.pop(0) if site.cuts else ("", len(site.body))
        content = site.body[start:][:cut]
        site.sent.append(len(content))
        self.wfile.write(content)
        if how == "stall":
            site.closing.wait(10)
        elif how == "reset":
            # A zero linger time makes close() send RST.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def site() -> Iterator[Site]:
    with Site(tgz(PUBLISHED)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join(10)


@pytest.fixture
def unreachable() -> str:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{closed.getsockname()[1]}/{NAME}.tgz"


def refusal(archive: Archive, directory: Path, **options: object) -> str:
    """Returns the one line with which a fetch fails."""
    with pytest.raises(ConvertError) as caught:
        fetch(archive, directory, **{"delays": (), **options})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def unpack_refusal(packed: bytes, folder: Path) -> str:
    """Returns the one line with which unpacking fails, having left nothing anywhere."""
    source = folder / "own.tgz"
    source.write_bytes(packed)
    with pytest.raises(ConvertError) as caught:
        unpack(source, folder / "inner" / "out")
    assert files(folder) == {"own.tgz": packed}
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(source))
    return str(caught.value)


# The table


def test_the_table_is_what_the_reference_data_says(reference_data: Path) -> None:
    source = reference_data / "archives.tsv"
    if not source.is_file():
        pytest.skip(f"no reference data at {source}")
    with source.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert list(archives()) == [row["hub_name"] for row in rows]
    for row in rows:
        assert archives()[row["hub_name"]] == Archive(
            name=row["hub_name"],
            slim_name=row["slim_name"],
            million_macs=int(row["million_macs"]),
            million_parameters=float(row["million_parameters"]),
            top1=float(row["top1"]),
            top5=float(row["top5"]),
            url=row["url"],
            sha256=row["sha256"],
        )


def test_the_table_holds_54_archives_none_twice() -> None:
    table = archives()
    assert len(table) == 54
    assert sum(name.endswith("/quantops") for name in table) == 16
    assert (
        sum(re.fullmatch(r"mobilenet_v[12]_\d{3}_\d{2,3}", name) is not None for name in table)
        == 38
    )
    for field in ("slim_name", "url", "sha256"):
        assert len({getattr(archive, field) for archive in table.values()}) == 54, field


@pytest.mark.parametrize("name", list(archives()))
def test_a_row_agrees_with_itself(name: str) -> None:
    archive = archives()[name]
    assert archive.name == name
    assert re.fullmatch("[0-9a-f]{64}", archive.sha256)
    assert archive.url.rsplit("/", 1)[1] == f"{archive.slim_name}.tgz"
    # The hub writes the multiplier in hundredths, and "/quantops" where Slim has "_quant".
    version, multiplier, size = re.fullmatch(
        r"mobilenet_(v[12])_(\d{3})_(\d+)(?:/quantops)?", name
    ).groups()  # type: ignore[union-attr]
    quant = "_quant" if name.endswith("/quantops") else ""
    assert archive.slim_name == f"mobilenet_{version}_{int(multiplier) / 100}_{size}{quant}"
    assert 0 < archive.top1 < archive.top5 < 100
    for field in dataclasses.fields(Archive):
        assert type(getattr(archive, field.name)).__name__ == field.type, field.name


def test_importing_stays_light() -> None:
    heavy = ["tensorflow", "keras", "numpy", "rich"]
    code = f"import sys, convert.download; print([m for m in {heavy} if m in sys.modules])"
    root = Path(download.__file__).parents[1]
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


# Fetching


def test_fetch_leaves_the_checkpoint_and_nothing_else(site: Site, tmp_path: Path) -> None:
    prefix = fetch(site.archive(), tmp_path / "new" / "folder")
    assert prefix == tmp_path / "new" / "folder" / NAME / PREFIX
    assert files(tmp_path / "new" / "folder") == FETCHED
    assert site.asked == [(f"/models/{NAME}.tgz", None)]


def test_fetch_reports_progress_up_to_the_total(site: Site, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    fetch(site.archive(), tmp_path, progress=lambda *step: seen.append(step))
    done = [step[0] for step in seen]
    assert len(seen) > 2
    assert done == sorted(done)
    assert done[-1] == len(site.body)
    assert {step[1] for step in seen} == {len(site.body)}


def test_fetch_reports_no_total_where_the_server_tells_none(site: Site, tmp_path: Path) -> None:
    site.length = False
    seen: list[tuple[int, int | None]] = []
    fetch(site.archive(), tmp_path, progress=lambda *step: seen.append(step))
    assert seen[-1] == (len(site.body), None)
    assert files(tmp_path) == FETCHED


def test_what_is_there_is_not_fetched_again(site: Site, tmp_path: Path) -> None:
    first = fetch(site.archive(), tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in first.parent.iterdir()}
    site.asked.clear()
    assert fetch(site.archive(), tmp_path) == first
    assert site.asked == []
    assert {path: path.stat().st_mtime_ns for path in first.parent.iterdir()} == stamps


@pytest.mark.parametrize("name", [INDEX, DATA], ids=["index", "data"])
def test_an_incomplete_checkpoint_is_fetched_again(site: Site, tmp_path: Path, name: str) -> None:
    fetch(site.archive(), tmp_path)
    (tmp_path / NAME / name).unlink()
    (tmp_path / NAME / "notes.txt").write_text("the user's own")
    fetch(site.archive(), tmp_path)
    assert len(site.asked) == 2
    assert files(tmp_path) == {**FETCHED, f"{NAME}/notes.txt": b"the user's own"}


@pytest.mark.parametrize("how", ["close", "stall"])
def test_a_drop_midway_is_resumed(site: Site, tmp_path: Path, how: str) -> None:
    site.cuts = [(how, 150_000), ("close", 100_000)]
    fetch(site.archive(), tmp_path, timeout=1.0, delays=NO_WAIT)
    assert files(tmp_path) == FETCHED
    starts = [int(asked.removeprefix("bytes=")[:-1]) for _, asked in site.asked[1:] if asked]
    assert len(starts) == 2
    assert 0 < starts[0] < starts[1] < len(site.body)
    assert site.sent[-1] == len(site.body) - starts[1]
    assert sum(site.sent) < 1.5 * len(site.body)


def test_a_reset_connection_is_tried_again(site: Site, tmp_path: Path) -> None:
    site.cuts = [("reset", 150_000)]
    fetch(site.archive(), tmp_path, delays=NO_WAIT)
    assert len(site.asked) == 2
    assert files(tmp_path) == FETCHED


def test_a_later_call_resumes_an_earlier_one(site: Site, tmp_path: Path) -> None:
    site.cuts = [("close", 100_000)]
    message = refusal(site.archive(), tmp_path)
    assert f"after 100000 of {len(site.body)} bytes" in message
    assert "run again" in message
    assert files(tmp_path) == {f"{NAME}.tgz.part": site.body[:100_000]}
    seen: list[tuple[int, int | None]] = []
    fetch(site.archive(), tmp_path, progress=lambda *step: seen.append(step))
    assert site.asked[1][1] == "bytes=100000-"
    assert site.sent[1] == len(site.body) - 100_000
    assert seen[0][0] > 100_000
    assert seen[-1] == (len(site.body), len(site.body))
    assert files(tmp_path) == FETCHED


def test_a_server_without_ranges_starts_over(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    site.cuts = [("close", 100_000)]
    fetch(site.archive(), tmp_path, delays=NO_WAIT)
    assert [asked for _, asked in site.asked] == [None, "bytes=100000-"]
    assert site.sent == [100_000, len(site.body)]
    assert files(tmp_path) == FETCHED


def test_another_range_than_asked_for_starts_over(site: Site, tmp_path: Path) -> None:
    site.shift = -1
    site.cuts = [("close", 100_000)]
    fetch(site.archive(), tmp_path, delays=NO_WAIT)
    assert [asked for _, asked in site.asked] == [None, "bytes=100000-", None]
    assert files(tmp_path) == FETCHED


def test_a_whole_part_needs_no_network(unreachable: str, site: Site, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.tgz.part").write_bytes(site.body)
    fetch(dataclasses.replace(site.archive(), url=unreachable), tmp_path)
    assert files(tmp_path) == FETCHED


@pytest.mark.parametrize("extra", [0, 10], ids=["as long", "longer"])
def test_a_part_that_is_no_beginning_of_the_file_is_dropped(
    site: Site, tmp_path: Path, extra: int
) -> None:
    (tmp_path / f"{NAME}.tgz.part").write_bytes(bytes(len(site.body) + extra))
    fetch(site.archive(), tmp_path, delays=NO_WAIT)
    assert [asked for _, asked in site.asked] == [f"bytes={len(site.body) + extra}-", None]
    assert files(tmp_path) == FETCHED


def test_other_bytes_than_published_are_not_unpacked(site: Site, tmp_path: Path) -> None:
    published = site.archive()
    site.body = tgz({**PUBLISHED, f"./{DATA}": WEIGHTS[::-1]})
    message = refusal(published, tmp_path, delays=NO_WAIT)
    assert published.sha256 in message
    assert site.archive().sha256 in message
    assert published.url in message
    assert files(tmp_path) == {}
    site.body = tgz(PUBLISHED)
    fetch(dataclasses.replace(published, sha256=site.archive().sha256), tmp_path)
    assert site.asked[-1][1] is None
    assert files(tmp_path) == FETCHED


def test_a_passing_server_error_is_tried_again(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 429, 0]  # The last hangs up without an answer.
    fetch(site.archive(), tmp_path, delays=NO_WAIT)
    assert len(site.asked) == 4
    assert files(tmp_path) == FETCHED


@pytest.mark.parametrize(
    ("status", "requests"), [(404, 1), (403, 1), (503, 4)], ids=["404", "403", "503"]
)
def test_a_lasting_server_error_is_reported(
    site: Site, tmp_path: Path, status: int, requests: int
) -> None:
    site.statuses = [status] * 10
    message = refusal(site.archive(), tmp_path, delays=NO_WAIT)
    assert f"HTTP status {status}" in message
    assert site.archive().url in message
    assert len(site.asked) == requests
    assert files(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_the_delays_are_waited_for(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(download.time, "sleep", waited.append)
    site.statuses = [503] * 10
    refusal(site.archive(), tmp_path, delays=(1.0, 2.0, 4.0))
    assert waited == [1.0, 2.0, 4.0]


def test_an_unreachable_host_is_reported_at_once(
    site: Site, unreachable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(download.time, "sleep", waited.append)
    archive = dataclasses.replace(site.archive(), url=unreachable)
    message = refusal(archive, tmp_path, delays=(1.0, 2.0))
    assert message.startswith(f"cannot reach {unreachable}: ")
    assert waited == []
    assert list(tmp_path.iterdir()) == []


def test_a_silent_server_is_reported(site: Site, tmp_path: Path) -> None:
    site.cuts = [("stall", 0)]
    assert "timed out" in refusal(site.archive(), tmp_path, timeout=0.3)


def test_a_proxy_from_the_environment_is_used(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{site.server_port}")
    url = f"http://published.invalid/{NAME}.tgz"
    fetch(dataclasses.replace(site.archive(), url=url), tmp_path)
    assert site.asked == [(url, None)]
    assert files(tmp_path) == FETCHED


@pytest.mark.parametrize(
    "blocked", ["", NAME, f"{NAME}.tgz.part"], ids=["directory", "folder", "part"]
)
def test_a_directory_that_cannot_be_written_is_reported(
    site: Site, tmp_path: Path, blocked: str
) -> None:
    directory = tmp_path / "checkpoints"
    # Permissions do not stop root, something of the other kind in the way does.
    if blocked.endswith(".part"):
        (directory / blocked).mkdir(parents=True)
    else:
        (directory / blocked).parent.mkdir(exist_ok=True)
        (directory / blocked).write_text("in the way")
    message = refusal(site.archive(), directory)
    assert message.startswith(f"cannot write {directory}")
    assert not (directory / NAME).is_dir()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_disk_that_fills_up_while_downloading_is_reported(site: Site, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.tgz.part").symlink_to("/dev/full")
    message = refusal(site.archive(), tmp_path)
    assert os.strerror(errno.ENOSPC) in message
    assert "free some space" in message
    assert not (tmp_path / NAME).exists()


def test_a_disk_that_fills_up_while_unpacking_keeps_the_download(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy_some(stream: io.BufferedIOBase, file: io.BufferedIOBase) -> None:
        file.write(stream.read(5))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", copy_some)
        assert "free some space" in refusal(site.archive(), tmp_path)
    assert files(tmp_path) == {f"{NAME}.tgz.part": site.body}
    assert not (tmp_path / NAME).exists()
    fetch(site.archive(), tmp_path)
    assert len(site.asked) == 1
    assert files(tmp_path) == FETCHED


def test_a_download_without_end_is_stopped(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_CEILING", 100_000)
    assert "is larger than" in refusal(site.archive(), tmp_path)
    assert not (tmp_path / NAME).exists()


# Unpacking


@pytest.mark.parametrize(
    ("members", "prefix"),
    [
        (PUBLISHED, PREFIX),
        ({INDEX: b"i", DATA: b"d"}, PREFIX),
        ({DATA: b"d", f"a/b/{PREFIX}.meta": b"m", INDEX: b"i"}, PREFIX),
        (
            {
                "run/model.ckpt-1450000.index": b"i",
                "run/model.ckpt-1450000.data-00000-of-00001": b"d",
            },
            "model.ckpt-1450000",
        ),
        (
            {
                "m.ckpt.data-00000-of-00002": b"0",
                "m.ckpt.index": b"i",
                "m.ckpt.data-00001-of-00002": b"1",
            },
            "m.ckpt",
        ),
        (
            {
                "./saved_model.pb": b"g",
                "./variables/variables.index": b"i",
                "./variables/variables.data-00000-of-00001": b"d",
            },
            "variables",
        ),
        ({"faces.index": b"x", INDEX: b"i", DATA: b"d", "other.data-00000-of-00001": b"x"}, PREFIX),
        ({f"._{INDEX}": b"x", f"._{DATA}": b"x", INDEX: b"i", DATA: b"d"}, PREFIX),
    ],
    ids=[
        "published",
        "bare",
        "data first",
        "trained by a user",
        "two shards",
        "hub module",
        "beside strays",
        "packed on macOS",
    ],
)
def test_unpack_finds_the_checkpoint(
    tmp_path: Path, members: dict[str, bytes], prefix: str
) -> None:
    source = tmp_path / "own.tgz"
    source.write_bytes(tgz(members))
    assert unpack(source, tmp_path / "out") == tmp_path / "out" / prefix
    expected = {
        name.rsplit("/", 1)[-1]: content
        for name, content in members.items()
        if name.rsplit("/", 1)[-1].startswith((f"{prefix}.index", f"{prefix}.data"))
    }
    assert files(tmp_path / "out") == expected
    assert source.is_file()


def test_unpack_replaces_an_old_checkpoint(tmp_path: Path) -> None:
    source = tmp_path / "own.tgz"
    for content in (b"old", b"new"):
        source.write_bytes(tgz({INDEX: content, DATA: content}))
        unpack(source, tmp_path / "out")
    assert files(tmp_path / "out") == {INDEX: b"new", DATA: b"new"}


def test_an_interrupted_replacement_leaves_no_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "own.tgz"
    source.write_bytes(tgz({INDEX: b"old", DATA: b"old"}))
    unpack(source, tmp_path / "out")
    source.write_bytes(tgz({INDEX: b"new", DATA: b"new"}))
    replaced: list[str] = []

    def replace_one(old: Path, new: Path) -> None:
        if replaced:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        assert tmp_path / "out" in old.parents  # Never from another file system.
        replaced.append(new.name)
        os.rename(old, new)

    monkeypatch.setattr(download.os, "replace", replace_one)
    with pytest.raises(ConvertError, match="cannot write"):
        unpack(source, tmp_path / "out")
    assert files(tmp_path / "out") == {DATA: b"new"}


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({}, "holds no checkpoint"),
        ({f"{NAME}.tflite": b"m", f"{PREFIX}.meta": b"g"}, "holds no checkpoint"),
        ({INDEX: b"i"}, f"'{DATA}' is missing"),
        ({f"a/{DATA}": b"d"}, f"'a/{INDEX}' is missing"),
        (
            {INDEX: b"i", f"{PREFIX}.data-00000-of-00002": b"d"},
            f"'{PREFIX}.data-00001-of-00002' is missing",
        ),
        ({f"a/{INDEX}": b"i", f"b/{DATA}": b"d"}, "incomplete"),
        ({INDEX: b"i", f"{PREFIX}.data-00000-of-00000": b"d"}, f"'{DATA}' is missing"),
        (
            {"a.index": b"", "a.data-00000-of-00001": b"", INDEX: b"i", DATA: b"d"},
            f"several checkpoints ('a', '{PREFIX}')",
        ),
        (
            {f"1/{INDEX}": b"i", f"1/{DATA}": b"d", f"2/{INDEX}": b"i", f"2/{DATA}": b"d"},
            f"several checkpoints ('1/{PREFIX}', '2/{PREFIX}')",
        ),
    ],
    ids=[
        "empty",
        "other files",
        "index alone",
        "data alone",
        "a shard of two",
        "torn apart",
        "shard of none",
        "two names",
        "two folders",
    ],
)
def test_anything_but_one_checkpoint_is_refused(
    tmp_path: Path, members: dict[str, bytes], says: str
) -> None:
    assert says in unpack_refusal(tgz(members), tmp_path)


@pytest.mark.parametrize(
    "name",
    [f"../{INDEX}", f"../../{INDEX}", f"a/../../{INDEX}", "/tmp/../{INDEX}", "ABSOLUTE"],
    ids=["parent", "grandparent", "through a folder", "absolute parent", "absolute"],
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
    packed = tgz([special(DATA, kind, str(target)), (tarfile.TarInfo(INDEX), b"i")])
    message = unpack_refusal(packed, tmp_path)
    assert f"refused, since {DATA!r} is a link or a device" in message


def test_a_folder_link_leads_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    source = tmp_path / "own.tgz"
    members = [(tarfile.TarInfo(f"way/{name}"), content) for name, content in UNPACKED.items()]
    source.write_bytes(tgz([special("way", tarfile.SYMTYPE, str(outside)), *members]))
    unpack(source, tmp_path / "out")
    assert files(outside) == {}
    assert files(tmp_path / "out") == UNPACKED
    assert not (tmp_path / "out" / "way").exists()


def test_other_members_are_ignored_whatever_they_are(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / "own.tgz"
    others = [
        (tarfile.TarInfo("../evil.txt"), b"evil"),
        (tarfile.TarInfo(str(tmp_path / "evil.txt")), b"evil"),
        special("link", tarfile.SYMTYPE, "/etc/passwd"),
        special(f"folder/{INDEX}", tarfile.DIRTYPE),
    ]
    members = [(tarfile.TarInfo(name), content) for name, content in UNPACKED.items()]
    source.write_bytes(tgz([*others, *members]))
    unpack(source, tmp_path / "in" / "out")
    assert files(tmp_path / "in" / "out") == UNPACKED
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_mode_in_the_archive_has_no_effect(tmp_path: Path) -> None:
    index, data = tarfile.TarInfo(INDEX), tarfile.TarInfo(DATA)
    index.mode = data.mode = 0o4777
    (tmp_path / "own.tgz").write_bytes(tgz([(index, b"i"), (data, b"d")]))
    prefix = unpack(tmp_path / "own.tgz", tmp_path)
    plain = tmp_path / "plain"
    plain.touch()
    for path in prefix.parent.glob(f"{PREFIX}.*"):
        assert path.stat().st_mode == plain.stat().st_mode


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
    assert "not a readable .tgz" in unpack_refusal(packed, tmp_path)


def test_an_absent_archive_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=r"cannot read .*absent\.tgz: No such file"):
        unpack(tmp_path / "absent.tgz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_CEILING", 1 << 20)
    message = unpack_refusal(tgz({INDEX: b"i", DATA: bytes(2 << 20)}), tmp_path)
    assert "unpacks to more than" in message


def test_a_target_that_is_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "own.tgz").write_bytes(tgz(PUBLISHED))
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(ConvertError, match=r"cannot write .*out: "):
        unpack(tmp_path / "own.tgz", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "in the way"
