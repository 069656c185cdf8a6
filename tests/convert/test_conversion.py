"""A checkpoint becomes modules: all of them, verified, or nothing."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_hub as hub
from tiers import first_fast

from convert import verify
from convert.conversion import convert, verify_module
from convert.errors import ConvertError
from convert.export import bundle
from mobilenets import MobileNet, Variant, load, saved_model
from mobilenets.errors import MobileNetError


def slim_values(variant, num_classes, seed=0):
    random = np.random.default_rng(seed)
    model = MobileNet(variant, num_classes)
    return {
        name: random.uniform(0.5, 1.5, variable.shape).astype(np.float32)
        if name.endswith(("gamma", "moving_variance"))
        else random.normal(0, 0.1, variable.shape).astype(np.float32)
        for name, variable in model.slim_variables.items()
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A user's own checkpoint: seven classes, a size that was never published."""
    folder = tmp_path_factory.mktemp("trained")
    values = slim_values(Variant("mobilenet_v1", 0.25, 64), 7)
    bundle.write(folder / "mobilenet_v1_0.25_64.ckpt", values | {"global_step": np.int64(3)})
    return folder / "mobilenet_v1_0.25_64.ckpt", values


@pytest.fixture(scope="module")
def converted(trained, tmp_path_factory, inference_alone):
    output = tmp_path_factory.mktemp("models")
    with inference_alone():
        return output, convert(trained[0], output)


def test_both_kinds_land_under_the_hub_name(converted):
    output, conversions = converted
    assert [(c.variant, c.kind, c.written) for c in conversions] == [
        ("mobilenet_v1_025_64", "feature_vector", True),
        ("mobilenet_v1_025_64", "classification", True),
    ]
    assert sorted(p.name for p in (output / "mobilenet_v1_025_64").iterdir()) == [
        "classification",
        "feature_vector",
    ]


def test_modules_hold_the_checkpoints_values(trained, converted):
    for done in converted[1]:
        module = hub.load(done.directory)
        for variable in module.variables:
            expected = trained[1][variable.name.removesuffix(":0")]
            np.testing.assert_array_equal(variable.numpy(), expected)


def test_the_figures_lie_beside_the_module(trained, converted):
    for done in converted[1]:
        parity = json.loads((Path(done.directory) / "parity.json").read_text())
        assert parity == done.parity
        assert parity["source"] == str(trained[0])
        assert parity["weights"] == "raw"
        assert parity["variables"] == (137 if done.kind == "classification" else 135)
        assert "keras.applications.MobileNet " in parity["reference"]
        assert 0 < parity["largest_difference"] < 1e-4 * parity["largest_output"]


def test_the_same_checkpoint_is_not_converted_again(trained, converted, monkeypatch):
    monkeypatch.setattr(saved_model, "Writer", lambda *_, **__: pytest.fail("was written again"))
    again = convert(trained[0], converted[0])
    assert [(c.written, c.parity) for c in again] == [(False, c.parity) for c in converted[1]]


@pytest.fixture
def outdated(trained, converted, tmp_path):
    """The modules of a format before this one, and what they are of."""
    shutil.copytree(converted[0], tmp_path / "models")
    for path in (tmp_path / "models").rglob("parity.json"):
        parity = json.loads(path.read_text())
        path.write_text(json.dumps(parity | {"format": parity["format"] - 1}))
        (path.parent / "old").touch()
    return tmp_path / "models"


@pytest.mark.slow
def test_modules_of_another_format_are_written_anew(quick_conversion, trained, converted, outdated):
    again = convert(trained[0], outdated)
    assert [(c.written, c.parity) for c in again] == [(True, c.parity) for c in converted[1]]
    assert all(c.parity["format"] == saved_model.FORMAT for c in again)
    assert not list(outdated.rglob("old"))
    assert not any(c.written for c in convert(trained[0], outdated))


def test_a_module_of_another_format_stays_until_the_new_one_is_right(
    quick_save, trained, outdated, monkeypatch
):
    def fail(*_, **__):
        raise ConvertError("differs")

    before = {p: p.read_bytes() for p in outdated.rglob("*") if p.is_file()}
    monkeypatch.setattr(verify.Original, "compare", fail)
    with pytest.raises(ConvertError, match="differs"):
        convert(trained[0], outdated)
    assert {p: p.read_bytes() for p in outdated.rglob("*") if p.is_file()} == before


def test_labels_without_a_classification(trained, tmp_path):
    (tmp_path / "labels.txt").write_text("a\n")
    message = "labels need a classification module, but only a feature vector is being made"
    with pytest.raises(ConvertError, match=message):
        convert(trained[0], tmp_path, kinds=["feature_vector"], labels=tmp_path / "labels.txt")


@pytest.mark.slow
def test_slims_labels_become_names(quick_conversion, trained, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"{i}:class {i}\n" for i in range(7)))
    (done,) = convert(trained[0], tmp_path, kinds=["classification"], labels=labels)
    assert load(done.directory).class_names == tuple(f"class {i}" for i in range(7))


def test_the_same_bytes_elsewhere_are_the_same_checkpoint(trained, converted, tmp_path):
    for path in trained[0].parent.iterdir():
        shutil.copy(path, tmp_path)
    assert not any(c.written for c in convert(tmp_path, converted[0]))


def test_another_checkpoint_does_not_overwrite(converted, tmp_path):
    bundle.write(
        tmp_path / "mobilenet_v1_0.25_64.ckpt",
        slim_values(Variant("mobilenet_v1", 0.25, 64), 7, seed=1),
    )
    with pytest.raises(ConvertError, match="was converted from another source"):
        convert(tmp_path, converted[0])


