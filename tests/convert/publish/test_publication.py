"""A folder of modules becomes a site, again and again; nothing that was published changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from refusals import refused

from convert.errors import ConvertError
from convert.publish import archives, cards
from convert.publish.index import Index
from convert.publish.modules import find
from convert.publish.publication import publish
from mobilenets import fetching

V1, V2 = "mobilenet_v1_025_128", "mobilenet_v2_035_96"


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., list[str]]:
    """`run(site="site")`: publishes all modules, and returns what became of each."""

    def run(site: str = "site") -> list[str]:
        _, done = publish(find(tmp_path / "models"), tmp_path / site)
        return [each.status for each in done]

    return run


def test_two_sites_are_equal(
    module: Callable[..., Path], run: Callable[..., list[str]], tmp_path: Path
) -> None:
    module(V1, 1001, format=3)
    module(V2)
    run("one")
    module(V2).touch()
    (tmp_path / "models" / V1).rename(tmp_path / "models" / "elsewhere")
    run("the/other")
    found = files(tmp_path / "one")
    assert found == files(tmp_path / "the" / "other")
    assert list(found) == [
        "SHA256SUMS",
        "index.json",
        f"{V1}/classification/1.tar.gz",
        f"{V2}/feature_vector/1.tar.gz",
    ]


@pytest.mark.parametrize("site", ["models", "models/{}", "models/{}/site", "to models"])
def test_a_site_among_a_module_s_files_is_refused(
    site: str, run: Callable[..., list[str]], module: Callable[..., Path], tmp_path: Path
) -> None:
    """The layout of `convert checkpoint` is a site's."""
    module(V1)
    (tmp_path / "to models").symlink_to(tmp_path / "models")
    before = files(tmp_path / "models")
    with refused(f"lie among the files of .*{V1}/feature_vector; name another", ConvertError):
        run(site.format(f"{V1}/feature_vector"))
    assert files(tmp_path / "models") == before
    assert run("models/site") == ["new"]


def test_versions(
    module: Callable[..., Path],
    run: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module(V1)
    module(V2)
    assert run() == ["new", "new"]
    before = files(tmp_path / "site")
    assert run() == ["unchanged", "unchanged"]
    assert files(tmp_path / "site") == before

    module(V1, data=b"better ones")
    assert run() == ["version 2", "unchanged"]
    after = files(tmp_path / "site")
    assert {path: after[path] for path in before if path.endswith(".gz")} == {
        path: body for path, body in before.items() if path.endswith(".gz")
    }
    assert set(after) - set(before) == {f"{V1}/feature_vector/2.tar.gz"}
    index = Index.read(tmp_path / "site")
    assert [(each.name, each.version) for each in index.modules] == [(V1, 1), (V1, 2), (V2, 1)]
    assert "feature_vector/2.tar.gz" in cards.render(index.modules[1])
    assert run() == ["unchanged", "unchanged"]

    # Back to the first: it is no longer the newest.
    module(V1)
    assert run() == ["version 3", "unchanged"]

    # New words in a card make no new module.
    monkeypatch.setattr(cards, "render", lambda entry: "# other words")
    assert run() == ["unchanged", "unchanged"]


def test_modules_that_are_gone_stay_published(
    module: Callable[..., Path], run: Callable[..., list[str]], tmp_path: Path
) -> None:
    folder = module(V1)
    run()
    folder.rename(tmp_path / "gone")
    module(V2)
    assert run() == ["new"]
    assert [each.name for each in Index.read(tmp_path / "site").modules] == [V1, V2]


@pytest.mark.parametrize("wrong", ["missing", "damaged"])
def test_a_site_is_what_its_index_says(
    wrong: str, module: Callable[..., Path], run: Callable[..., list[str]], tmp_path: Path
) -> None:
    module(V1)
    run()
    archive = tmp_path / "site" / V1 / "feature_vector" / "1.tar.gz"
    if wrong == "missing":
        archive.unlink()
    else:
        archive.write_bytes(archive.read_bytes()[:-1])
    module(V2)
    before = files(tmp_path / "site")
    reason = "is missing" if wrong == "missing" else "is not the file that the index lists"
    with refused(reason, ConvertError):
        run()
    assert files(tmp_path / "site") == before


def test_a_file_that_is_not_listed_is_not_replaced(
    module: Callable[..., Path], run: Callable[..., list[str]], tmp_path: Path
) -> None:
    module(V1)
    run()
    index = (tmp_path / "site" / "index.json").read_bytes()
    (tmp_path / "site" / "index.json").unlink()
    # The same, as after an interruption.
    assert run() == ["new"]
    assert (tmp_path / "site" / "index.json").read_bytes() == index
    (tmp_path / "site" / "index.json").unlink()
    module(V1, data=b"other ones")
    with refused("exists, but the index does not list it", ConvertError):
        run()


def test_an_interruption_leaves_what_was_done(
    module: Callable[..., Path],
    run: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module(V1)
    module(V2)
    pack = archives.pack

    def second_fails(contents: archives.Contents, target: Path) -> None:
        if V2 in str(target):
            Path(target).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        pack(contents, target)

    monkeypatch.setattr(archives, "pack", second_fails)
    with refused("cannot be written: No space left on device", ConvertError):
        run()
    assert [name for name in files(tmp_path / "site") if V2 in name] == []
    assert [each.name for each in Index.read(tmp_path / "site").modules] == [V1]
    monkeypatch.undo()
    assert run() == ["unchanged", "new"]


def test_the_card_is_in_the_archive(
    module: Callable[..., Path], run: Callable[..., list[str]], tmp_path: Path
) -> None:
    module(V1)
    run()
    (entry,) = Index.read(tmp_path / "site").modules
    fetching.unpack(tmp_path / "site" / entry.path, tmp_path / "unpacked")
    assert (tmp_path / "unpacked" / "README.md").read_text() == cards.render(entry)


def test_the_command(
    command: Callable[..., tuple[int, str, str]], module: Callable[..., Path], tmp_path: Path
) -> None:
    module(V1)
    arguments = "publish", tmp_path / "models", "--output", tmp_path / "site"
    code, out, _ = command(*arguments)
    assert code == 0
    assert f"{V1}/feature_vector/1.tar.gz" in out
    assert "1 module, 0 MB" in out
    code, out, _ = command(*arguments, "--json")
    (found,) = json.loads(out)
    assert code == 0
    assert (found.pop("status"), found) == (
        "unchanged",
        json.loads((tmp_path / "site" / "index.json").read_text())["modules"][0],
    )


@pytest.mark.parametrize(
    ("models", "site", "reason"),
    [
        ("absent", "site", "absent: no such folder"),
        ("models", "models/file", "index.json cannot be read: Not a directory"),
    ],
    ids=["no-models", "no-site"],
)
def test_mistakes(
    models: str,
    site: str,
    reason: str,
    command: Callable[..., tuple[int, str, str]],
    module: Callable[..., Path],
    tmp_path: Path,
) -> None:
    module(V1)
    (tmp_path / "models" / "file").write_text("precious")
    code, out, err = command("publish", tmp_path / models, "--output", tmp_path / site)
    assert (code, out) == (2, "")
    assert reason in err
    assert err.strip().splitlines()[-1].startswith("error: ")
    assert (tmp_path / "models" / "file").read_text() == "precious"
