"""The reusable SavedModel: what is written, what is refused, and the way back."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from closeness import assert_equal_values, values_of
from refusals import refused
from tiers import first_fast

import mobilenets
from mobilenets import MobileNet, MobileNetError, Variant
from mobilenets.saved_model import Writer
from mobilenets.weights import WeightsError

Images = Callable[..., np.ndarray]
Module = Callable[..., Path]
Randomise = Callable[..., MobileNet]

V1, V2 = "mobilenet_v1", "mobilenet_v2"
both_families = pytest.mark.parametrize("family", first_fast([V1, V2]))
both_kinds = pytest.mark.parametrize(
    "num_classes", first_fast([7, None]), ids=["classification", "feature_vector"]
)
SCOPES = {V1: "MobilenetV1", V2: "MobilenetV2"}


@pytest.fixture(scope="module")
def loaded(module: Module) -> Callable[..., Any]:
    """Modules as TensorFlow loads them; the tests do not train these."""
    modules: dict[tuple[str, int | None], Any] = {}

    def loaded(family: str, num_classes: int | None = None) -> Any:
        key = family, num_classes
        if key not in modules:
            modules[key] = tf.saved_model.load(str(module(family, num_classes)))
        return modules[key]

    return loaded


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@both_families
@both_kinds
def test_native_round_trip(
    family: str,
    num_classes: int | None,
    module: Module,
    randomise: Randomise,
    random_images: Images,
) -> None:
    model = mobilenets.load(module(family, num_classes))
    original = randomise(MobileNet(model.variant, num_classes))
    assert model.variant == Variant(family, {V1: 0.25, V2: 0.35}[family], 64)
    assert model.get_config() == original.get_config()
    assert_equal_values(model, original)
    images = random_images(2, 64)
    np.testing.assert_array_equal(model(images), original(images))
    assert len(model.trainable_variables) == len(original.trainable_variables) > 0


def test_load_options(module: Module, random_images: Images) -> None:
    model = mobilenets.load(module(V1), trainable=False, batch_norm_momentum=0.9)
    assert model.trainable_variables == []
    assert model.batch_norm_momentum == 0.9
    before = values_of(model)
    model(random_images(2, 32), training=True)
    after = values_of(model)
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)


NAMED = ("background", "tench, Tinca tinca", "crème brûlée")


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory, untraced: Callable) -> Path:
    """A module with class names and settings, written where text is Latin-1 by default."""
    write_text = Path.write_text

    def latin_1_by_default(path: Path, data: str, encoding: str = "latin-1", **kwargs) -> int:
        return write_text(path, data, encoding=encoding, **kwargs)

    model = MobileNet(
        "mobilenet_v1_033_80",
        class_names=list(NAMED),
        batch_norm_momentum=0.9,
        dropout_rate=0.25,
        name="mine",
    )
    folder = tmp_path_factory.mktemp("named") / "module"
    with untraced(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_text", latin_1_by_default)
        mobilenets.save(model, folder)
    return folder


def test_settings_survive(named: Path) -> None:
    again = mobilenets.load(str(named))
    assert again.variant == Variant("mobilenet_v1", 0.33, 80)
    assert again.class_names == NAMED
    assert (again.batch_norm_momentum, again.dropout_rate) == (0.9, 0.25)


def test_load_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent: no such folder"):
        mobilenets.load(tmp_path / "absent")


def test_load_needs_one_of_our_modules(tmp_path: Path) -> None:
    tf.saved_model.save(tf.Module(), str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"was not written by mobilenets\.save") as caught:
        mobilenets.load(tmp_path / "other")
    assert str(tmp_path / "other") in str(caught.value)
    assert "hub.KerasLayer" in str(caught.value)


@pytest.fixture(scope="module")
def unchanged() -> MobileNet:
    return MobileNet("mobilenet_v1_025_64")


@pytest.mark.parametrize("other", ["folder", "file", "saved_model"])
def test_save_refuses_to_replace_something_else(
    other: str, unchanged: MobileNet, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    if other == "file":
        target.write_text("precious")
    elif other == "folder":
        target.mkdir()
        (target / "precious.txt").write_text("precious")
    else:
        tf.saved_model.save(tf.Module(), str(target))
    before = files(tmp_path)
    with pytest.raises(FileExistsError, match="holds something that is not a MobileNet module"):
        mobilenets.save(unchanged, target)
    assert files(tmp_path) == before
    assert os.listdir(tmp_path) == ["target"]


def test_save_takes_nothing_but_a_mobilenet(tmp_path: Path) -> None:
    model = keras.Sequential([MobileNet("mobilenet_v1_025_64")])
    with pytest.raises(TypeError, match="takes a MobileNet; got Sequential: give the MobileNet"):
        mobilenets.save(model, tmp_path / "module")
    assert not list(tmp_path.iterdir())


def test_save_makes_parents_and_takes_empty_folders(
    quick_save: None, unchanged: MobileNet, tmp_path: Path
) -> None:
    """Others may read what it makes."""
    target = tmp_path / "a" / "b" / "module"
    mask = os.umask(0o022)
    try:
        mobilenets.save(unchanged, target)
    finally:
        os.umask(mask)
    if os.name == "posix":
        assert target.stat().st_mode & 0o777 == 0o755
    empty = tmp_path / "empty"
    empty.mkdir()
    mobilenets.save(unchanged, str(empty))
    for folder in (target, empty):
        assert (folder / "saved_model.pb").is_file()
        assert os.listdir(folder.parent).count(folder.name) == 1
    assert sorted(os.listdir(tmp_path)) == ["a", "empty"]


def test_save_replaces_an_older_module(
    quick_save: None, named: Path, randomise: Randomise, tmp_path: Path
) -> None:
    target = tmp_path / "module"
    shutil.copytree(named, target)
    new = randomise(MobileNet("mobilenet_v1_025_96"))
    mobilenets.save(new, target)
    again = mobilenets.load(target)
    assert again.variant == new.variant
    assert_equal_values(again, new)
    assert not any("class_names" in name for name in files(target))
    assert os.listdir(tmp_path) == ["module"]


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (RuntimeError("interrupted"), RuntimeError, "interrupted"),
        (KeyboardInterrupt(), KeyboardInterrupt, ""),
        (OSError(28, "No space left on device"), OSError, "No space left on device"),
        (
            tf.errors.ResourceExhaustedError(None, None, "/x/y; No space left on device"),
            OSError,
            "No space left on device: '.*module'",
        ),
    ],
    ids=["error", "interrupt", "disk-full", "disk-full-in-tensorflow"],
)
@pytest.mark.parametrize("replacing", [False, True], ids=["new", "replacing"])
def test_nothing_is_left_half_written(
    error: BaseException,
    expected: type[BaseException],
    message: str,
    replacing: bool,
    named: Path,
    unchanged: MobileNet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = tmp_path / "module"
    if replacing:
        shutil.copytree(named, target)
    before = files(tmp_path)

    def fail_midway(module: Any, directory: str, **kwargs) -> None:
        (Path(directory) / "saved_model.pb").write_bytes(b"half")
        raise error

    monkeypatch.setattr(tf.saved_model, "save", fail_midway)
    with pytest.raises(expected, match=message):
        mobilenets.save(unchanged, target)
    assert files(tmp_path) == before
    assert os.listdir(tmp_path) == (["module"] if replacing else [])


@pytest.mark.parametrize(
    ("family", "policy", "globally"),
    first_fast([(V1, "mixed_bfloat16", False), (V2, "mixed_bfloat16", True)], count=0),
    ids=["argument", "global-policy"],
)
def test_modules_are_float32_and_wholly_trainable(
    family: str,
    policy: str,
    globally: bool,
    randomise: Randomise,
    module: Module,
    random_images: Images,
    tmp_path: Path,
) -> None:
    variant = Variant(family, {V1: 0.25, V2: 0.35}[family], 64)
    if globally:
        keras.config.set_dtype_policy(policy)
    try:
        model = randomise(MobileNet(variant, **({} if globally else {"dtype": policy})))
        model.trainable = False
        model.blocks[2].trainable = True
        trainable = [variable.path for variable in model.trainable_variables]
        mobilenets.save(model, tmp_path / "module")
    finally:
        keras.config.set_dtype_policy("float32")
    assert [variable.path for variable in model.trainable_variables] == trainable
    assert model.dtype_policy.name == policy

    written = tf.saved_model.load(str(tmp_path / "module"))
    plain = tf.saved_model.load(str(module(family)))
    assert {variable.dtype for variable in written.variables} == {tf.float32}
    for ours, theirs in (
        (written.variables, plain.variables),
        (written.trainable_variables, plain.trainable_variables),
    ):
        assert [variable.name for variable in ours] == [variable.name for variable in theirs]
    images = random_images(4, 64)
    for training in (False, True):
        outputs = written(images, training)
        assert outputs.dtype == tf.float32
        np.testing.assert_array_equal(outputs, plain(images, training))
    for ours, theirs in zip(written.variables, plain.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.name)


def test_save_does_not_change_the_model(
    quick_save: None, randomise: Randomise, tmp_path: Path
) -> None:
    model = randomise(MobileNet("mobilenet_v1_025_64", 3))
    before = values_of(model)
    mobilenets.save(model, tmp_path / "module")
    for name, value in values_of(model).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


@both_families
def test_save_of_a_model_inside_a_scope(family: str, quick_save: None, tmp_path: Path) -> None:
    """Names are Slim's wherever the model is saved."""
    with tf.name_scope("enclosing"), keras.name_scope("enclosing"):
        model = MobileNet(Variant(family, {V1: 0.25, V2: 0.35}[family], 64), 3, name="mine")
        mobilenets.save(model, tmp_path / "module")
    written = tf.saved_model.load(str(tmp_path / "module"))
    assert [v.name for v in written.variables] == [f"{name}:0" for name in model.slim_variables]


