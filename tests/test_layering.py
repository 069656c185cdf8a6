"""Which part may use which: one direction only, and one part alone on the network."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mobilenets
from mobilenets.weights import readers

ROOT = Path(__file__).parents[1]
LIBRARY = sorted((ROOT / "mobilenets").rglob("*.py"))
CONVERTER = sorted((ROOT / "convert").rglob("*.py"))

# A module uses those before it; those apart use none.
ORDER = [
    "errors",
    "published",
    "writing",
    "fetching",
    "variants",
    "names",
    "architecture",
    "parts",
    "layers",
    "quantization",
    "blocks",
    "logits",
    "spare_channels",
    "channel_statistics",
    "channel_scaling",
    "weight_rounding",
    "weight_limits",
    "mean_correction",
    "model",
    "images",
    "weights",
    "canonical",
    "saved_model",
    "loading",
]
APART = ["errors", "published", "images", "writing", "canonical", "_version"]
# The same within the package of weights; a reader uses no other.
READERS = [reader.__name__.rpartition(".")[2] for reader in readers.READERS]
KERAS = ["keras_hdf5", "keras_layout", "keras_names", "keras_config"]
BUNDLES = ["bundle_index", "bundle"]
WEIGHTS = ["errors", "identify", "mapping", "contents", *BUNDLES, *KERAS, *READERS, "readers"]
# Within the package that fetches: what each room may use. The network's knows no cache and no hash,
# an archive's room no network.
FETCHING: dict[str, set[str]] = {
    "errors": set(),
    "urls": set(),
    "network": {"errors"},
    "archives": {"errors"},
    "cache_folder": {"urls"},
    "checks": {"archives", "errors"},
    "mirror": {"cache_folder", "errors", "network", "urls"},
    "source_order": {"cache_folder", "mirror"},
    "files": {"cache_folder", "checks", "errors", "mirror", "network", "urls"},
    "user_sources": {"archives", "cache_folder", "errors", "files", "urls"},
}
# What `python -m convert list` needs, and a download.
LIGHT = ["errors", "published", "writing", "fetching", "variants", "names"]

# The one module that may touch the network.
NETWORKING = "mobilenets/fetching/network.py"
# Libraries that are there to touch it, of the standard library and beyond.
NETWORK = {
    *("aiohttp", "asyncssh", "boto3", "botocore", "curl_cffi", "datasets", "fabric", "fsspec"),
    *("ftplib", "gcsfs", "gdown", "google", "grpc", "h11", "h2", "http", "httpcore", "httplib2"),
    *("httpx", "huggingface_hub", "imaplib", "kaggle", "kagglehub", "modelscope", "nntplib"),
    *("paramiko", "pooch", "poplib", "pycurl", "requests", "s3fs", "smart_open", "smtplib"),
    *("socket", "socketserver", "ssl", "telnetlib", "tensorflow_datasets", "timm", "tornado"),
    *("transformers", "treq", "twisted", "urllib", "urllib3", "websocket", "websockets", "wget"),
    *("xmlrpc", "zmq"),
}
# Functions of other libraries that fetch, by whatever name the library was imported.
FETCHES = {
    "cached_download",
    "dataset_download",
    "download_url",
    "from_pretrained",
    "get_file",
    "hf_hub_download",
    "load_state_dict_from_url",
    "model_download",
    "module_download",
    "open_url",
    "retrieve",
    "snapshot_download",
    "urlopen",
    "urlretrieve",
}
# tensorflow_hub loads folders and URLs by the same calls: it may be used only where what it is
# given is a folder, of these files.
HUB = {"convert/export/litert_source.py", "convert/verify.py"}
HUB_MAY = {"KerasLayer", "load"}
PROGRAMS = {"aria2c", "curl", "gsutil", "scp", "wget"}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it; names of a package may be modules too."""
    package = path.relative_to(ROOT).parent.parts
    yield from imported(path.read_text(encoding="utf-8"), package)


def imported(text: str, package: tuple[str, ...] = ()) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def parts(path: Path, package: str) -> set[str]:
    """The modules and packages of a package that a file imports."""
    names = {file.stem for file in (ROOT / package).iterdir() if file.suffix in ("", ".py")}
    dotted = package.replace("/", ".") + "."
    found = {name[len(dotted) :].split(".")[0] for name in imports(path) if name.startswith(dotted)}
    return found & names


