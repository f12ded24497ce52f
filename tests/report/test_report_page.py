"""The page: verdicts first, self-contained, every number from a file, nothing else read."""

from __future__ import annotations

import html.parser
import json
import re

import numpy as np
import pytest
import xarray as xr

from featattn_neuro.errors import StoreError
from featattn_neuro.report import page as page_module
from featattn_neuro.report.page import verdict_lines, write_page
from featattn_neuro.report.results import read_results
from featattn_neuro.report.style import new_figure, png_bytes


@pytest.fixture(autouse=True)
def quick_figures(monkeypatch, request):
    """Figures are drawn but not rasterised, which is most of the time, except where a test is about them."""
    if "real_figures" not in request.fixturenames:
        blank = png_bytes(new_figure(0.1, 0.1), dpi=20)
        monkeypatch.setattr(page_module, "png_bytes", lambda figure, dpi: blank)


@pytest.fixture
def real_figures(monkeypatch):
    monkeypatch.setattr(page_module, "DPI", 40)


class Tags(html.parser.HTMLParser):
    """Checks nesting and collects links."""

    void = ("meta", "img", "br", "link", "input", "hr")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.links += [v for k, v in attrs if k == "href"]
        self.sources += [v for k, v in attrs if k == "src"]
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> out of place"


def read(page) -> tuple[str, Tags]:
    text, tags = page.read_text(encoding="utf-8"), Tags()
    tags.feed(text)
    assert tags.open == []
    return text, tags


def test_page_is_whole_and_self_contained(results_folder):
    page = write_page(results_folder)
    _, tags = read(page)
    assert all(source.startswith("data:image/") for source in tags.sources)
    assert len(tags.sources) >= 12
    for link in tags.links:
        assert (results_folder / link).is_file(), link
    assert not list(results_folder.rglob(".*"))


def test_the_four_verdicts_come_first_with_what_was_found(results_folder):
    text, _ = read(write_page(results_folder))
    assert (
        text.index("Gains with a new head beat a new head alone.")
        < text.index("What was done")
        < text.index("T1 · Arms")
    )
    claims = read_results(results_folder).claims
    for name in claims["claim"].values:
        assert str(claims["verdict"].sel(claim=name).item()) in text
    assert "0.0340 [0.0140, 0.0540]" in text
    assert "p = .016 after Holm" in text
    assert "Undefined cells left out: 2." in text
    assert "None" not in text


def test_text_from_files_is_escaped(results_folder):
    text, _ = read(write_page(results_folder))
    assert "<untested>" not in text
    assert "&lt;untested&gt;" in text


def test_same_results_same_page(results_folder, real_figures):
    first = write_page(results_folder).read_bytes()
    assert write_page(results_folder).read_bytes() == first
    drawn = [path.read_bytes() for path in (results_folder / "figures").iterdir()]
    assert len(drawn) == len(set(drawn)) == 14, "each figure once"


def test_page_says_nothing_of_this_machine(results_folder):
    text = write_page(results_folder).read_text(encoding="utf-8")
    assert str(results_folder) not in text
    assert not re.search(r"/(tmp|home|root)/", text)


@pytest.mark.parametrize("part", ["scores", "curves", "gains", "selectivity", "association", "agreement", "saliency"])
def test_a_part_may_be_absent(results_folder, part):
    for path in (results_folder / part).iterdir():
        path.unlink()
    read(write_page(results_folder))


def test_an_unfinished_run_says_so(results_folder):
    for name in ("claims.nc", "facts.json", "stimuli/shown.json"):
        (results_folder / name).unlink()
    text, _ = read(write_page(results_folder))
    assert "No verdicts yet" in text


def test_a_lost_stimulus_or_broken_facts_are_named(results_folder):
    (results_folder / "stimuli" / "aa11.png").unlink()
    with pytest.raises(StoreError, match=r"aa11\.png"):
        write_page(results_folder)
    (results_folder / "facts.json").write_text("{")
    with pytest.raises(StoreError, match=r"facts\.json"):
        write_page(results_folder)
    (results_folder / "facts.json").write_text(json.dumps([]))
    with pytest.raises(StoreError, match="wanted a JSON dict"):
        write_page(results_folder)


def test_verdict_lines_are_the_findings_in_words(results_folder):
    lines = verdict_lines(read_results(results_folder).claims)
    assert [line[:3] for line in lines] == ["T1 ", "T2 ", "T3 ", "T4 "]
    assert lines[0].startswith("T1 supported: gains with a new head beat a new head alone. Effect +0.0340")


def test_an_untested_claim_is_said_to_be_so(results_folder):
    claims = read_results(results_folder).claims.copy(deep=True)
    at = int(np.flatnonzero(claims["claim"].values == "T2")[0])
    for name in ("estimate", "ci_low", "ci_high", "p", "p_holm"):
        claims[name][at] = np.nan
    claims["per_network"][at] = np.nan
    for name, text in (("verdict", "not_applicable"), ("sentence", "T2 not applicable: not tested, because none.")):
        values = [str(v) for v in claims[name].values]
        values[at] = text
        claims[name] = (("claim",), np.array(values))
    claims.to_netcdf(results_folder / "new.nc", engine="h5netcdf")
    (results_folder / "new.nc").replace(results_folder / "claims.nc")
    text, _ = read(write_page(results_folder))
    card = text[text.index("<b>T2</b>") : text.index("<b>T3</b>")]
    assert "not applicable" in card
    assert "Not tested, because none." in card
    assert "nan" not in card.lower()
    assert 'class="effect"' not in card