def test_a_folder_of_something_else_is_left_alone(trained, tmp_path):
    mine = tmp_path / "mobilenet_v1_025_64" / "feature_vector" / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(ConvertError, match="is not a converted module"):
        convert(trained[0], tmp_path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [mine]


@pytest.mark.slow
def test_labels_become_the_asset(quick_conversion, trained, tmp_path):
    labels = tmp_path / "labels.txt"
    names = [f"class {i}" for i in range(7)]
    labels.write_text("\n".join(names) + "\n")
    (done,) = convert(trained[0], tmp_path, kinds=["classification"], labels=labels)
    assert load(done.directory).class_names == tuple(names)
    asset = hub.load(done.directory).class_names.asset_path.numpy().decode()
    assert Path(asset).read_text().splitlines() == names


@pytest.mark.parametrize(
    ("lines", "message"),
    [(6, "has 6 lines, but the checkpoint has 7 classes"), (None, "cannot be read")],
    ids=["wrong number", "absent"],
)
def test_bad_labels(trained, tmp_path, lines, message):
    labels = tmp_path / "labels.txt"
    if lines is not None:
        labels.write_text("x\n" * lines)
    with pytest.raises(ConvertError, match=message):
        convert(trained[0], tmp_path / "models", labels=labels)
    assert not (tmp_path / "models").exists()


def without_logits(values):
    return {name: value for name, value in values.items() if "/Logits/" not in name}


@pytest.mark.slow
def test_without_logits_a_feature_vector_alone(quick_conversion, trained, tmp_path):
    bundle.write(tmp_path / "mobilenet_v1_0.25_64.ckpt", without_logits(trained[1]))
    (done,) = convert(tmp_path, tmp_path / "models")
    assert done.kind == "feature_vector"
    with pytest.raises(ConvertError, match="has no logits"):
        convert(tmp_path, tmp_path / "others", kinds=["classification"])


@pytest.mark.slow
def test_the_size_can_be_said_where_no_name_does(quick_conversion, trained, tmp_path):
    bundle.write(tmp_path / "model.ckpt-123", without_logits(trained[1]))
    with pytest.raises(MobileNetError, match="its image size is unknown"):
        convert(tmp_path, tmp_path / "models")
    (done,) = convert(tmp_path, tmp_path / "models", image_size=96)
    assert done.variant == "mobilenet_v1_025_96"


def test_a_multiplier_that_keras_applications_lacks(quick_save, tmp_path):
    """Below 0.25, Slim's V1 keeps 8 channels and keras.applications does not."""
    variant = Variant("mobilenet_v1", 0.2, 32)
    bundle.write(tmp_path / "model.ckpt", slim_values(variant, None))
    (done,) = convert(tmp_path, tmp_path / "models", variant=variant.name)
    assert done.parity["reference"] is None
    assert done.parity["largest_difference"] is None


@pytest.mark.parametrize("step", ["saving", "verifying"])
def test_nothing_half_written(quick_save, trained, tmp_path, monkeypatch, step):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    where = (saved_model.Writer, "write") if step == "saving" else (verify.Original, "compare")
    monkeypatch.setattr(*where, fail)
    with pytest.raises(ConvertError, match="feature_vector cannot be written: No space left"):
        convert(trained[0], tmp_path / "models")
    assert not any((tmp_path / "models").iterdir())


@pytest.mark.slow
def test_verifying_again_gives_the_same_figures(converted):
    for done in converted[1]:
        assert verify_module(done.directory).parity == done.parity


@pytest.fixture
def copied(converted, tmp_path):
    directory = tmp_path / "module"
    shutil.copytree(converted[1][0].directory, directory)
    return directory


def test_verifying_against_another_checkpoint(copied, tmp_path):
    bundle.write(tmp_path / "x.ckpt", slim_values(Variant("mobilenet_v1", 0.25, 64), 7, seed=1))
    with pytest.raises(ConvertError, match="is not the checkpoint that"):
        verify_module(copied, tmp_path / "x.ckpt")


@pytest.mark.parametrize("parity", [None, "{", "[]", '{"source": "x"}'])
def test_verifying_what_is_no_module(parity, tmp_path):
    if parity:
        (tmp_path / "parity.json").write_text(parity)
    with pytest.raises(ConvertError, match="is not a converted module"):
        verify_module(tmp_path)


@pytest.mark.parametrize("kind", first_fast(["classification", "feature_vector"]))
def test_modules_for_serving_lie_beside_and_are_verified(trained, tmp_path, kind):
    (done,) = convert(trained[0], tmp_path, kinds=[kind], serving=True)
    assert done.directory == str(tmp_path / "mobilenet_v1_025_64" / f"{kind}-serving")
    assert saved_model.is_serving(done.directory)
    assert done.parity["variables"] == 0
    assert done.parity["largest_difference"] < 1e-4 * done.parity["largest_output"]
    (again,) = convert(trained[0], tmp_path, kinds=[kind], serving=True)
    assert not again.written
    verified = verify_module(done.directory)
    assert verified.parity == done.parity


def test_a_wrong_module_for_serving_is_noticed(trained, tmp_path, monkeypatch):
    right = saved_model.Writer

    def wrong(arguments, values, trainable):
        assert not trainable
        beta = "MobilenetV1/Conv2d_13_pointwise/BatchNorm/beta"
        return right(arguments, {**values, beta: values[beta] + 0.01}, trainable=False)

    monkeypatch.setattr(saved_model, "Writer", wrong)
    with pytest.raises(ConvertError, match=r"does not agree with keras\.applications"):
        convert(trained[0], tmp_path, kinds=["feature_vector"], serving=True)
    assert not list(tmp_path.iterdir())
