"""The sample: a small MobileNet of our own that `make convert-sample` converts and shows.

`mobilenet_v1_0.25_64.ckpt` is a checkpoint as TF-Slim writes them, of a size that was never
published. `python -m sample.train` trained it on scikit-learn's handwritten digits zero
to four; five to nine are kept for transfer learning.
"""
