"""What lands in a user's site-packages, and that it works there."""

from __future__ import annotations

import contextlib
import os
import shutil
import site
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from local_hosts import tgz
from mirrors import index_of
from tiers import slow

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "mobilenets": "mobilenets",
    "convert": "mobilenets_convert",
    "sample": "mobilenets_sample",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel and the source archive, as `make dist` builds them."""
    folder = tmp_path_factory.mktemp("dist")
    skipped = shutil.ignore_patterns(
        ".*",
        "__pycache__",
        "models",
        "checkpoints",
        "litert",
        "site",
        "build",
        "dist",
        "*.egg-info",
    )
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, ignore=skipped)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(tree)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return {"wheel": wheel, "source": source}


def test_the_wheel_holds_the_library_and_the_tool(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built["wheel"]) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = set()
    for folder, package in PACKAGES.items():
        files = [path for path in (ROOT / folder).rglob("*.*") if "__pycache__" not in path.parts]
        expected |= {f"{package}/{path.relative_to(ROOT / folder).as_posix()}" for path in files}
    assert names == expected


def test_the_source_archive_holds_what_the_wheel_needs(built: dict[str, Path]) -> None:
    with tarfile.open(built["source"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "convert/entry.py"} <= names
    assert {"mobilenets/published.toml", "mobilenets/class_names.txt"} <= names
    assert "convert/synsets.txt" in names


@dataclass(frozen=True)
class Installed:
    """An environment of its own, which borrows the dependencies alone, and an empty folder."""

    folder: Path
    packages: Path

    def run(self, *command: str, **variables: str) -> str:
        """What a command of the environment prints."""
        program = self.folder / "venv" / "bin" / command[0]
        inherited = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = subprocess.run(
            [str(program), *command[1:]],
            cwd=self.folder,
            env=inherited | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def installed(distribution: Path, folder: Path) -> Installed:
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (packages / "borrowed.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python")]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", str(distribution)], check=True)
    return Installed(folder, packages)


def files_of(user: Installed) -> dict[str, bytes]:
    """What is installed, but for notes on where it came from."""
    return {
        str(path.relative_to(user.packages)): path.read_bytes()
        for name in ("mobilenets", "mobilenets_convert")
        for path in (user.packages / name).rglob("*.*")
        if path.is_file() and path.suffix != ".pyc"
    }


@pytest.mark.slow
def test_the_source_archive_installs_the_same_as_the_wheel(
    built: dict[str, Path], tmp_path: Path
) -> None:
    for kind in built:
        (tmp_path / kind).mkdir()
    wheel, source = (installed(built[kind], tmp_path / kind) for kind in ("wheel", "source"))
    assert files_of(source)
    assert files_of(source) == files_of(wheel)
    for user in (wheel, source):
        assert "mobilenet_v2_035_96" in user.run("mobilenets", "list")


@pytest.mark.slow
def test_it_works_where_it_is_installed(built: dict[str, Path], tmp_path: Path) -> None:
    run = installed(built["wheel"], tmp_path).run
    assert "mobilenet_v2_035_96" in run("mobilenets", "list")
    assert run("mobilenets", "--help").startswith("usage: mobilenets ")
    sample = str(ROOT / "sample" / "mobilenet_v1_0.25_64.ckpt")
    assert "mobilenet_v1_025_64" in run("mobilenets", "inspect", sample)
    run("mobilenets", "checkpoint", sample, "--output", "models", "--kind", "feature_vector")
    program = (
        "import mobilenets; print(mobilenets.__file__); "
        "print(mobilenets.load('models/mobilenet_v1_025_64/feature_vector').num_features)"
    )
    place, features = run("python", "-c", program).split()
    assert place.startswith(str(tmp_path))
    assert features == "256"


# What a user does who has the wheel and a mirror: in Keras 3, then in tf_keras.
FINE_TUNES = """
import sys
for extra in ("tf_keras", "tensorflow_hub", "pkg_resources"):
    sys.modules[extra] = None  # The library alone does without.
import keras, numpy as np
import mobilenets

