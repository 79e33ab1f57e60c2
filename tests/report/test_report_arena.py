"""The memory that a microcontroller's runtime needs stands in the row of each file."""

from __future__ import annotations

import dataclasses

from report_samples import passing_report

from edgeconv.report import from_json, to_html, to_json


def test_arena_of_each_row_in_json_and_on_the_page() -> None:
    report = passing_report()
    assert ">Arena<" not in to_html(report)
    rows = [
        dataclasses.replace(row, arena_bytes=17_440 + index) if index in (2, 4) else row
        for index, row in enumerate(report.comparisons)
    ]
    report = dataclasses.replace(report, comparisons=tuple(rows))
    page = to_html(report)
    assert page.count('data-label="Arena"') == len(rows)
    assert "17,442 bytes" in page
    assert "17,444 bytes" in page
    assert [row.arena_bytes for row in from_json(to_json(report)).comparisons] == [row.arena_bytes for row in rows]
