"""What comes from elsewhere is checked, kept once and unpacked within bounds, or refused."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from local_hosts import Hosts, closed_port, hosts  # noqa: F401

from mobilenets import fetching
from mobilenets.errors import MobileNetError
from mobilenets.fetching import ArchiveError, FetchError, fetch, local, unpack, unpacked
from mobilenets.published import Source

NAME = "mobilenet_v1_0.25_128"
PREFIX = f"{NAME}.ckpt"
INDEX = f"{PREFIX}.index"
DATA = f"{PREFIX}.data-00000-of-00001"
# Incompressible and several of the downloader's reads long, so that a drop comes midway.
WEIGHTS = random.Random(0).randbytes(300_000)
PUBLISHED = {f"./{DATA}": WEIGHTS, f"./{INDEX}": b"the index", f"./{PREFIX}.meta": b"a graph"}
URL = f"http://download.tensorflow.org/models/{NAME}.tgz"


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


BODY = tgz(PUBLISHED)
SOURCE = Source("archive", URL, hashlib.sha256(BODY).hexdigest())
UNKNOWN = Source("archive", URL)


@pytest.fixture
def site(hosts: Hosts) -> Hosts:  # noqa: F811
    """The hosts, with the archive."""
    hosts.answers[URL] = BODY
    return hosts


def cached() -> dict[str, bytes]:
    """Every file of the cache but locks."""
    found = files(fetching.cache()) if fetching.cache().is_dir() else {}
    return {name: content for name, content in found.items() if not name.endswith(".lock")}


def refusal(source: Source, **options: object) -> str:
    """The one line with which a fetch fails."""
    with pytest.raises(FetchError) as caught:
        fetch(source, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


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


def test_the_file_gets_its_place_and_nothing_else_is_left(site: Hosts) -> None:
    path = fetch(SOURCE)
    assert path.read_bytes() == BODY
    place = f"files/download.tensorflow.org/models/{NAME}.tgz"
    assert path == fetching.cache() / place
    assert cached() == {place: BODY}
    assert site.asked == [URL]


def test_what_is_there_is_not_fetched_again(site: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    for source in (SOURCE, UNKNOWN):
        fetch(source)
    assert site.asked == [URL]
    monkeypatch.setenv("MOBILENETS_OFFLINE", "1")
    assert fetch(SOURCE, offline=True).read_bytes() == BODY


@pytest.mark.parametrize("how", ["argument", "variable"])
def test_offline_touches_no_network(site: Hosts, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "variable":
        monkeypatch.setenv("MOBILENETS_OFFLINE", "1")
    message = refusal(SOURCE, offline=how == "argument")
    assert message.startswith(f"{URL} is not in the cache")
    assert site.asked == []
    monkeypatch.setenv("MOBILENETS_OFFLINE", "0")
    assert fetch(SOURCE)


def test_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MOBILENETS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert fetching.cache() == tmp_path / "mobilenets"
    monkeypatch.setenv("MOBILENETS_CACHE", "~/weights")
    assert fetching.cache() == Path.home() / "weights"


def test_progress_up_to_the_total(site: Hosts) -> None:
    seen: list[tuple[int, int | None]] = []
    fetch(SOURCE, progress=lambda *step: seen.append(step))
    done = [step[0] for step in seen]
    assert len(seen) > 2
    assert done == sorted(done)
    assert seen[-1] == (len(BODY), len(BODY))
    assert {step[1] for step in seen} == {len(BODY)}


def test_no_total_where_the_server_tells_none(site: Hosts) -> None:
    site.length = False
    seen: list[tuple[int, int | None]] = []
    fetch(SOURCE, progress=lambda *step: seen.append(step))
    assert {step[1] for step in seen} == {None}


def test_a_bar_on_a_terminal_alone(
    site: Hosts, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(SOURCE)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    fetch(SOURCE).unlink()
    fetch(SOURCE)
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{NAME}.tgz" in err


@pytest.mark.parametrize("trouble", ["cut", "status", "hang-up"])
def test_a_passing_trouble_is_tried_again(site: Hosts, trouble: str) -> None:
    if trouble == "cut":
        site.cuts = [150_000, 20_000]
    else:
        site.statuses = [503, 429] if trouble == "status" else [0, 0]
    assert fetch(SOURCE).read_bytes() == BODY
    assert site.asked == [URL] * 3


def test_an_interrupted_transfer_leaves_nothing(site: Hosts) -> None:
    site.cuts = [150_000] * 3
    message = refusal(UNKNOWN)
    assert message.startswith(f"cannot download {URL}: ")
    assert message.endswith("run again")
    assert cached() == {}


@pytest.mark.parametrize(("status", "requests"), [(403, 1), (404, 1), (503, 3)])
def test_a_lasting_refusal_is_reported(site: Hosts, status: int, requests: int) -> None:
    site.answers[URL] = status
    assert f"cannot download {URL}: HTTP status {status} " in refusal(SOURCE)
    assert site.asked == [URL] * requests
    assert cached() == {}


def test_a_host_that_is_down_is_reported_at_once(
    site: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_DELAYS", (1000.0,))
    monkeypatch.setenv("MOBILENETS_HOSTS", f"http://download.tensorflow.org={closed_port()}")
    assert refusal(SOURCE).startswith(f"cannot reach {URL}: Connection refused; check")
    assert cached() == {}


def test_a_silent_server_is_reported(site: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_TIMEOUT", 0.2)
    monkeypatch.setattr(fetching, "_DELAYS", ())
    monkeypatch.setattr(type(site), "name", lambda self, path: time.sleep(1) or URL)
    assert f"cannot download {URL}: timed out" in refusal(SOURCE)


def test_a_proxy_from_the_environment_is_used(site: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOBILENETS_HOSTS")
    monkeypatch.setenv("http_proxy", site.url)
    assert fetch(SOURCE).read_bytes() == BODY
    assert site.asked == [URL]


def test_a_redirect_is_followed(site: Hosts) -> None:
    url = "https://tfhub.dev/google/imagenet/x/feature_vector/5?tf-hub-format=compressed"
    site.answers[url] = f"{site.url}/elsewhere.tar.gz"
    site.answers[f"{site.url}/elsewhere.tar.gz"] = BODY
    path = fetch(Source("hub", url))
    assert path.name == "5.tar.gz"
    assert path.read_bytes() == BODY


@pytest.mark.parametrize("scheme", ["file", "ftp", "data"])
def test_a_redirect_leads_to_no_other_scheme(site: Hosts, tmp_path: Path, scheme: str) -> None:
    secret = tmp_path / "secret.tgz"
    secret.write_bytes(BODY)
    site.answers[URL] = {"data": "data:,x"}.get(scheme, f"{scheme}://{secret}")
    for source in (SOURCE, UNKNOWN):
        assert refusal(source).startswith("cannot ")
    assert cached() == {}


PAGE = b"<!DOCTYPE html><title>Sign in to the network</title>"


def test_other_bytes_than_published_are_refused(site: Hosts) -> None:
    for body in (PAGE, tgz({DATA: WEIGHTS[::-1]})):
        site.answers[URL] = body
        message = refusal(SOURCE)
        assert "expected the SHA-256 published" in message
        assert hashlib.sha256(body).hexdigest() in message
        assert cached() == {}


@pytest.mark.parametrize("suffix", [".tgz", ".h5", "?tf-hub-format=compressed", ".pb"])
def test_a_page_is_refused_where_no_hash_is_known(site: Hosts, suffix: str) -> None:
    url = f"https://tfhub.dev/weights{suffix}"
    site.answers[url] = PAGE
    assert "perhaps a page that asks to sign in" in refusal(Source("file", url))
    assert cached() == {}


def test_the_hash_of_the_first_use_counts(site: Hosts) -> None:
    path = fetch(UNKNOWN)
    first = hashlib.sha256(BODY).hexdigest()
    assert fetching.first_use(UNKNOWN) == first
    assert fetching.first_use(SOURCE) is None
    path.unlink()
    other = tgz({DATA: WEIGHTS[::-1]})
    site.answers[URL] = other
    message = refusal(UNKNOWN)
    assert f"recorded at first use, {first}, found {hashlib.sha256(other).hexdigest()}" in message
    assert f"delete {path}.sha256" in message
    assert not path.exists()
    Path(f"{path}.sha256").unlink()
    assert fetch(UNKNOWN).read_bytes() == other


@pytest.mark.parametrize("source", [SOURCE, UNKNOWN], ids=["published", "first use"])
def test_a_damaged_file_is_fetched_again(site: Hosts, source: Source) -> None:
    path = fetch(source)
    path.write_bytes(BODY[:-1] + b"?")
    assert fetch(source).read_bytes() == BODY
    path.write_bytes(b"")
    assert "not in the cache" in refusal(source, offline=True)


def test_a_file_that_the_user_put_there(site: Hosts) -> None:
    place = fetching.cache() / "files" / "download.tensorflow.org" / "models" / f"{NAME}.tgz"
    place.parent.mkdir(parents=True)
    place.write_bytes(BODY)
    assert fetch(UNKNOWN, offline=True) == place
    assert fetching.first_use(UNKNOWN) == hashlib.sha256(BODY).hexdigest()


def test_urls_cannot_lead_out_of_the_cache(site: Hosts) -> None:
    for path in ("/../../../evil.tgz", "/a/%2e%2e/..%2f..%2fevil.tgz", "/.ssh/x.tgz", "/", ""):
        place = fetching._place(f"http://user:secret@host:8000{path}")
        assert place.is_relative_to(fetching.cache() / "files" / "host_8000")
        assert ".." not in place.parts
        assert "secret" not in str(place)
    assert fetching._place(URL) != fetching._place(f"{URL}?raw=1")


def test_several_fetch_once(site: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads stand for processes: the kernel's lock belongs to the open file, not the process."""
    answer = Hosts.name
    monkeypatch.setattr(Hosts, "name", lambda self, path: time.sleep(0.5) or answer(self, path))
    with ThreadPoolExecutor(3) as pool:
        paths = set(pool.map(fetch, [UNKNOWN] * 3))
    assert len(paths) == 1
    assert site.asked == [URL]


