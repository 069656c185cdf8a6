"""Loads a Keras 3 model: recognises the kind of a source and calls its reader."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mobilenets import fetching, names, saved_model, weights
from mobilenets.errors import MobileNetError
from mobilenets.model import MobileNet
from mobilenets.names import NotFoundError
from mobilenets.parts import share
from mobilenets.variants import Variant
from mobilenets.weights import NoMobileNetError, mapping

__all__ = ["NotFoundError", "load", "module"]

# Any size works; this one is the papers', and the most frequent among the published networks.
_IMAGE_SIZE = 224


def load(
    source: str | os.PathLike[str],
    *,
    variant: Variant | str | None = None,
    trainable: bool = True,
    batch_norm_momentum: float | None = None,
    activation_range_momentum: float | None = None,
) -> MobileNet:
    """Loads a native Keras 3 model from a module that `save` wrote or from a MobileNet's weights.

    Weights may be a TF-Slim checkpoint, a TF1 or TF2 hub module, a SavedModel or checkpoint of a
    model with a `hub.KerasLayer`, a Keras file (`.h5`, `.weights.h5`, `.keras`), a frozen graph, or
    a folder of Hugging Face's transformers; the content tells the format. The weights must fill
    every variable of the network; otherwise an error lists what is missing, left over or of another
    shape. As in the published modules, a Slim checkpoint gives the variables themselves for V1, and
    for V2 their moving averages where there are any. The model has logits if the weights do;
    `MobileNet.with_classes` changes that.

    Args:
      source: The name of a published variant, see below; the module's folder; a file of weights, a
        checkpoint's prefix (`run/model.ckpt-1450000`), or a folder that holds one, such as a hub
        module; a `.tar.gz`, `.tgz` or `.tar` of any of these; the `http(s)://` URL of a file, an
        archive or a hub module, fetched once into the cache (`MOBILENETS_CACHE`); or a Hugging
        Face repository, `hf://google/mobilenet_v2_1.0_224`.
      variant: The network of the weights, e.g. `"mobilenet_v2_035_96"`; not allowed with a name.
        None infers it from the names of the file, the archive and the folder, or from the shapes;
        an unknown image size becomes 224.
      trainable: Whether the model's weights are trainable.
      batch_norm_momentum: In [0, 1]: the share of the moving statistics that a training step
        keeps; None takes the saved model's, and 0.99 for a checkpoint.
      activation_range_momentum: In [0, 1], for quantized variants: the share of the activations'
        ranges that a step keeps; None takes the saved model's, and 0.999 for a checkpoint.

    A name is anything that `Variant.parse` takes, unless a file or folder has that name:
    `"mobilenet_v2_035_96"`, `"mobilenet_v1_100_224/quantops"`, a hub handle such as
    `"google/imagenet/mobilenet_v1_025_192/classification/1"`. The model is a classifier unless the
    name ends in `/feature_vector`; it has 1001 classes, `background` first, or 1000 where only
    keras.applications had the weights. The weights come from the cache or from the first place of
    `published.toml` that has them. A `pathlib.Path`, and a string that begins with another folder,
    is always a path.

    Raises:
      FileNotFoundError: Nothing has that name. For a variant's name it is a `NotFoundError`, also a
        MobileNetError, which lists the nearest names.
      OSError: The URL cannot be fetched, or no place has the weights of a name.
      MobileNetError: The source holds neither a module that `save` wrote nor a MobileNet's weights
        (`mobilenets.weights.WeightsError`), is another variant, or cannot be unpacked.
      ValueError: A momentum is not in [0, 1].
    """
    momenta = {
        "batch_norm_momentum": batch_norm_momentum,
        "activation_range_momentum": activation_range_momentum,
    }
    for argument, momentum in momenta.items():
        if momentum is not None:
            share(argument, momentum)
    if named := names.parse(source):
        if variant is not None:
            raise MobileNetError(f"{source} is a name already: leave the variant out")
        name, kind = named
        return _by_name(name, kind or "classification", {"trainable": trainable, **momenta})
    with fetching.local(source) as path:
        if saved_model.is_module(path):
            model = saved_model.read(path, trainable=trainable, **momenta)
            if variant is not None and Variant.parse(variant) != model.variant:
                raise MobileNetError(
                    f"{source} is {model.variant}, not {variant}: leave the variant out"
                )
            return model
        found = _weights(path, source)
        network = found.variant(variant, fallback_image_size=_IMAGE_SIZE)
        values = found.values(network)
    given = {name: momentum for name, momentum in momenta.items() if momentum is not None}
    settings = {**found.settings, **given}
    model = MobileNet(
        network, found.num_classes, found.class_names, trainable=trainable, **settings
    )
    mapping.assign(model, values)
    return model


def module(name: str) -> str:
    """The folder of a published variant's reusable SavedModel, for `hub.KerasLayer`.

        hub.KerasLayer(mobilenets.module("mobilenet_v1_050_160"), trainable=True)

    `hub.KerasLayer` needs tf_keras and tensorflow-hub: `pip install 'mobilenets-tf2[hub]'`. The
    module is made once from `load(name)` and stays in the cache; a mirror's module is fetched
    as it is. It maps images `[batch, height, width, 3]`, RGB float32 in [0, 1], to features or
    logits, float32; see `save`.

    Args:
      name: See `load`. A `feature_vector` unless it ends in `/classification`.

    Returns:
      The folder's path, a str as `hub.KerasLayer` demands. It lies in the cache: do not change it.

    Raises:
      FileNotFoundError: As `load` does.
      OSError: No place has the weights, or the cache cannot be written.
      MobileNetError: As `load` does.
    """
    found = names.parse(name)
    if found is None:
        # An empty path is the working directory.
        if os.fspath(name).strip() and saved_model.is_module(name):
            return os.fspath(name)
        raise NotFoundError(
            f"{os.fspath(name)!r} is neither a published variant's name nor a module's folder"
        )
    variant, kind = found[0], found[1] or "feature_vector"
    # A folder for each format: modules of an earlier version do not fit.
    target = fetching.cache() / "modules" / str(saved_model.FORMAT) / variant / kind
    if saved_model.is_module(target):
        return str(target)
    with fetching.locked(target):
        if not (saved_model.is_module(target) or _mirrored(variant, kind, target)):
            saved_model.save(_by_name(variant, kind, {}), target)
    return str(target)


def _mirrored(variant: str, kind: str, target: Path) -> bool:
    """Fetches a mirror's module to the target; False if that fails, for which `load` says why."""
    for source in fetching.sources(variant, kind):
        if source.what == fetching.MIRROR:
            try:
                archive = fetching.fetch(source)
                # Checked before it moves into place.
                check_module(archive, variant, kind)
                fetching.unpacked(archive, target)
                return True
            except (MobileNetError, OSError):
                return False
    return False


