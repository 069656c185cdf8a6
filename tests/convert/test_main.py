"""The command line: tables for people, JSON for programs, one line and exit code 2 for mistakes."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from programs import as_program

from convert import batch, verify
from convert.__main__ import main
from convert.batch import Outcome
from convert.commands import commands
from convert.export import bundle, slim
from convert.verify import Parity
from mobilenets import MobileNet, Variant

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    model = MobileNet(Variant("mobilenet_v2", 0.35, 32), 3)
    values = {name: variable.numpy() for name, variable in model.slim_variables.items()}
    shadow = "MobilenetV2/Conv/weights"
    values[f"{shadow}/ExponentialMovingAverage"] = values[shadow] + 1
    bundle.write(folder / "mobilenet_v2_0.35_32.ckpt", values | {"global_step": np.int64(1)})
    return folder


def test_list(command):
    code, out, _ = command("list")
    assert code == 0
    assert out.count("mobilenet_v") == 2 * 54
    assert "mobilenet_v2_0.35_96" in out


def test_list_json(command):
    code, out, _ = command("list", "--only", "mobilenet_v1_100_224", "--json")
    (row,) = json.loads(out)
    assert code == 0
    assert (row["slim_name"], row["top1"], row["million_macs"]) == (
        "mobilenet_v1_1.0_224",
        70.9,
        569,
    )


def test_inspect(command, source):
    code, out, _ = command("inspect", source)
    assert code == 0
    assert "mobilenet_v2_035_32" in out
    assert "exported, moving averages" in out
    assert "global_step" in out


def test_inspect_json(command, source):
    code, out, _ = command("inspect", source, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["variant"] == "mobilenet_v2_035_32"
    assert found["num_classes"] == 3
    weights = found["exported"]["MobilenetV2/Conv/weights"]
    assert weights == {
        "from": "MobilenetV2/Conv/weights/ExponentialMovingAverage",
        "shape": [3, 3, 3, 16],
    }
    assert len(found["exported"]) == 262
    assert found["unknown"] == []


def test_convert_then_verify(command, source, tmp_path, monkeypatch, quick_conversion):
    code, out, _ = command("checkpoint", source, "--output", tmp_path, "--kind", "feature_vector")
    assert code == 0
    assert "mobilenet_v2_035_32/feature_vector" in out
    assert "written" in out
    module = tmp_path / "mobilenet_v2_035_32" / "feature_vector"
    written = json.loads((module / "parity.json").read_text())
    assert (written["variables"], written["image_size"]) == (260, 32)

    # To compare again would show no more; test_conversion.py does.
    again = Parity(260, None, 0, 32, None, None, 1e-4)
    monkeypatch.setattr(verify.Original, "compare", lambda *_, **__: again)
    code, out, _ = command("verify", module, "--json")
    (figures,) = json.loads(out)
    assert code == 0
    assert figures["parity"] == written | dataclasses.asdict(again)

    code, out, err = command("verify", module, tmp_path)
    assert code == 2
    assert "mobilenet_v2_035_32/feature_vector" in out
    assert err.count("error:") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("checkpoint", "absent", "--output", "{tmp}"), "absent: no file, folder or published"),
        (("checkpoint", "./absent", "--output", "{tmp}"), "absent: no such file"),
        (("inspect", "{tmp}"), "holds no checkpoint"),
        (("checkpoint", "{source}", "--output", "{tmp}", "--variant", "resnet"), "resnet"),
        (
            ("checkpoint", "{source}", "--output", "{tmp}", "--variant", "mobilenet_v2_050_96"),
            "is not mobilenet_v2_050_96",
        ),
        (("checkpoint", "{source}", "--output", "/dev/null"), "/dev/null"),
        (("verify", "{tmp}"), "is not a converted module"),
        (("verify", "{tmp}/absent"), "absent: no such folder"),
        (
            ("all", "--checkpoints", "{tmp}", "--output", "{tmp}", "--only", "x"),
            "x matches no published variant",
        ),
        (("list", "--only", "x"), "published variant; `list` shows the names (--only GLOB)"),
    ],
    ids=lambda value: " ".join(value[:1]) if isinstance(value, tuple) else None,
)
def test_mistakes_are_one_line(command, source, tmp_path, arguments, message):
    code, _, err = command(*(a.format(tmp=tmp_path, source=source) for a in arguments))
    assert code == 2
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_an_unknown_image_size_names_the_option(command, tmp_path):
    slim.export(MobileNet("mobilenet_v1_025_32", 3), tmp_path / "m.ckpt")
    code, _, err = command("checkpoint", tmp_path / "m.ckpt", "--output", tmp_path / "out")
    assert code == 2
    assert err.endswith("give the image size or the variant (--image-size PIXELS)\n")


@pytest.mark.parametrize("empty", ["", " "])
@pytest.mark.parametrize("before", ["first", "--output", "--output="])
@pytest.mark.parametrize("name", commands())
def test_an_empty_argument_is_no_path(command, tmp_path, monkeypatch, name, before, empty):
    """As a path it would be the working directory: `--output "$OUTPUT"` where that is not set."""
    monkeypatch.chdir(tmp_path)
    where, arguments = {
        "first": (f"the argument after {name}", [empty]),
        "--output": ("the argument after --output", ["x", "--output", empty]),
        "--output=": ("--output", ["x", f"--output={empty}"]),
    }[before]
    code, _, err = command(name, *arguments)
    assert (code, err) == (2, f"error: {where} is empty: is a variable of the shell not set?\n")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("jobs", ["0", "-1", "many"])
def test_jobs_are_a_number(command, jobs):
    code, _, err = command("all", "--checkpoints", "x", "--output", "y", "--jobs", jobs)
    assert code == 2
    assert "is not a whole number of 1 or more" in err


@pytest.mark.parametrize(
    ("statuses", "code"),
    [(["converted", "unchanged"], 0), (["converted", "missing"], 1), (["failed", "converted"], 1)],
    ids=["all there", "one missing", "one failed"],
)
def test_all_says_what_became_of_each(command, monkeypatch, statuses, code):
    outcomes = [
        Outcome(f"variant {i}", status, f"[detail {i}]") for i, status in enumerate(statuses)
    ]

    def convert_all(*_, on_download, on_outcome, **__):
        on_download("variant 0", 1, 2)
        for outcome in outcomes:
            on_outcome(outcome)
        return outcomes

    monkeypatch.setattr(batch, "convert_all", convert_all)
    found, out, _ = command("all", "--checkpoints", "x", "--output", "y")
    assert found == code
    assert all(o.variant in out and o.status in out and o.detail in out for o in outcomes)
    found, out, _ = command("all", "--checkpoints", "x", "--output", "y", "--json")
    assert (found, [o["status"] for o in json.loads(out)]) == (code, statuses)


def test_a_stop_is_no_traceback(command, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(batch, "matching", stop)
    assert command("list") == (130, "", "stopped\n")


def test_only_a_program_collects_garbage_rarely(command, monkeypatch, capsys):
    called = []
    monkeypatch.setattr("convert.__main__.collect_rarely", lambda: called.append(sys.argv))
    assert command("list")[0] == 0
    assert called == []
    monkeypatch.setattr(sys, "argv", ["convert", "list"])
    assert main() == 0
    assert called == [["convert", "list"]]
    capsys.readouterr()


def test_as_a_program_it_is_quiet(source):
    done = as_program("inspect", source, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    json.loads(done.stdout)


def test_light_commands_do_not_load_tensorflow():
    program = (
        "import sys; from convert.__main__ import main; main(['list']); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
