"""The table of published checkpoints agrees with its sources and with itself."""

from __future__ import annotations

import csv
import dataclasses
import re
from pathlib import Path

import pytest

from mobilenets.published import Archive, archives


def test_the_table_is_what_the_reference_data_says(reference_data: Path) -> None:
    source = reference_data / "archives.tsv"
    if not source.is_file():
        pytest.skip(f"no reference data at {source}")
    with source.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert list(archives()) == [row["hub_name"] for row in rows]
    for row in rows:
        assert archives()[row["hub_name"]] == Archive(
            name=row["hub_name"],
            slim_name=row["slim_name"],
            million_macs=int(row["million_macs"]),
            million_parameters=float(row["million_parameters"]),
            top1=float(row["top1"]),
            top5=float(row["top5"]),
            url=row["url"],
            sha256=row["sha256"],
        )


def test_the_table_holds_54_archives_none_twice() -> None:
    table = archives()
    assert len(table) == 54
    assert sum(name.endswith("/quantops") for name in table) == 16
    assert (
        sum(re.fullmatch(r"mobilenet_v[12]_\d{3}_\d{2,3}", name) is not None for name in table)
        == 38
    )
    for field in ("slim_name", "url", "sha256"):
        assert len({getattr(archive, field) for archive in table.values()}) == 54, field


@pytest.mark.parametrize("name", list(archives()))
def test_a_row_agrees_with_itself(name: str) -> None:
    archive = archives()[name]
    assert archive.name == name
    assert re.fullmatch("[0-9a-f]{64}", archive.sha256)
    assert archive.url.rsplit("/", 1)[1] == f"{archive.slim_name}.tgz"
    # The hub writes the multiplier in hundredths, and "/quantops" where Slim has "_quant".
    version, multiplier, size = re.fullmatch(
        r"mobilenet_(v[12])_(\d{3})_(\d+)(?:/quantops)?", name
    ).groups()  # type: ignore[union-attr]
    quant = "_quant" if name.endswith("/quantops") else ""
    assert archive.slim_name == f"mobilenet_{version}_{int(multiplier) / 100}_{size}{quant}"
    assert 0 < archive.top1 < archive.top5 < 100
    for field in dataclasses.fields(Archive):
        assert type(getattr(archive, field.name)).__name__ == field.type, field.name