@both_families
@both_kinds
def test_variables(family: str, num_classes: int | None, loaded: Callable[..., Any]) -> None:
    module = loaded(family, num_classes)
    model = MobileNet(Variant(family, {V1: 0.25, V2: 0.35}[family], 64), num_classes)
    names = [f"{name}:0" for name in model.slim_variables]
    assert [variable.name for variable in module.variables] == names
    assert len(set(names)) == len(names)
    assert [variable.name for variable in module.trainable_variables] == [
        name for name in names if "/moving_" not in name
    ]
    assert (
        names[:6]
        == {
            V1: [
                "MobilenetV1/Conv2d_0/weights:0",
                "MobilenetV1/Conv2d_0/BatchNorm/gamma:0",
                "MobilenetV1/Conv2d_0/BatchNorm/beta:0",
                "MobilenetV1/Conv2d_0/BatchNorm/moving_mean:0",
                "MobilenetV1/Conv2d_0/BatchNorm/moving_variance:0",
                "MobilenetV1/Conv2d_1_depthwise/depthwise_weights:0",
            ],
            V2: [
                "MobilenetV2/Conv/weights:0",
                "MobilenetV2/Conv/BatchNorm/gamma:0",
                "MobilenetV2/Conv/BatchNorm/beta:0",
                "MobilenetV2/Conv/BatchNorm/moving_mean:0",
                "MobilenetV2/Conv/BatchNorm/moving_variance:0",
                "MobilenetV2/expanded_conv/depthwise/depthwise_weights:0",
            ],
        }[family]
    )
    assert (
        names[-1]
        == {
            (V1, None): "MobilenetV1/Conv2d_13_pointwise/BatchNorm/moving_variance:0",
            (V2, None): "MobilenetV2/Conv_1/BatchNorm/moving_variance:0",
            (V1, 7): "MobilenetV1/Logits/Conv2d_1c_1x1/biases:0",
            (V2, 7): "MobilenetV2/Logits/Conv2d_1c_1x1/biases:0",
        }[family, num_classes]
    )


