"""parity.html, as text: escaped, self-contained, accessible, and in words that match the numbers."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from report_samples import (
    REPORTS,
    artifact,
    comparison,
    failing_report,
    hostile_report,
    large_report,
    metrics,
    passing_report,
    skipped,
)

import edgeconv.report
from edgeconv.core import GraphSummary, NodeSummary, SampleResult, Tolerance, Verdict
from edgeconv.report import Report, TargetPoint, TargetSearch, from_json, to_html, to_json
from edgeconv.report import _format as fmt
from edgeconv.report._graph_view import graphs_view
from edgeconv.report._palette import PALETTE
from edgeconv.report._profile_view import log_height
from edgeconv.report._view import page_view

STYLE = (Path(edgeconv.report.__file__).parent / "templates" / "style.css").read_text("utf-8")
VOID = {"meta", "link", "br", "img", "path", "rect", "circle", "line"}


class _Page(HTMLParser):
    """Collects tags with attributes, headings and whether every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.misnested: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID and (not self.open or self.open.pop() != tag):
            self.misnested.append(tag)


def test_markup_is_sound_and_asks_for_nothing(report: Report) -> None:
    page = _Page(to_html(report))
    assert page.misnested == []
    assert page.open == []
    assert ("html", {"lang": "en"}) in page.tags
    names = [name for name, _ in page.tags]
    assert "script" not in names
    assert names.count("h1") == 1
    levels = [int(name[1]) for name in names if re.fullmatch("h[1-6]", name)]
    assert all(after - before <= 1 for before, after in pairwise(levels)), "headings skip a level"
    for name, attributes in page.tags:
        for key in ("src", "href"):
            assert attributes.get(key, "#").startswith(("#", "data:")), (name, attributes)
        assert not any(key.startswith("on") for key in attributes), (name, attributes)
        if name == "th":
            assert attributes.get("scope"), attributes
        if name == "img":
            assert attributes.get("alt")
    assert "url(" not in STYLE
    assert "@import" not in STYLE


def test_links_lead_somewhere_and_ids_are_unique(report: Report) -> None:
    tags = _Page(to_html(report)).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"][1:] for name, attributes in tags if name == "a"}
    assert targets <= set(ids)


def test_names_are_escaped() -> None:
    text = to_html(hostile_report())
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 10
    assert not set(text) & {"\x00", "\x07"}


def test_the_page_of_a_read_report_is_the_same_but_for_the_drawing() -> None:
    first = passing_report()
    without = replace(first, comparisons=tuple(replace(row, picture=None) for row in first.comparisons))
    assert to_html(from_json(to_json(without))) == to_html(without)


@pytest.mark.parametrize(
    ("report", "headline", "says"),
    [
        (
            passing_report(),
            "Ship it",
            "3 files compute what the PyTorch model computes, within tolerance, on 4 devices.",
        ),
        (
            failing_report(),
            "Do not ship",
            "3 of 8 comparisons failed, in digits.fp32.tflite and digits.fp32.nchw.tflite.",
        ),
        (Report(model="m"), "Do not ship", "Nothing was compared, so nothing is known of these files."),
        (
            replace(passing_report(), comparisons=passing_report().comparisons[:5]),
            "Do not ship",
            "No device judged mobile_dsc.fp32.nchw.tflite, so nothing is known of it.",
        ),
    ],
)
def test_the_headline_and_its_statement_tell_the_verdict(report: Report, headline: str, says: str) -> None:
    view = page_view(report)
    assert (view.headline, view.statement) == (headline, says)


def test_cautions_name_what_was_not_judged() -> None:
    rows = (comparison("a.onnx", "onnxruntime", 0.5), skipped("a.tflite", "litert", "it is not installed"))
    view = page_view(Report(model="m", artifacts=(artifact("a.onnx"), artifact("a.tflite")), comparisons=rows))
    assert view.cautions == (
        "a.tflite was not judged on any device.",
        "a.tflite was not run on litert: it is not installed.",
    )


