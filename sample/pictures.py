"""The figures of the notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from mobilenets.images import decode_predictions

__all__ = ["activations", "bars", "confusion", "curves", "images", "predictions", "scatter"]

_INK, _WRONG = "#222222", "#c1121f"
_COLORS = ("#0b6e99", "#d9730d", "#6b6b6b", "#7a5195")


def images(images: np.ndarray, titles: Sequence[str]) -> Figure:
    """A row of images with a title each."""
    figure, axes = plt.subplots(
        1, len(images), figsize=(1.1 * len(images), 1.4), layout="constrained", squeeze=False
    )
    for axis, image, title in zip(axes.flat, images, titles, strict=True):
        axis.imshow(image)
        axis.set_title(title, fontsize=9, color=_INK)
        axis.set_axis_off()
    return _done(figure)


def curves(accuracies: Mapping[str, Sequence[float]], switch: int) -> Figure:
    """Accuracy on held-out images after each epoch of several runs.

    Args:
      accuracies: In [0, 1], by name.
      switch: After how many epochs the first run goes from frozen features to fine-tuning.
    """
    figure, axis = plt.subplots(figsize=(7.5, 3.4), layout="constrained")
    axis.axvline(switch + 0.5, color="#999999", linewidth=1, linestyle=":")
    axis.text(switch + 0.6, 2, "fine-tuning", fontsize=9, color="#666666")
    axis.text(switch + 0.4, 2, "frozen", fontsize=9, color="#666666", ha="right")
    longest = 0
    for (name, values), color, marker in zip(accuracies.items(), _COLORS, "os^D", strict=False):
        # Runs that were not frozen begin where the first one was thawed: epochs below each other.
        start = 1 if longest == 0 else switch + 1
        epochs = np.arange(start, start + len(values))
        axis.plot(epochs, 100 * np.asarray(values), color=color, marker=marker, ms=5, label=name)
        longest = max(longest, int(epochs[-1]))
    axis.set_xticks(range(1, longest + 1))
    axis.set(xlabel="epoch", ylabel="held-out images\nrecognised (%)", ylim=(0, 102))
    axis.grid(axis="y", color="#dddddd", linewidth=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _done(figure)


def bars(values: Mapping[str, float], label: str) -> Figure:
    """Horizontal bars of shares in [0, 1], with their figures."""
    figure, axis = plt.subplots(figsize=(7, 0.34 * len(values) + 0.8), layout="constrained")
    percent = [100 * value for value in values.values()]
    drawn = axis.barh(list(values), percent, color=_COLORS[0], height=0.7)
    axis.bar_label(drawn, fmt="%.1f", padding=3, color=_INK, fontsize=9)
    axis.invert_yaxis()
    axis.set(xlabel=label, xlim=(0, 108))
    axis.spines[["top", "right"]].set_visible(False)
    return _done(figure)


def confusion(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> Figure:
    """How many images of each class were taken for which."""
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (labels, predicted), 1)
    size = 0.55 * len(names) + 1.6
    figure, axis = plt.subplots(figsize=(size + 0.4, size), layout="constrained")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "white" if shares[row, column] > 0.5 else _WRONG if row != column else _INK
            axis.text(column, row, str(count), ha="center", va="center", color=color)
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="predicted", ylabel="true class")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return _done(figure)


def predictions(
    images: np.ndarray, labels: np.ndarray, logits: np.ndarray, names: Sequence[str]
) -> Figure:
    """The sixteen images whose class the network finds least probable, worst first."""
    best = [first for (first,) in decode_predictions(logits, 1, names)]
    margins = logits - logits[np.arange(len(labels)), labels][:, np.newaxis]
    margins[np.arange(len(labels)), labels] = -np.inf
    chosen = np.argsort(-margins.max(axis=1), kind="stable")[:16]
    figure, axes = plt.subplots(2, 8, figsize=(9.5, 3.3), layout="constrained")
    for axis, index in zip(axes.flat, chosen, strict=False):
        found, wrong = best[index], best[index].index != labels[index]
        axis.imshow(images[index])
        title = f"{found.name}, {100 * found.probability:.0f} %"
        axis.set_title(
            f"{title}\nis {names[labels[index]]}" if wrong else f"{title}\n",
            fontsize=9,
            color=_WRONG if wrong else _INK,
            fontweight="bold" if wrong else "normal",
        )
    for axis in axes.flat:
        axis.set_axis_off()
    return _done(figure)


def activations(
    image: np.ndarray, endpoints: Mapping[str, np.ndarray], channels: int = 8
) -> Figure:
    """An image, and the channels of some endpoints that vary most over it.

    Args:
      image: `[height, width, 3]`.
      endpoints: By name, `[height, width, channels]` each.
      channels: How many of each are shown.
    """
    figure, axes = plt.subplots(
        len(endpoints),
        channels + 1,
        figsize=(channels + 2.2, 1.05 * len(endpoints)),
        layout="constrained",
        squeeze=False,
    )
    for row, (name, values) in zip(axes, endpoints.items(), strict=True):
        row[0].imshow(image)
        height, width, _ = values.shape
        row[0].set_ylabel(
            f"{name}\n{height} x {width}", fontsize=8, rotation=0, ha="right", va="center"
        )
        chosen = np.argsort(-values.std(axis=(0, 1)), kind="stable")
        for axis, channel in zip(row[1:], chosen, strict=False):
            axis.imshow(values[:, :, channel], cmap="viridis")
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
    return _done(figure)


def scatter(ours: np.ndarray, theirs: np.ndarray, ours_label: str, theirs_label: str) -> Figure:
    """One value against another; on the line they are equal."""
    figure, axis = plt.subplots(figsize=(4.2, 4), layout="constrained")
    limits = [min(ours.min(), theirs.min()) - 0.5, max(ours.max(), theirs.max()) + 0.5]
    axis.plot(limits, limits, color="#bbbbbb", linewidth=1, zorder=0)
    axis.scatter(ours, theirs, s=6, alpha=0.5, color=_COLORS[0], edgecolors="none")
    axis.set(xlabel=ours_label, ylabel=theirs_label, xlim=limits, ylim=limits, aspect="equal")
    axis.spines[["top", "right"]].set_visible(False)
    return _done(figure)


def _done(figure: Figure) -> Figure:
    figure.set_dpi(80)
    # Shown once, as the cell's result.
    plt.close(figure)
    return figure
