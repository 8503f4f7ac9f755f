"""Pages as a browser shows them: nothing sticks out, nothing is too faint to be read, nothing is asked of anybody."""

from pathlib import Path

from playwright.sync_api import Browser

from tests.browser import VIEWS, look
from tests.results import HOSTILE, make_result
from tools.pages.elements import paragraph, scroll, table
from tools.pages.html import Html, tag, write_page
from tools.pages.plots import Line, plot
from tools.pages.results import Published, write_result_page

LONG = "a_name_without_any_space_as_paths_of_checkpoints_are/" * 4


def test_the_page_of_results_fits_a_telephone_and_a_desk_whatever_its_names_are(
    tmp_path: Path, browser: Browser
) -> None:
    classes = tuple(f"Pretending to put something next to something {number} {HOSTILE}" for number in range(12))
    results = {LONG: make_result(0.7, classes=classes), "untrained": make_result(0.1, classes=classes, seed=7)}
    published = [Published(name=LONG, metrics={"top1": 0.48}, protocol="linear probe, " * 9, source="arXiv 2410.24213")]
    write_result_page(tmp_path / "page.html", LONG, results, published)
    for width, scheme in VIEWS:
        assert not look(browser, tmp_path / "page.html", width, scheme).problems, f"{width} pixels, {scheme}"


def test_a_plot_has_the_inks_of_its_page(tmp_path: Path, browser: Browser) -> None:
    drawn = plot("loss", [Line(name="a", points=[(1, 2), (5, 1)]), Line(name="b", level=3)], x="step", y="loss")
    write_page(tmp_path / "page.html", "t", drawn)
    seen = {scheme: look(browser, tmp_path / "page.html", 420, scheme) for _, scheme in VIEWS}
    assert not seen["light"].problems
    assert not seen["dark"].problems
    assert seen["light"].picture != seen["dark"].picture


FAULTS = {
    "DIV": tag("div", "wide", style="width: 3000px"),
    "SPAN": tag("span", "left", style="position: absolute; left: -50px"),
    "to 1": tag("p", "faint", style="color: #999; background: #aaa"),
    "example.org": Html("<img src='https://example.org/a.png' alt=''>"),
    "script": Html("<script>throw new Error('mine')</script>"),
}


def test_a_page_with_a_fault_does_not_pass(tmp_path: Path, browser: Browser) -> None:
    for said, fault in FAULTS.items():
        write_page(tmp_path / "page.html", "t", fault)
        problems = look(browser, tmp_path / "page.html", 420, "light").problems
        assert any(said in problem for problem in problems), problems


def test_a_wide_table_scrolls_by_itself(tmp_path: Path, browser: Browser) -> None:
    wide = table([[f"cell_{number}" for number in range(40)]])
    write_page(tmp_path / "page.html", "t", paragraph("above"), wide, scroll("below"))
    assert not look(browser, tmp_path / "page.html", 420, "light").problems
