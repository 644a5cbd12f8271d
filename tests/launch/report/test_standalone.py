"""Drawings as a file of their own: well-formed, self-contained, with every value in a bar."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from launch.report.figures import histogram
from launch.report.standalone import svg

SVG = "{http://www.w3.org/2000/svg}"


def test_a_histogram_stands_alone() -> None:
    values = [1.0] * 30 + [2.0] * 60 + [9.0] * 10
    drawing = histogram(values, "days", "a distribution", [("median", 2.0), ("95 %", 9.0)])
    text = svg("70B <on> 8 GPUs", [("Days", drawing), ("Again", drawing)])
    root = ElementTree.fromstring(text)
    assert "url(" not in text and "@import" not in text
    assert float(root.attrib["height"]) > 2 * drawing.height
    said = [one.text for one in root.iter(f"{SVG}text")]
    assert said[0] == "70B <on> 8 GPUs" and "median 2" in said and "95 % 9" in said
    groups = list(root.iter(f"{SVG}g"))
    bars = list(groups[0].iter(f"{SVG}rect"))
    assert [one.find(f"{SVG}title").text for one in bars] == ["30.0%", "60.0%", "10.0%"]  # type: ignore[union-attr]
    assert all(0 <= float(one.attrib["x"]) <= drawing.width for one in bars)


def test_values_that_are_all_alike_are_one_bar() -> None:
    assert sum(shape.tag == "rect" for shape in histogram([5.0] * 9, "", "", []).shapes) == 1