def network_uses(text: str, file: str) -> set[str]:
    """What in a file's text can touch the network."""
    found = {
        name
        for name in imported(text)
        if (name.split(".")[0] in NETWORK or name.split(".")[-1] in FETCHES)
        # Messages, of the package that shares its first name with Google's clients.
        and not name.startswith("google.protobuf.")
        # Texts alone; what else its package holds is seen where it is used.
        and name != "urllib.parse"
    }
    hubs = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            hubs |= {a.asname or a.name for a in node.names if a.name == "tensorflow_hub"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tensorflow_hub"):
            found |= {f"tensorflow_hub.{alias.name}" for alias in node.names}
    if hubs and file not in HUB:
        found.add("tensorflow_hub")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if owner in hubs and node.attr not in HUB_MAY:
                found.add(f"tensorflow_hub.{node.attr}")
            if node.attr in FETCHES:
                found.add(node.attr)
            if owner == "urllib" and node.attr != "parse":
                found.add(f"urllib.{node.attr}")
        elif isinstance(node, ast.Name) and node.id in FETCHES:
            found.add(node.id)
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, str) and node.value in PROGRAMS:
                found.add(node.value)
        elif isinstance(node, ast.Call):
            found |= set(_downloading_calls(node))
    return found


def _downloading_calls(node: ast.Call) -> Iterator[str]:
    """Calls that fetch by what they are given: keras.applications, by default, ImageNet's weights.

    The networks of keras.applications are taken by name, or out of the package by `getattr`.
    """
    called = ast.unparse(node.func)
    application = re.search(r"applications\b.*MobileNet", called) or (
        called.startswith("getattr(") and "applications" in called
    )
    if application and all(keyword.arg != "weights" for keyword in node.keywords):
        yield f"{called} without weights"
    if called.endswith("load_data"):
        yield called
    for keyword in node.keywords:
        if keyword.arg == "weights" and ast.unparse(keyword.value) == "'imagenet'":
            yield f"{called} with ImageNet's weights"


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_imports_are_seen() -> None:
    """What the other tests build on."""
    assert parts(ROOT / "mobilenets" / "model.py", "mobilenets") >= {"architecture", "blocks"}
    assert parts(ROOT / "mobilenets" / "loading.py", "mobilenets") >= {"fetching", "weights"}
    assert parts(ROOT / "mobilenets" / "weights" / "slim.py", "mobilenets/weights") >= {"contents"}
    assert parts(ROOT / "convert" / "conversion.py", "convert") >= {"labels", "errors"}


@pytest.mark.parametrize("path", LIBRARY, ids=label)
def test_the_library_does_not_know_the_converter(path: Path) -> None:
    assert not [name for name in imports(path) if name.split(".")[0] in ("convert", "tests")]


def test_every_module_of_the_library_has_its_place() -> None:
    for folder, names in (
        (ROOT / "mobilenets", {*ORDER, *APART}),
        (ROOT / "mobilenets" / "fetching", set(FETCHING)),
        (ROOT / "mobilenets" / "weights", set(WEIGHTS)),
    ):
        found = {path.stem for path in folder.iterdir() if not path.name.startswith("__")}
        assert found - {"class_names", "published", "py"} == names - {"published"}


def files_of(name: str) -> list[Path]:
    path = ROOT / "mobilenets" / name
    return sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


@pytest.mark.parametrize("name", ORDER)
def test_the_library_has_one_direction(name: str) -> None:
    for file in files_of(name):
        used = parts(file, "mobilenets") - {name}
        assert used <= set(ORDER[: ORDER.index(name)])
        # Not through the package either, which imports them all.
        assert "mobilenets" not in set(imports(file)) or used


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_have_one_direction(name: str) -> None:
    used = parts(ROOT / "mobilenets" / "weights" / f"{name}.py", "mobilenets/weights")
    before = set(WEIGHTS[: WEIGHTS.index(name)])
    assert used <= (before - set(READERS) if name in READERS else before)


@pytest.mark.parametrize("name", FETCHING)
def test_rooms_of_fetching_know_no_more_than_they_need(name: str) -> None:
    used = parts(ROOT / "mobilenets" / "fetching" / f"{name}.py", "mobilenets/fetching")
    assert used == FETCHING[name]


def test_the_package_that_fetches_is_used_by_its_own_names() -> None:
    rooms = ROOT / "mobilenets" / "fetching"
    for path in (*LIBRARY, *CONVERTER):
        assert path.parent == rooms or not parts(path, "mobilenets/fetching")


def test_only_the_list_of_readers_knows_them() -> None:
    """So that another format is a file, and a line there."""
    knowing = {
        label(path)
        for path in (*LIBRARY, *CONVERTER)
        if parts(path, "mobilenets/weights") & set(READERS)
    }
    assert knowing == {"mobilenets/weights/readers.py"}


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_use_light_ones(name: str) -> None:
    for file in files_of(name):
        assert parts(file, "mobilenets") <= set(LIGHT)