def test_a_killed_process_leaves_no_lock_and_no_rest(site: Hosts) -> None:
    program = """
import sys, time
from convert import light
from mobilenets import fetching
from mobilenets.published import Source
def told(done, total):
    print("begun", flush=True)
    time.sleep(100)
fetching.fetch(Source("archive", sys.argv[1]), progress=told)
"""
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", program, URL], stdout=subprocess.PIPE, cwd=root, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGKILL)
    assert any(".tgz" in name for name in cached())
    assert fetch(UNKNOWN).read_bytes() == BODY
    assert sorted(cached()) == [
        f"files/download.tensorflow.org/models/{NAME}.tgz{suffix}" for suffix in ("", ".sha256")
    ]


def test_a_download_without_end_is_stopped(site: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_CEILING", 100_000)
    for site.length in (True, False):
        assert "is larger than" in refusal(SOURCE)
    assert cached() == {}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_reported(site: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fetching._transfer
    monkeypatch.setattr(
        fetching, "_transfer", lambda url, target, told: real(url, Path("/dev/full"), told)
    )
    message = refusal(SOURCE)
    assert os.strerror(errno.ENOSPC) in message
    assert "free some space" in message
    assert cached() == {}


def test_a_cache_that_cannot_be_written_is_reported(
    site: Hosts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MOBILENETS_CACHE", str(tmp_path / "file" / "cache"))
    assert refusal(SOURCE).startswith(f"cannot write {tmp_path}")


class TestMirror:
    PATH = "mobilenet_v2_035_96/feature_vector/1.tar.gz"

    def laid_out(self, site: Hosts, tmp_path: Path, where: str, sums: str) -> tuple[str, Source]:
        mirror = f"{site.url}/mirror" if where == "url" else str(tmp_path / "mirror")
        if where == "url":
            site.answers[f"{mirror}/{self.PATH}"] = BODY
            site.answers[f"{mirror}/SHA256SUMS"] = sums.encode()
        else:
            (tmp_path / "mirror" / self.PATH).parent.mkdir(parents=True)
            (tmp_path / "mirror" / self.PATH).write_bytes(BODY)
            (tmp_path / "mirror" / "SHA256SUMS").write_text(sums)
        self.patch.setenv("MOBILENETS_MIRROR", f"{mirror}/")
        (source, *_) = fetching.sources("mobilenet_v2_035_96", "feature_vector")
        assert source.what == fetching.MIRROR
        return mirror, source

    @pytest.fixture(autouse=True)
    def patched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch

    @pytest.mark.parametrize("where", ["url", "folder"])
    @pytest.mark.parametrize("form", ["{}  {}", "{} *./{}"])
    def test_its_files_are_checked(
        self, site: Hosts, tmp_path: Path, where: str, form: str
    ) -> None:
        sums = form.format(hashlib.sha256(BODY).hexdigest(), self.PATH) + "\n"
        _, source = self.laid_out(site, tmp_path, where, "# sums\n" + sums)
        assert fetch(source).read_bytes() == BODY
        site.answers.clear()
        assert fetch(source, offline=True).read_bytes() == BODY

    @pytest.mark.parametrize("where", ["url", "folder"])
    @pytest.mark.parametrize(
        ("sums", "reason"),
        [
            ("0" * 64 + "  " + PATH, "found " + hashlib.sha256(BODY).hexdigest()),
            ("0" * 64 + "  other", "does not list mobilenet_v2_035_96"),
        ],
        ids=["other bytes", "not listed"],
    )
    def test_what_does_not_agree_is_refused(
        self, site: Hosts, tmp_path: Path, where: str, sums: str, reason: str
    ) -> None:
        assert reason in refusal(self.laid_out(site, tmp_path, where, sums)[1])
        assert cached() == {}


def test_what_is_in_the_cache_comes_first(site: Hosts) -> None:
    names = [source.what for source in fetching.sources("mobilenet_v1_025_128", "classification")]
    assert names[0] == "TF-Slim archive"
    assert names[-1] == "keras.applications file"
    last = fetching.sources("mobilenet_v1_025_128", "classification")[-1]
    site.answers[last.url] = b"\x89HDF\r\n\x1a\n"
    fetch(last)
    again = fetching.sources("mobilenet_v1_025_128", "classification")
    assert [source.what for source in again] == [names[-1], *names[:-1]]


def test_urls_of_modules_are_asked_for_as_the_hub_wants(site: Hosts) -> None:
    site.answers["https://tfhub.dev/a/b/1?tf-hub-format=compressed"] = BODY
    with local("https://tfhub.dev/a/b/1") as folder:
        assert files(folder)[INDEX] == b"the index"
    assert not folder.exists()


def test_what_cannot_be_fetched_is_an_oserror_too(site: Hosts) -> None:
    """As `mobilenets.load` says of a URL."""
    with pytest.raises(OSError, match=r"^cannot download ") as caught, local(f"{site.url}/x.tgz"):
        pass
    assert isinstance(caught.value, MobileNetError)


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


# Unpacking


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
    monkeypatch.setattr(fetching, "_CEILING", 1 << 20)
    message = unpack_refusal(tgz({INDEX: b"i", DATA: bytes(2 << 20)}), tmp_path)
    assert "unpacks to more than" in message


def test_a_sparse_file_is_as_large_as_it_becomes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few bytes of an archive can stand for a terabyte of zeros; here, for two megabytes."""
    monkeypatch.setattr(fetching, "_CEILING", 1 << 20)
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
    monkeypatch.setattr(fetching, "_MOST_MEMBERS", 3)
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