@both_families
def test_regularization_losses(family: str, loaded: Callable[..., Any]) -> None:
    module = loaded(family, 7)
    kernels = [v.numpy() for v in module.trainable_variables if v.name.endswith("/weights:0")]
    losses = [float(loss()) for loss in module.regularization_losses]
    assert len(losses) == {V1: 15, V2: 36}[family]
    np.testing.assert_allclose(
        losses, [4e-5 * np.square(k.astype(np.float64)).sum() / 2 for k in kernels], rtol=1e-6
    )


@both_families
def test_traces(family: str, loaded: Callable[..., Any]) -> None:
    """The default size comes first, where TF Hub's make_image_classifier looks for it."""
    functions = loaded(family).__call__.concrete_functions
    first, *others = functions
    (images, *_), _ = first.structured_input_signature
    assert images == tf.TensorSpec([None, 64, 64, 3], tf.float32, name="inputs")
    signatures = set()
    for function in others:
        arguments, keywords = function.structured_input_signature
        assert keywords == {}
        images, training, return_endpoints, momentum = arguments
        assert images == tf.TensorSpec([None, None, None, 3], tf.float32, name="inputs")
        assert momentum == tf.TensorSpec([], tf.float32, name="batch_norm_momentum")
        signatures.add((training, return_endpoints))
    assert signatures == {(False, False), (False, True), (True, False), (True, True)}
    assert len(functions) == 5


