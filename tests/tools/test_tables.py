"""What the pages say is what the networks are."""

import pytest

from tools import tables


def root(request):
    return request.config.rootpath


def test_the_readme_is_fresh(request):
    text = (root(request) / "README.md").read_text(encoding="utf-8")
    assert tables.readme(text) == text
    assert "| `mobilenet_v2_035_*` | 1.68 M | 1280 | 60.3 % · 59 M |" in text


def test_the_page_of_layers_is_fresh(request):
    text = (root(request) / "docs" / "architectures.md").read_text(encoding="utf-8")
    assert tables.layer_page() == text
    assert "| `Conv2d_13_pointwise` | convolution | 1 x 1 | 1 | 7 x 7 x 1024 | 1,050,624 |" in text


def test_a_readme_without_a_place_for_the_table():
    with pytest.raises(ValueError, match="has no place"):
        tables.readme("# Nothing\n")
