"""Features of many images on Ray Data, as Parquet files; its test runs it.

    pip install 'ray[data]'
    python examples/ray_features.py MODULE IMAGES OUTPUT [WORKERS]

MODULE is anything that `mobilenets.load` takes, IMAGES a folder that is searched recursively.
OUTPUT becomes a folder of Parquet files with a row for each image: `file`, `features`, and `error`
if the image cannot be read; the features or the error are null.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import ray

SUFFIXES = ["bmp", "gif", "jpeg", "jpg", "png"]
BATCH = 32


class Features:
    """A worker: a process that loads the module once and is then given batches of files."""

    def __init__(self, module: str) -> None:
        # Here, because the process that hands out the work needs no TensorFlow.
        import tensorflow as tf

        # A worker has one core; Ray starts as many as there are.
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        import mobilenets

        self.load = mobilenets.images.load
        model = mobilenets.load(module).with_classes()
        self.size = model.variant.image_size
        spec = tf.TensorSpec([None, self.size, self.size, 3])
        self.network = tf.function(lambda images: model(images, training=False), [spec])

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        images = np.zeros((len(batch["bytes"]), self.size, self.size, 3), np.float32)
        errors: list[str | None] = [None] * len(images)
        for i, content in enumerate(batch["bytes"]):
            try:
                images[i] = self.load(bytes(content), self.size)
            except ValueError as error:
                errors[i] = str(error)
        features = self.network(images).numpy()
        unread = np.array([error is not None for error in errors])
        # With types of Parquet's own, which are the same in every batch.
        return pa.table(
            {
                "file": pa.array(batch["path"], pa.string()),
                "features": pa.FixedSizeListArray.from_arrays(
                    features.ravel(), features.shape[1], mask=pa.array(unread)
                ),
                "error": pa.array(errors, pa.string()),
            }
        )


def run(module: str, images: str, output: str, workers: int, worker: type) -> None:
    """Writes the features. Ray replaces a worker that dies, and computes its batch again."""
    files = ray.data.read_binary_files(images, include_paths=True, file_extensions=SUFFIXES)
    features = files.map_batches(
        worker,
        fn_constructor_args=(module,),
        batch_size=BATCH,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
    features.write_parquet(output)


def main(arguments: Sequence[str], worker: type = Features) -> None:
    module, images, output, *workers = arguments
    count = int(workers[0]) if workers else 2
    # Here: one machine, with a core to read and write. On a cluster: ray.init(), which finds it.
    ray.init(num_cpus=count + 1, include_dashboard=False)
    run(module, images, output, count, worker)


if __name__ == "__main__":
    main(sys.argv[1:])