@both_families
def test_order_of_the_arguments(
    family: str, loaded: Callable[..., Any], module: Module, random_images: Images
) -> None:
    """Inputs, training, return_endpoints, batch_norm_momentum."""
    images = random_images(2, 40)
    names = ["inputs", "training", "return_endpoints", "batch_norm_momentum"]
    spec = loaded(family).__call__.function_spec.fullargspec
    assert [name for name in spec.args if name != "self"] == names
    assert spec.defaults == (False, False, 0.99)

    model = mobilenets.load(module(family))
    written = tf.saved_model.load(str(module(family)))
    outputs = written(images, False, True)
    assert isinstance(outputs, dict)
    assert not isinstance(written(images, False, False), dict)
    trained = written(images, True, False, 0.5)
    np.testing.assert_allclose(
        trained, model(images, training=True, batch_norm_momentum=0.5), rtol=0, atol=1e-4
    )
    for variable, expected in zip(written.variables, values_of(model).values(), strict=True):
        np.testing.assert_allclose(variable, expected, rtol=1e-4, atol=1e-4)


@both_families
@both_kinds
@pytest.mark.parametrize("size", [(64, 64), (33, 50)], ids=["default-size", "33x50"])
def test_outputs_are_the_models(
    family: str,
    num_classes: int | None,
    size: tuple[int, int],
    loaded: Callable[..., Any],
    module: Module,
    random_images: Images,
) -> None:
    images = random_images(2, *size)
    model = mobilenets.load(module(family, num_classes))
    written = loaded(family, num_classes)
    outputs = written(images, return_endpoints=True)
    expected = model(images, return_endpoints=True)
    assert set(outputs) == set(expected)
    for name, value in expected.items():
        scale = float(tf.reduce_max(tf.abs(value)))
        np.testing.assert_allclose(outputs[name], value, rtol=0, atol=5e-5 * scale, err_msg=name)
    scale = float(tf.reduce_max(tf.abs(expected["default"])))
    np.testing.assert_allclose(written(images), expected["default"], rtol=0, atol=5e-5 * scale)


@both_families
@both_kinds
def test_signatures(
    family: str, num_classes: int | None, loaded: Callable[..., Any], random_images: Images
) -> None:
    module = loaded(family, num_classes)
    images = tf.constant(random_images(2, 48, 39))
    endpoints = module(images, return_endpoints=True)
    features = tf.squeeze(endpoints[f"{SCOPES[family]}/global_pool"], [1, 2])
    expected = {"image_feature_vector": features, "serving_default": features}
    if num_classes:
        logits = endpoints["default"]
        expected |= {"image_classification": logits, "serving_default": logits}
    assert set(module.signatures) == set(expected)
    for name, value in expected.items():
        signature = module.signatures[name]
        ((), keywords) = signature.structured_input_signature
        assert keywords == {
            "images": tf.TensorSpec([None, None, None, 3], tf.float32, name="images")
        }
        assert set(signature.structured_outputs) == {"default"}
        assert signature.structured_outputs["default"].shape.as_list() == [None, value.shape[1]]
        scale = float(tf.reduce_max(tf.abs(value)))
        np.testing.assert_allclose(
            signature(images)["default"], value, rtol=0, atol=5e-5 * scale, err_msg=name
        )


def test_class_names_are_an_asset(named: Path, tmp_path: Path) -> None:
    shutil.copytree(named, tmp_path / "moved")
    written = tf.saved_model.load(str(tmp_path / "moved"))
    path = Path(written.class_names.asset_path.numpy().decode())
    assert path == tmp_path / "moved" / "assets" / "class_names.txt"
    assert path.read_text(encoding="utf-8").splitlines() == list(NAMED)