def test_failed_rows_and_the_worst_one_are_open() -> None:
    opened = [row.device for group in page_view(passing_report()).groups for row in group.rows if row.opened]
    assert opened == ["tflite-runtime"]
    failing = [row for group in page_view(failing_report()).groups for row in group.rows]
    assert all(row.opened == (row.verdict is Verdict.FAIL) for row in failing)


def test_many_samples_are_cut_to_the_worst_ones() -> None:
    samples = tuple(SampleResult(f"s{index}", metrics(0.1), index / 400, Verdict.PASS) for index in range(360))
    row = replace(comparison("a.onnx", "onnxruntime", 0.9), samples=samples)
    (view,) = page_view(Report(model="m", comparisons=(row,))).groups[0].rows
    assert (view.samples[0].name, len(view.samples), view.more_samples) == ("s359", 40, 320)


def test_top1_is_a_column_only_where_samples_have_labels() -> None:
    assert '87.5 % <span class="detail">7 of 8</span>' in to_html(failing_report())
    assert "Top-1</th>" not in to_html(passing_report())


def test_a_passing_row_has_no_bar_in_the_color_of_failure() -> None:
    wide = replace(
        passing_report().comparisons[1], tolerance=replace(passing_report().comparisons[1].tolerance, atol=1e-9)
    )
    assert 'class="over"' not in to_html(Report(model="m", comparisons=(wide,)))
    assert 'class="over"' in to_html(failing_report())


def test_large_graphs_keep_the_page_small() -> None:
    text = to_html(large_report())
    assert text.count('<span class="op">') == 1000
    assert len(text) < 1_000_000


def test_what_became_of_each_operator() -> None:
    def node(op: str, name: str, *inputs: str) -> NodeSummary:
        return NodeSummary(op, name, inputs, (1, 8, "height", 4))

    captured = (
        node("Conv", "a.0", "x"),
        node("BatchNormalization", "a.1", "a.0"),
        node("Identity", "a.2", "a.1"),
        node("Relu", "a.3", "a.2"),
    )
    folded = (node("Conv", "a.1", "x"), node("Relu", "a.3", "a.1"), node("Mul", "fresh", "a.3"))
    view = graphs_view((GraphSummary("captured", captured), GraphSummary("folded", folded)))
    assert view is not None
    before, after = view.lists
    assert [node.remark for node in before.nodes] == ["now yields a.1", "folded into Conv", "gone", ""]
    assert [node.remark for node in after.nodes] == ["with BatchNormalization folded in", "", "new"]
    assert {line.op: line.change for line in view.counts} == {
        "Conv": "",
        "Relu": "",
        "BatchNormalization": "−1",
        "Identity": "−1",
        "Mul": "+1",
    }
    assert before.nodes[0].shape == "1×8×height×4"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (fmt.number(4.4e-6), "4.4×10⁻⁶"),
        (fmt.number(1e-5), "10⁻⁵"),
        (fmt.number(-9.996e-7), "−10⁻⁶"),
        (fmt.number(0.0), "0"),
        (fmt.number(0.00525), "0.00525"),
        (fmt.number(12345.6), "12,346"),
        (fmt.number(math.nan), "NaN"),
        (fmt.number(None), "–"),
        (fmt.cosine(1 - 3e-12), "1 − 3×10⁻¹²"),
        (fmt.cosine(-0.5), "−0.5000"),
        (fmt.share(0.999), "99 %"),
        (fmt.share(1.0), "100 %"),
        (fmt.share(1.0001), "1.01 times"),
        (fmt.share(17.5), "17.5 times"),
        (fmt.share(0.0001), "below 1 %"),
        (fmt.percentage(9999, 10000), "99.9 %"),
        (fmt.percentage(360, 360), "100 %"),
        (fmt.size(1_234_567), "1.23 MB (1,234,567 bytes)"),
        (fmt.size(12), "12 bytes"),
        (fmt.decibel(127.44), "127.4"),
        (fmt.milliseconds(0.0101), "10.1 µs"),
        (fmt.milliseconds(26.84), "26.8 ms"),
    ],
)
def test_numbers_are_written_in_the_page_as_people_read_them(text: str, expected: str) -> None:
    assert text == expected