def test_an_association_that_is_undefined_everywhere_is_no_figure(results_folder):
    for path in (results_folder / "association").glob("*.nc"):
        with xr.open_dataset(path, engine="h5netcdf") as opened:
            undefined = opened.load()
        for name in set(undefined.data_vars) & {"z", "rho", "refit_null"}:
            undefined[name] = undefined[name] * np.nan
        undefined.to_netcdf(path, engine="h5netcdf")
    write_page(results_folder)
    assert not (results_folder / "figures" / "refit_null.png").exists()
    assert not (results_folder / "figures" / "task_matrix.png").exists()


def test_contact_sheets_hold_each_class_once(results_folder, monkeypatch):
    """One sheet a class, of the composites that hold it, in their order and no more than the run says."""
    folder = results_folder / "sheets"
    folder.mkdir()
    with xr.open_dataset(results_folder / "saliency" / "net0_relu2.nc", engine="h5netcdf") as maps:
        maps.load().assign_attrs(images_per_task=1).to_netcdf(folder / "net0_relu2.nc", engine="h5netcdf")
    assert "Contact sheet" not in read(write_page(results_folder))[0]  # maps, but no images
    rows = json.loads((results_folder / "stimuli" / "shown.json").read_text())
    (results_folder / "stimuli" / "sheets.json").write_text(json.dumps([*rows, {**rows[0], "id": "of another layer"}]))
    sheets = []
    monkeypatch.setattr(
        page_module.saliency_overlays, "contact_sheet",
        lambda images, maps, **said: sheets.append((list(images), said)) or new_figure(0.1, 0.1),
    )  # fmt: skip
    measured, measure = [], page_module.saliency_overlays.common_scales
    monkeypatch.setattr(
        page_module.saliency_overlays, "common_scales", lambda shown: measured.append(1) or measure(shown)
    )
    text, _ = read(write_page(results_folder))
    wanted = {}
    for row in rows:
        for name in row["label"].split("|"):
            wanted.setdefault(name, row["id"])
    assert len({said["scales"] for _, said in sheets}) == 1  # the sheets of a network can be compared
    assert {said["task"]: images for images, said in sheets} == {name: [one] for name, one in wanted.items()}
    assert len(measured) == 2, "once for the overlays of a network, once for all of its sheets"
    assert f"one for each cued class ({len(wanted)})" in text
    for name in wanted:
        assert (results_folder / "figures" / f"sheet_net0_relu2_{name}.png").is_file()


def test_numbers_trained_are_by_network_where_they_differ(results_folder):
    text, _ = read(write_page(results_folder))
    assert "<th>numbers trained</th>" in text
    names = sorted(path.stem for path in (results_folder / "scores").glob("*.nc"))
    path = results_folder / "scores" / f"{names[1]}.nc"
    scores = xr.load_dataset(path, engine="h5netcdf")
    scores["trained_numbers"][scores["arm"].values.tolist().index("gain_head")] = 1234567
    scores.to_netcdf(path, engine="h5netcdf")
    text, _ = read(write_page(results_folder))
    assert "<th>numbers trained</th>" not in text
    assert all(f"<th>{name}</th>" in text for name in names)
    assert "1,234,567" in text


def test_arms_that_do_not_apply_have_trained_no_numbers(results_folder):
    for path in (results_folder / "scores").glob("*.nc"):
        scores = xr.load_dataset(path, engine="h5netcdf")
        scores["auc"].loc[{"arm": "gain_head"}] = np.nan
        scores.to_netcdf(path, engine="h5netcdf")
    text, _ = read(write_page(results_folder))
    assert re.search(r"<td>gain \+ head</td><td>not applicable</td>", text)


def test_numbers_trained_stand_under_no_curve_that_is_not_there(results_folder):
    for path in (results_folder / "curves").glob("*.nc"):
        path.unlink()
    text, _ = read(write_page(results_folder))
    assert "<h2>Numbers trained</h2>" in text
    assert "T2 · Learning curves</h2>" not in text


def test_verdicts_of_an_earlier_state_are_left_out(results_folder):
    text, _ = read(write_page(results_folder, outdated=True))
    assert "<b>No verdicts:</b>" in text
    assert 'class="card"' not in text
    assert "T3 · Gain and selectivity" in text, "the rest is there"


@pytest.mark.parametrize("relative", [False, True])
def test_captions_and_scales_say_whether_maps_are_relative_to_the_mean_gain(results_folder, monkeypatch, relative):
    gauge = "gain divided by the layer's mean" if relative else "gain as given"
    path = results_folder / "saliency" / "net0_relu2.nc"
    with xr.open_dataset(path, engine="h5netcdf") as opened:
        maps = opened.load().assign_attrs(gauge=gauge)
    (results_folder / "sheets").mkdir()
    for file in (path, results_folder / "sheets" / "net0_relu2.nc"):
        maps.to_netcdf(file, engine="h5netcdf")
    (results_folder / "stimuli" / "sheets.json").write_bytes((results_folder / "stimuli" / "shown.json").read_bytes())
    labels, draw = [], page_module.saliency_figures.saliency_panels
    monkeypatch.setattr(
        page_module.saliency_figures, "saliency_panels",
        lambda *given, **said: labels.append(said["label"]) or draw(*given, **said),
    )  # fmt: skip
    text = html.unescape(write_page(results_folder).read_text(encoding="utf-8"))
    assert labels == ["excess  Σ (g/ḡ − 1) A" if relative else "excess  Σ (g − 1) A"]
    said = "net0_relu2, relative to the layer's mean gain ḡ" in text
    assert said == relative
    assert ("Contact sheet, net0_relu2" in text and "relative to the layer's mean gain ḡ." in text) == relative