def test_unnamed_classes_have_no_asset(module: Module, loaded: Callable[..., Any]) -> None:
    assert not hasattr(loaded(V1, 7), "class_names")
    assert not (module(V1, 7) / "assets" / "class_names.txt").exists()


def damaged(change: Callable[[dict[str, Any]], None], module: Path, tmp_path: Path) -> Path:
    """A copy of a module with a changed configuration."""
    copy = tmp_path / "module"
    shutil.copytree(module, copy)
    file = copy / "assets.extra" / "mobilenet.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("variant"), "it has no variant"),
        (lambda c: c.update(variant=7), "it has no variant"),
        (lambda c: c["variant"].update(family="mobilenet_v9"), "family must be one of"),
        (lambda c: c["variant"].update(image_size="x"), "mobilenet.json is damaged"),
        (lambda c: c["variant"].update(depth_multiplier=float("nan")), "depth_multiplier must be"),
        (lambda c: c["variant"].update(more=1), "more"),
        (lambda c: c.update(batch_norm_momentum=2), r"must be in \[0, 1\]"),
        (lambda c: c.update(dropout_rate="x"), "mobilenet.json is damaged"),
        (lambda c: c.update(num_classes=10**12), "speaks of 1000000000000 classes; there are 7"),
        (lambda c: c.update(num_classes=None), "speaks of None classes; there are 7"),
        (lambda c: c.update(class_names=["a"] * 6), "speaks of 6 classes; there are 7"),
        (lambda c: c.update(class_names="a"), "class_names must be a list"),
        (lambda c: c.update(no_such=1), "mobilenet.json is damaged .*no_such"),
        (lambda c: c.update(trainable=True), "mobilenet.json is damaged .*trainable"),
        (lambda c: c["variant"].update(depth_multiplier=9.99), "expected depth multiplier 9.99"),
    ],
)
def test_a_damaged_configuration_is_refused(
    change: Callable, message: str, module: Module, tmp_path: Path
) -> None:
    with refused(message, MobileNetError):
        mobilenets.load(damaged(change, module(V1, 7), tmp_path))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000], ids=["", "{", "list", "utf-8", "deep"]
)
def test_a_configuration_that_is_none_is_refused(
    content: bytes, module: Module, tmp_path: Path
) -> None:
    folder = damaged(lambda config: None, module(V1, 7), tmp_path)
    (folder / "assets.extra" / "mobilenet.json").write_bytes(content)
    with refused("mobilenet.json is damaged", MobileNetError):
        mobilenets.load(folder)


def test_damaged_variables_are_refused(module: Module, tmp_path: Path) -> None:
    folder = damaged(lambda config: None, module(V1, 7), tmp_path)
    data = folder / "variables" / "variables.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[1000] ^= 1
    data.write_bytes(content)
    with refused("cannot read .*: the data file is incomplete or damaged"):
        mobilenets.load(folder)


@pytest.mark.parametrize("trainable", [True, False], ids=["trainable", "for serving"])
def test_variables_that_are_not_finite_are_not_saved(trainable: bool, tmp_path: Path) -> None:
    model = MobileNet(Variant(V1, 0.25, 64))
    model.convolutions[3].batch_norm.moving_mean.assign([np.nan] + [0] * 15)
    with pytest.raises(ValueError, match=r"^1 of 135 variables .* is MobilenetV1/Conv2d_2_dep"):
        mobilenets.save(model, tmp_path / "module", trainable=trainable)
    assert not list(tmp_path.iterdir())


def test_variables_that_are_not_finite_are_refused(quick_save: None, tmp_path: Path) -> None:
    model = MobileNet(Variant(V1, 0.25, 64))
    values = {name: variable.numpy() for name, variable in model.slim_variables.items()}
    values["MobilenetV1/Conv2d_0/BatchNorm/gamma"][:] = np.nan
    Writer({"variant": model.get_config()["variant"]}, values).write(tmp_path / "module")
    with pytest.raises(WeightsError, match="8 of 8 values NaN or infinite"):
        mobilenets.load(tmp_path / "module")
