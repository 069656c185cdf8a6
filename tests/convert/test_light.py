"""The command line postpones the library's `__init__.py`; programs that import it never do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mobilenets

ROOT = Path(__file__).resolve().parents[2]


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_importing_the_library_registers_its_layers(tmp_path: Path) -> None:
    """Whichever of Keras and the library comes first, and though nothing of it is used."""
    path = str(tmp_path / "model.keras")
    mobilenets.MobileNet("mobilenet_v1_025_32").save(path)
    load = f"print(type(keras.models.load_model({path!r})).__name__)"
    assert run(f"import mobilenets, keras; {load}") == "MobileNet"
    assert run(f"import keras, mobilenets; {load}") == "MobileNet"


# TensorFlow is loaded once; the library is not there yet.
POSTPONED_AGAIN = """
import sys

def postponed_again():
    for name in list(sys.modules):
        if name.partition(".")[0] in ("mobilenets", "convert"):
            del sys.modules[name]
    from convert import light
    print(type(sys.modules["mobilenets"]).__name__)
"""


def test_the_first_name_that_is_used_brings_all() -> None:
    """By attribute, by `import *` and by name."""
    code = f"""{POSTPONED_AGAIN}
from convert import light
import mobilenets
from mobilenets.errors import MobileNetError
from mobilenets.published import archives
print("tensorflow" in sys.modules)
print(mobilenets.MobileNetError is MobileNetError, "tensorflow" in sys.modules)
import keras
print("mobilenets>MobileNet" in keras.saving.get_custom_objects())
print(sorted(mobilenets.__all__) == sorted(set(mobilenets.__all__) & set(dir(mobilenets))))
print(hasattr(mobilenets, "nothing"))

postponed_again()
from mobilenets import *
print(MobileNet.__name__)
postponed_again()
from mobilenets import load
print(load.__name__)
"""
    assert run(code).split() == [
        *("False", "True", "True", "True", "True", "False"),
        *("_Postponed", "MobileNet", "_Postponed", "load"),
    ]


@pytest.mark.slow
def test_any_module_may_come_first() -> None:
    modules = ("weights.bundle", "saved_model", "model")
    code = POSTPONED_AGAIN
    for module in modules:
        code += f"postponed_again(); import mobilenets.{module}; import mobilenets as m; "
        code += f"print(m.load.__name__, m.{module}.__name__)\n"
    assert run(code).splitlines() == [
        line for module in modules for line in ("_Postponed", f"load mobilenets.{module}")
    ]


@pytest.mark.slow
def test_a_library_that_is_there_stays_as_it_is() -> None:
    code = (
        "import mobilenets as a\nfrom convert import light\nimport mobilenets as b\n"
        "print(a is b, type(b).__name__)"
    )
    assert run(code) == "True module"
