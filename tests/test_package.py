"""What lands in a user's site-packages."""

import shutil
import subprocess
import sys
import zipfile


def test_the_wheel_holds_the_library_alone(request, tmp_path):
    root = request.config.rootpath
    tree = tmp_path / "tree"
    skipped = shutil.ignore_patterns(".*", "__pycache__", "models", "checkpoints", "*.egg-info")
    shutil.copytree(root, tree, ignore=skipped)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", tmp_path, tree], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"mobilenets"}
    expected = {f"mobilenets/{path.name}" for path in (root / "mobilenets").glob("*.*")}
    assert {name for name in names if name.startswith("mobilenets/")} == expected
