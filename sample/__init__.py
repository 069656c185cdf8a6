"""The sample: a small MobileNet of our own, and the handwritten digits that it was trained on.

The notebooks and `make convert-sample` use it; the wheel has it as `mobilenets_sample`.
`CHECKPOINT` is a checkpoint as TF-Slim writes them, of a size that was never published.
`python -m tools.train_sample` trained it on scikit-learn's handwritten digits zero to four; five to
nine are kept for transfer learning.
"""

from pathlib import Path

__all__ = ["CHECKPOINT"]

CHECKPOINT = Path(__file__).with_name("mobilenet_v1_0.25_64.ckpt")
"""The checkpoint's prefix: what `mobilenets.load` and `python -m convert checkpoint` take."""
