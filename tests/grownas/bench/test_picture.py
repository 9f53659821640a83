from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from grownas.bench import picture
from grownas.errors import DataError


def test_an_svg_holds_every_setting_and_peer(make_row, make_results, tmp_path):
    path = tmp_path / "a.svg"
    whole = make_results(make_row("supernet T20 B32"), make_row("derived T35 B20"))
    picture.choose_drawer(path)(whole)
    first = path.read_bytes()
    texts = ["".join(one.itertext()) for one in ET.fromstring(first).iter("{http://www.w3.org/2000/svg}text")]
    assert {"supernet T20 B32", "derived T35 B20", "reference", "torch", "nn.LSTM", "nn.GRU"} <= set(texts)
    picture.draw(whole, path=path)
    assert path.read_bytes() == first  # no date, no random names
    assert [one.name for one in tmp_path.iterdir()] == ["a.svg"]


def test_a_png_is_one(make_row, make_results, tmp_path):
    path = tmp_path / "a.png"
    picture.choose_drawer(path)(make_results(make_row()))
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("name", ["a.jpg", "a"])
def test_another_suffix_is_an_error(tmp_path, name):
    with pytest.raises(DataError, match=r"expected a picture with suffix \.svg, \.png, got"):
        picture.choose_drawer(tmp_path / name)