def check_module(archive: str | os.PathLike[str], variant: str, kind: str) -> None:
    """Reads the module in an archive.

    Args:
      archive: A file, see `fetching.unpack`.
      variant: The hub's name that it shall have.
      kind: One of `published.KINDS`, that it shall be.

    Raises:
      MobileNetError: It is none that `save` wrote, another one, or damaged.
    """
    with fetching.local(archive) as folder:
        if not saved_model.is_module(folder):
            raise MobileNetError(f"{archive} holds no module that mobilenets.save wrote")
        try:
            model = saved_model.read(folder)
        except Exception as error:
            # TensorFlow raises many unrelated exception types for damaged files.
            reason = names.reason(error)
            raise MobileNetError(f"{archive} holds a damaged module: {reason}") from error
    if _checked(model, variant, kind) is not model:
        raise MobileNetError(f"{archive} holds a classification, expected a {kind}")


def _by_name(name: str, kind: str, options: dict[str, Any]) -> MobileNet:
    """The model of a published variant, from the first source that has it."""

    def model(origin: names.Origin) -> MobileNet:
        if origin.source.what == fetching.MIRROR:
            check_module(origin.file, name, kind)
        return _checked(load(origin.file, variant=name, **options), name, kind)

    return names.first(name, kind, model)


def _checked(model: MobileNet, name: str, kind: str) -> MobileNet:
    if model.variant.name != name:
        raise MobileNetError(f"it holds {model.variant}")
    if kind == "classification" and model.num_classes is None:
        raise MobileNetError("it has no logits")
    if kind == "feature_vector" and model.num_classes is not None:
        return model.with_classes(None)
    return model


def _weights(path: Path, source: str | os.PathLike[str]) -> weights.Weights:
    if path.is_dir():
        modules = sorted(each.name for each in path.iterdir() if saved_model.is_module(each))
        if modules:
            raise MobileNetError(
                f"{source} holds several modules: name {' or '.join(modules)} in it"
            )
    elif not (path.exists() or any(path.parent.glob(f"{path.name}.*"))):
        raise FileNotFoundError(f"{source}: no such folder, archive or checkpoint")
    try:
        return weights.read(path, os.fspath(source))
    except NoMobileNetError as error:
        if not path.is_dir():
            raise
        reason = str(error).removeprefix(f"{source} ")
        raise NoMobileNetError(
            f"{source} was not written by mobilenets.save and holds no readable weights "
            f"({reason}); hub.KerasLayer loads other SavedModels"
        ) from error