def _luminance(color: tuple[int, int, int]) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(first: str, second: str) -> float:
    low, high = sorted(_luminance((int(c[1:3], 16), int(c[3:5], 16), int(c[5:7], 16))) for c in (first, second))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_that_wcag_aa_asks_for(scheme: str) -> None:
    blocks = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    colors = dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[scheme == "dark"]))
    grounds = [colors[name] for name in ("ground", "raised", "pass-ground", "fail-ground")]
    for name in ("text", "muted", "link", "skipped"):
        assert min(_contrast(colors[name], ground) for ground in grounds) >= 4.5, name
    for name in ("pass", "fail"):
        assert min(_contrast(colors[name], colors[ground]) for ground in ("ground", f"{name}-ground")) >= 4.5, name
    assert _contrast(colors["bar"], colors["track"]) >= 3


def test_the_palette_of_the_error_map_orders_by_lightness() -> None:
    luminances = [_luminance(tuple(int(part) for part in color)) for color in PALETTE]  # type: ignore[arg-type]
    assert all(after >= before for before, after in pairwise(luminances))
    assert luminances[-1] > 10 * luminances[0]


def test_every_sample_report_is_drawn() -> None:
    assert all(to_html(make()) == to_html(make()) for make in REPORTS.values())


def test_one_bound_is_drawn_and_named_once() -> None:
    row = comparison("a.onnx", "onnxruntime", 0.2)
    (view,) = (
        page_view(Report(model="m", comparisons=(replace(row, tolerance=Tolerance(2e-6, 0.0, 2e-6)),))).groups[0].rows
    )
    assert view.tolerance == "|a − b| ≤ 2×10⁻⁶"
    assert view.histogram is not None
    assert view.histogram.count('class="mark"') == 1


@pytest.mark.parametrize("by_class", [False, True])
def test_the_frontier_is_drawn_and_told(by_class: bool) -> None:
    points = tuple(
        TargetPoint(
            kept,
            tuple(f"layer.{index}" for index in range(kept)),
            (30.0, 34.5, math.inf)[kept],
            (0.98, 0.995, 1.0)[kept],
            chosen=kept == 1,
            size_bytes={"onnx": 1000 + kept, "tflite": 900 + kept},
            latency_ms={"litert": 0.5 - 0.1 * kept},
            sqnr_bound_db=None if by_class else (26.25, 32.75, math.inf)[kept],
        )
        for kept in range(3)
    )
    targets = (None, 0.99) if by_class else (32.0, None)
    report = Report("x", target_search=TargetSearch("int8", *targets, "the 9 parity inputs", 2, points))
    page = to_html(from_json(to_json(report)))
    section = page[page.index('id="frontier"') :]
    assert section.count('<circle class="ring"') == 3  # in a line for the device, and in one for each format
    assert "nan" not in section.split("</section>")[0].lower()
    assert "1 of 2 layers stayed in float" in section
    assert ("32.8" in section, "On others" in section) == (not by_class, not by_class), "what the target is sure of"
    assert ("the same class in 0.99" if by_class else "32 dB") in section
    assert "<code>layer.0</code>" in section
    assert 'id="frontier"' not in to_html(Report("x"))


def test_a_search_for_indices_alone_tells_how_many_are_equal() -> None:
    """They have no SQNR: of a network that ends in an ArgMax the page had no scale to draw."""
    points = tuple(
        TargetPoint(kept, (), math.inf, chosen=kept == 1, size_bytes={"onnx": 9}, index_agreement=(0.885, 0.995)[kept])
        for kept in range(2)
    )
    report = Report("x", target_search=TargetSearch("int8-mixed", 20.0, None, "the 9 parity inputs", 2, points))
    section = to_html(from_json(to_json(report))).split('id="frontier"')[1].split("</section>")[0]
    assert "<svg" not in section
    assert ("Same indices" in section, "88.50 %" in section, "99.50 %" in section) == (True, True, True)