assert mobilenets.__file__.startswith(sys.argv[1]), mobilenets.__file__
model = mobilenets.load(sys.argv[2])
assert (model.variant.name, model.num_classes) == (sys.argv[2], 1001)
model = model.with_classes(class_names=["cat", "dog"])
before = [variable.numpy() for variable in model.variables]
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
images = np.random.default_rng(0).uniform(size=(4, 64, 64, 3)).astype("float32")
model.fit(images, np.array([0, 1, 0, 1]), batch_size=2, verbose=0)
assert model.optimizer.iterations == 2
assert all((was != now.numpy()).any() for was, now in zip(before, model.variables))
mobilenets.save(model, "mine")
np.save("images.npy", images)
np.save("logits.npy", model.predict(images, verbose=0))
print(mobilenets.module(sys.argv[2]))
"""
FINE_TUNES_IN_TF_KERAS = """
import sys
import numpy as np, tensorflow_hub as hub, tf_keras

images = np.load("images.npy")
layer = hub.KerasLayer("mine", trainable=True)
assert np.abs(layer(images) - np.load("logits.npy")).max() < 1e-4
for module, head in (("mine", []), (sys.argv[1], [tf_keras.layers.Dense(2)])):
    layer = hub.KerasLayer(module, trainable=True)
    model = tf_keras.Sequential([layer, *head])
    model.compile("sgd", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.build((None, 64, 64, 3))
    before = [variable.numpy() for variable in layer.variables]
    model.fit(images, np.array([0, 1, 0, 1]), batch_size=2, verbose=0)
    assert model.optimizer.iterations == 2
    assert all((was != now.numpy()).any() for was, now in zip(before, layer.variables))
"""


@pytest.mark.slow
def test_the_wheel_alone_and_a_mirror(
    built: dict[str, Path], randomise: Callable, untraced: Callable, tmp_path: Path
) -> None:
    """By name, fine-tuned, saved and fine-tuned again; nothing of the clone, and no network."""
    import mobilenets

    name, mirror, archives = "mobilenet_v1_025_128", tmp_path / "mirror", {}
    model = randomise(mobilenets.MobileNet(name, 1001))
    for kind, each in (("classification", model), ("feature_vector", model.with_classes())):
        # The library reads the first; TensorFlow runs the second.
        with untraced() if kind == "classification" else contextlib.nullcontext():
            mobilenets.save(each, tmp_path / kind)
        path = f"{name}/{kind}/1.tar.gz"
        (mirror / path).parent.mkdir(parents=True)
        archives[path] = tgz(tmp_path / kind)
        (mirror / path).write_bytes(archives[path])
    (mirror / "index.json").write_text(index_of(archives))

    (folder := tmp_path / "user").mkdir()
    user = installed(built["wheel"], folder)
    settings = {
        "MOBILENETS_MIRROR": str(mirror),
        "MOBILENETS_CACHE": str(folder / "cache"),
        "MOBILENETS_OFFLINE": "1",
    }
    (folder / "first.py").write_text(FINE_TUNES)
    (folder / "second.py").write_text(FINE_TUNES_IN_TF_KERAS)
    module = user.run("python", "first.py", str(user.packages), name, **settings).strip()
    assert Path(module).is_relative_to(folder / "cache")
    user.run("python", "second.py", module)
    assert user.run("mobilenets", "list").count(f"{name} ") == 1


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [
        ("rich", ["list"]),
        # What an old tensorflow-hub beside a new setuptools fails with.
        slow("pkg_resources", ["checkpoint", "sample", "--output", "models"]),
    ],
    ids=["rich", "pkg_resources"],
)
def test_without_the_extra_the_command_says_what_to_install(
    missing: str, arguments: list[str], tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "sample", tmp_path / "sample")
    program = f"import sys; sys.modules[{missing!r}] = None; sys.path.insert(0, {str(ROOT)!r}); "
    program += "from convert.entry import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    expected = f"error: the command needs {missing}: pip install 'mobilenets-tf2[tool]'\n"
    assert done.stderr == expected
    assert not (tmp_path / "models").exists()
