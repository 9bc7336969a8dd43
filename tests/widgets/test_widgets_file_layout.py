"""The byte map: bytes, fields and regions choose each other."""

from __future__ import annotations

import pytest

pytest.importorskip("ipywidgets")

from llmlite import plots, widgets


@pytest.fixture()
def explorer() -> widgets.Explorer:
    return widgets.byte_map("tales")


def test_a_clicked_byte_tells_its_field(explorer: widgets.Explorer) -> None:
    explorer.cells[9].click()
    assert explorer.map.fields[explorer.field].name == "n_tensors"
    assert "n_tensors, bytes 8 to 15, type i64: 47." in explorer.words.value
    assert "struct.unpack(&quot;&lt;q&quot;, data[8:16])" in explorer.view.value


def test_a_field_shows_its_bytes_and_only_those_are_outlined(explorer: widgets.Explorer) -> None:
    explorer.forward.click()
    mine = [i for i, cell in enumerate(explorer.cells) if "llmlite-mine" in cell._dom_classes]
    assert mine == [4, 5, 6, 7]
    assert [explorer.cells[i].description for i in mine] == ["03", "00", "00", "00"]
    explorer.back.click()
    explorer.back.click()  # there is nothing before the first
    assert explorer.field == 0


def test_a_region_and_a_byte_far_away_move_the_window(explorer: widgets.Explorer) -> None:
    explorer.region.value = "tensor data"
    assert explorer.map.region(explorer.field) == "tensor data"
    assert explorer.top <= explorer.map.fields[explorer.field].offset < explorer.top + len(explorer.cells)
    last = len(explorer.map.data) - 1
    explorer.offset.value = last
    assert explorer.field == explorer.map.at(last)
    assert explorer.cells[-1].disabled or explorer.top + len(explorer.cells) == last + 1
    assert explorer.region.value == explorer.map.region(explorer.field)


def test_without_a_kernel_the_first_fields_stay_as_a_table(explorer: widgets.Explorer) -> None:
    table = explorer.static_view()
    assert table.rows[0][:3] == ["0", "47 47 55 46", "magic"]
    data = explorer.static_bundle()
    assert plots.MIME in data and "<table" in data["text/html"]


def test_the_regions_are_a_picture() -> None:
    picture = plots.file_layout.regions(widgets.byte_map("tales").map)
    assert "tensor data" in picture.alt and sum(picture.y["bytes"]) == 8987360