def test_a_chain_says_how_each_link_stands() -> None:
    holds, breaks, unjudged = page_view(REPORTS["chained"]()).chains
    assert [(link.number, link.title, link.text, link.of) for link in (*holds.links, holds.end_to_end)] == [
        (1, "Rewrites", "2 %", "of its bound"),
        (2, "Rounding", "141.3 dB", ""),
        (3, "Writing", "0.028 %", "of its bound"),
        (4, "Running", fmt.used(holds.profiles[0].most), "of its bound"),
        (5, "End to end", "30 %", "of the tolerance"),
    ]
    assert [link.fill for link in holds.links[:3]] == [58.1, None, 11.2], "of four decades"
    assert [link.text for link in breaks.links[2:]] == ["2.3×10⁶ times", "341 times"]
    assert breaks.end_to_end.text == "fails at 44 %"
    assert breaks.broken[0].startswith("link 3 (writing) breaks: CONV_2D features.0.0 is 2.1e-07")
    assert [line.split(":")[0] for line in breaks.broken] == ["link 3 (writing) breaks", "link 4 (running) breaks"]
    assert [link.text for link in unjudged.links[:3]] == ["not judged"] * 3
    assert holds.remarks == ("Link 3, writing: 1 of 106 constants is within 1e-06 of the module's",)
    assert unjudged.remarks == (
        "Link 3, writing, was not judged: the reference does not compute GRU",
        "Link 4, running, was not judged on litert: whatever value it tells, it computes otherwise",
    )


def test_what_no_input_reached_is_counted_and_named() -> None:
    complete, missed, unknown = (chain.coverage for chain in page_view(REPORTS["chained"]()).chains)
    assert complete is not None
    assert missed is not None
    assert unknown is None
    assert complete.complete
    assert complete.summary == "60 pieces of clamps, 8 branches of activations, 24 padded borders"
    assert missed.summary == "20 of 60 pieces of clamps, 1 of 8 branches of activations"
    (clamps, (clip,), _), (branches, (slope,), _) = missed.kinds
    assert (clamps, clip.title, clip.names[0], len(clip.names), clip.more) == (
        ("Pieces of clamps", "Clip, above 6", "features.0.conv.2", 12, 8)
    )
    assert (branches, slope.title, slope.names) == (
        ("Branches of activations", "PRelu, below 0, in 3 of 64 channels", ("act",))
    )
    assert "and 8 more" in to_html(REPORTS["chained"]())


def test_a_broken_layer_comes_with_the_command_that_cuts_it_out() -> None:
    report = REPORTS["chained"]()
    assert to_html(report).count("edgeconv bisect . --recipe RECIPE</code>") == 1, (
        "the file does not say what was meant"
    )
    artifacts = tuple(replace(item, links=()) for item in report.artifacts)
    assert to_html(replace(report, artifacts=artifacts)).count("edgeconv bisect .</code>") == 1, "the runtime is wrong"
    assert "edgeconv bisect" not in to_html(failing_report()), "no link is broken there"


def test_a_certificate_is_told_with_its_numbers() -> None:
    told = [chain.certificate for chain in page_view(REPORTS["chained"]()).chains]
    assert told == [
        "No correct runtime can change the class of 98 of 100 inputs: rounding moves the outputs by 0.5 at the most, "
        "and the first two classes are 0.25 apart at the least.",
        "No class is certified: carried through all layers by its worst bound, rounding may move the outputs by 108, "
        "and the first two classes are 0.0113 apart at the least.",
        "",
    ]