def test_light_modules_load_nothing_heavy() -> None:
    heavy = ["tensorflow", "keras", "numpy", "tensorflow_hub"]
    modules = ", ".join(f"mobilenets.{name}" for name in LIGHT)
    code = f"import sys; from convert import light; import {modules}\n"
    code += f"print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", APART)
def test_parts_of_their_own(name: str) -> None:
    """They know nothing of the library but its errors."""
    assert parts(ROOT / "mobilenets" / f"{name}.py", "mobilenets") <= {"errors"}


@pytest.mark.parametrize("path", [*LIBRARY, *CONVERTER], ids=label)
def test_one_module_touches_the_network(path: Path) -> None:
    found = network_uses(path.read_text(encoding="utf-8"), label(path))
    if label(path) == NETWORKING:
        assert {"pooch", "requests"} <= found
    else:
        assert not found


@pytest.mark.parametrize("file", sorted(HUB))
def test_users_of_tensorflow_hub_have_a_folder(file: str) -> None:
    """`hub.load(str(path))`: a URL would have become a path before, and none that is there."""
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("hub.load", "hub.KerasLayer"):
            assert re.fullmatch(r"str\(\w+\)", ast.unparse(node.args[0]))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        # What mobilenets/sources.py did, unseen.
        (
            "def _fetched(url):\n    import tensorflow_hub as hub\n    return hub.resolve(url)\n",
            {"tensorflow_hub", "tensorflow_hub.resolve"},
        ),
        ("import tensorflow_hub\ntensorflow_hub.load(url)", {"tensorflow_hub"}),
        ("from tensorflow_hub import resolve as find", {"tensorflow_hub.resolve"}),
        ("import tensorflow as tf\ntf.keras.utils.get_file('a', 'b')", {"get_file"}),
        ("from keras.utils import get_file as g\n", {"keras.utils.get_file"}),
        ("import keras\nkeras.utils.get_file('a')", {"get_file"}),
        ("import keras\nkeras.datasets.mnist.load_data()", {"keras.datasets.mnist.load_data"}),
        (
            "keras.applications.MobileNetV2()",
            {"keras.applications.MobileNetV2 without weights"},
        ),
        (
            "applications.MobileNet(weights='imagenet')",
            {"applications.MobileNet with ImageNet's weights"},
        ),
        ("keras.applications.MobileNet(weights=None)", set()),
        ("import pooch", {"pooch"}),
        ("from google.protobuf.message import DecodeError", set()),
        ("import urllib.parse\nurllib.parse.urlsplit('x')", set()),
        ("import urllib.parse\nurllib.request.build_opener()", {"urllib.request"}),
        ("from urllib import request", {"urllib", "urllib.request"}),
        ("from google.cloud import storage", {"google.cloud", "google.cloud.storage"}),
        ("import kagglehub as k\nk.model_download('x')", {"kagglehub", "model_download"}),
        (
            "from huggingface_hub import hf_hub_download\nhf_hub_download('x')",
            {"huggingface_hub", "huggingface_hub.hf_hub_download", "hf_hub_download"},
        ),
        ("import importlib, subprocess\nsubprocess.run(['curl', url])", {"curl"}),
        ("from pathlib import Path\nPath('x').resolve()", set()),
    ],
)
def test_ways_to_the_network_are_seen(text: str, found: set[str]) -> None:
    assert network_uses(text, "mobilenets/sources.py") == found


def test_public_names() -> None:
    assert mobilenets.__all__ == [
        "VARIANTS",
        "DepthwiseSeparable",
        "InvertedResidual",
        "MobileNet",
        "MobileNetError",
        "Variant",
        "images",
        "load",
        "module",
        "save",
    ]
    for name in mobilenets.__all__:
        assert getattr(mobilenets, name).__doc__
    modules = {path.stem for path in LIBRARY} | {path.parent.name for path in LIBRARY}
    public = {name for name in vars(mobilenets) if not name.startswith("_")}
    assert public - modules == set(mobilenets.__all__) - {"images"}


def test_every_variable_says_how_replicas_share_it() -> None:
    """Keras's own choice differs between versions."""
    calls = 0
    for path in LIBRARY:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_weight":
                calls += 1
                assert "aggregation" in {each.arg for each in node.keywords}, (
                    f"{path}:{node.lineno}"
                )
    assert calls