def test_a_file_that_is_beyond_its_threshold_while_its_links_hold_says_why() -> None:
    row = replace(comparison("a.onnx", "onnxruntime", 3.0), reason="the file is right; float32 itself is this far off")
    (chain,) = page_view(Report(model="m", artifacts=(artifact("a.onnx"),), comparisons=(row,))).chains
    assert (chain.end_to_end.text, chain.end_to_end.of) == ("3 times", "the tolerance")
    assert chain.broken == ("link 5 (end to end) breaks: the file is right; float32 itself is this far off",)


def test_a_profile_shows_few_layers_in_words_and_many_as_columns_in_the_files_order() -> None:
    chains = page_view(REPORTS["chained"]()).chains
    (few,), (many, failed, binned) = chains[0].profiles, chains[1].profiles
    assert (few.columns, [layer.name for layer in few.layers[:2]]) == ((), ["features.0.conv.0", "features.0.conv.1"])
    assert (len(many.columns), len(many.layers), many.bound_at) == (65, 5, log_height(1.0, 1))
    assert [column.beyond for column in failed.columns].index(True) == 200
    assert failed.worst == "features.66.conv.2, 341 times its bound"
    assert failed.columns[200].title == (
        "features.66.conv.2 (Conv, Clip): 341 times its bound, 1,200 times the likely one, error 0.3, 21.0 dB"
    )
    assert [label for label, _ in failed.ticks] == ["1 %", "bound", "100×", "10,000×"]
    assert [label for label, _ in many.ticks] == ["0.1 %", "1 %", "10 %", "bound", "10×"]
    assert binned.columns[0].title.endswith(", and 1 beside it that use less")
    assert chains[1].opened
    assert chains[1].worst_layer == failed.worst


@pytest.mark.parametrize(
    ("share", "height"),
    [
        (0.0, 0.0),
        (1e-9, 0.0),
        (1e-4, 0.0),
        (0.01, 50.0),
        (1.0, 100.0),
        (7.0, 100.0),
        (math.inf, 100.0),
        (math.nan, 100.0),
    ],
)
def test_bars_of_links_are_logarithmic_and_end_at_the_bound(share: float, height: float) -> None:
    assert log_height(share) == height


def test_layers_stand_worst_first_with_what_is_allowed_to_them() -> None:
    (row,) = [row for row in page_view(REPORTS["quantized"]()).groups[0].rows if row.layers]
    assert [(layer.name, layer.largest, layer.verdict) for layer in row.layers[:4]] == [
        ("tanh", "3", Verdict.PASS),
        ("logits", "2", Verdict.FAIL),
        ("block.19", "1", Verdict.PASS),
        ("block.18", "1", Verdict.PASS),
    ]
    assert row.layers[0].allowed == "3 allowed: the kernel draws straight lines"
    (stem,) = [layer for layer in row.layers if layer.name == "stem.2"]
    assert (stem.operators, stem.exact, stem.allowed) == ("Conv, LeakyRelu", "97.0 %", "")
    assert (len(row.layers), row.layer_count) == (12, 24)
    assert dict(row.layer_steps) == {"−3": "0.0 %", "−1": "0.2 %", "+0": "97.9 %", "+1": "1.7 %", "+2": "0.0 %"}
    text = to_html(REPORTS["quantized"]())
    assert "of all elements of 24 layers" in text
    assert "12 more layers are nearer" in text


def test_runtimes_stand_beside_one_another_with_their_steps() -> None:
    view = page_view(REPORTS["quantized"]()).steps
    assert view is not None
    assert view.titles == ("exact", "±1", "±2", "±3", "more", "at most")
    assert view.rows[0] == ("digits.int8.tflite on litert", ("97.4 %", "2.5 %", "0.0 %", "–", "–", "2"))
    assert [title.split()[-1] for title, _ in view.rows] == ["litert", "tflite-micro", "litert-reference"]
    assert "Integers, runtime by runtime" in to_html(REPORTS["quantized"]())
    assert page_view(passing_report()).steps is None
