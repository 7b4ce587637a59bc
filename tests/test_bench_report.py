"""What `fotmem bench` writes: its picture, its page in a real browser, and comparisons."""

import importlib.util
import json
import re
import shutil
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from fotmem.errors import InputError
from fotmem.measure.bench.compare import compare
from fotmem.measure.bench.figures import Figure
from fotmem.measure.bench.page import write_page
from fotmem.measure.bench.plot import PlotPoint, draw, front
from fotmem.measure.bench.report import (
    AllKeysRow,
    BenchReport,
    BuildCost,
    EstimatedError,
    Failure,
    GrowthRow,
    Row,
)
from fotmem.measure.bench.summary import COLUMNS
from fotmem.measure.bench.table import WIDTH, tables
from fotmem.measure.setting import Setting
from tests.commands import call, refusal

BUILD = BuildCost(
    seconds=3.0, median_insert_latency=0.1, max_insert_latency=0.4, ram=500.0, disk=0.0
)
EFFORTS = (1, 2, 4, 8)
SETTINGS = [
    Setting(store="exact"),
    *(Setting(store="lists", options={"nprobe": effort}) for effort in EFFORTS),
]


def figure(value: float, noise: float, random: np.random.Generator) -> Figure:
    """Draw a figure as it would be measured: off by chance, with an interval that knows it."""
    drawn = value * np.exp(noise * random.standard_normal())
    return Figure(drawn, drawn * np.exp(-1.96 * noise), drawn * np.exp(1.96 * noise))


def row(
    setting: Setting, layer: int, top_k: int, random: np.random.Generator, **changes: Any
) -> Row:
    """Draw a row: the more effort, the longer it takes and the more it finds."""
    effort = setting.options.get("nprobe", 32)
    slower, better = changes.get("slower", 1.0), changes.get("better", 1.0)
    found = better * (1 - 0.5 / effort)
    times = {
        name: figure(slower * factor * effort, 0.05, random)
        for name, factor in (("latency_p50", 1e-3), ("latency_p95", 2e-3), ("latency_p99", 3e-3))
    }
    return Row(
        setting=setting,
        layer=layer,
        top_k=top_k,
        recall=figure(found, 0.01, random),
        attention_mass_recall=figure(found, 0.01, random),
        error=figure(0.3 / effort, 0.05, random),
        error_p95=figure(0.6 / effort, 0.05, random),
        excess_error=figure(0.2 / effort, 0.05, random),
        share_read=None if setting.store == "exact" else effort / 40,
        window_latency=figure(slower * 0.02 * effort, 0.05, random),
        relative_latency=figure(changes.get("slower_than_exact", 1.0) * effort / 32, 0.02, random),
        relative_window_latency=figure(
            changes.get("slower_than_exact", 1.0) * effort / 32, 0.02, random
        ),
        window_queries=512,
        build=BUILD,
        batch=0,
        **times,
    )


def report(seed: int, layers: tuple[int, ...] = (3, 5), **changes: Any) -> BenchReport:
    """Draw a report; `changes` by store, and `machine`, how much slower everything is."""
    random = np.random.default_rng(seed)
    machine = changes.pop("machine", 1.0)
    rows = []
    for setting in SETTINGS:
        mine = dict(changes.get(setting.store, {}))
        mine["slower_than_exact"] = mine.get("slower", 1.0)
        mine["slower"] = machine * mine.get("slower", 1.0)
        for layer in layers:
            rows += [row(setting, layer, top_k, random, **mine) for top_k in (1, 32)]
    grown = [
        GrowthRow(
            setting=setting, layer=layer, top_k=32, size=size, recall=rows[0].recall,
            attention_mass_recall=rows[0].attention_mass_recall, error=rows[0].error,
            excess_error=rows[0].excess_error, share_read=None, median_insert_latency=0.1,
            max_insert_latency=0.2, ram=500.0, latency=size * 1e-6,
        )
        for setting in SETTINGS[:2] for layer in layers for size in (1024, 2048, 4096)
    ]  # fmt: skip
    return BenchReport(
        capture={
            "tokens": 4096, "num_heads": 2, "head_dim": 8, "layers": list(layers),
            "source": {"kind": "random"},
        },
        machine={"processor": "one"},
        versions={"torch": "2"},
        measured={"queries": 64, "rounds": 5},
        rows=tuple(rows),
        growth=tuple(grown),
        failures=(Failure(setting=Setting(store="torn"), layer=3, reason="</script><b>disk</b>"),),
    )  # fmt: skip


def test_no_other_point_beats_the_front() -> None:
    random = np.random.default_rng(0)
    for best in (-1, 1):
        values = random.integers(0, 12, (60, 2)).astype(float)
        points = [PlotPoint(Figure(x, x, x), Figure(y, y, y)) for x, y in values]
        found = {(point.x.value, point.y.value) for point in front(points, best)}
        expected = {
            (x, y)
            for x, y in values
            if not any((a <= x and best * b >= best * y) and (a, b) != (x, y) for a, b in values)
        }
        assert found == expected


def test_the_picture(tmp_path: Path) -> None:
    file = tmp_path / "report.png"
    draw(report(0), file)
    pixels = (255 * imread(file)[..., :3]).round().astype(int)
    assert min(pixels.shape[:2]) > 500
    colours = set(map(tuple, pixels.reshape(-1, 3).tolist()))
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours  # both stores are drawn


def test_two_reports_that_differ_by_chance_are_the_same() -> None:
    """Of verdicts in many pairs of reports, hardly any says more than that."""
    said = [
        change.verdict
        for seed in range(40)
        for change in compare(report(2 * seed), report(2 * seed + 1)).changes
    ]
    assert len(said) == 40 * len(SETTINGS) * 2 * 6 - 40 * 4
    assert sum(verdict != "same" for verdict in said) < 0.003 * len(said)


def test_only_real_changes_have_a_verdict() -> None:
    """A store that became slower and finds less, on a machine that is slower as a whole."""
    found = compare(report(0), report(1, machine=1.7, lists={"slower": 1.5, "better": 0.8}))
    assert found.relative
    verdicts: dict[str, set[str]] = {}
    covered = []
    for change in found.changes:
        name = f"{change.setting.store} {change.column.name}"
        verdicts.setdefault(name, set()).add(change.verdict)
        if change.setting.store == "lists" and change.column.name == "p50":
            covered.append(change.change.low < 1.5 < change.change.high)
            assert 2.2 < change.after / change.before < 3
    assert sum(covered) >= 0.75 * len(covered) > 0  # of such intervals, 95% do
    for name in ("recall", "attention-mass recall", "p50", "throughput"):
        assert verdicts[f"lists {name}"] == {"worse"}
    assert verdicts["lists error"] == verdicts["exact recall"] == {"same"}
    assert "exact p50" not in verdicts  # it is the unit
    better = compare(report(1, lists={"slower": 1.5}), report(0))
    assert {c.verdict for c in better.changes if c.column.name == "throughput"} == {"better"}


def test_without_exact_times_are_compared_in_seconds() -> None:
    before, after = report(0), report(1, machine=1.7)
    apart = after.model_copy(
        update={
            "rows": tuple(
                each.model_copy(update={"relative_latency": None, "relative_window_latency": None})
                for each in after.rows
            ),
            "machine": {"processor": "another"},
        }
    )
    found = compare(before, apart)
    assert not found.relative
    assert {c.verdict for c in found.changes if c.column.name == "p50"} == {"worse"}
    told = " ".join(found.notes())
    assert "compared in seconds" in told
    assert "machine processor: one, then another" in told


def test_reports_that_cannot_be_compared() -> None:
    one = report(0)
    with pytest.raises(InputError, match=r"different captures \(layers is \[3, 5\] and \[4\]\)"):
        compare(one, report(0, layers=(4,)))
    few = one.model_copy(update={"rows": one.rows[:2]})
    with pytest.raises(InputError, match="no setting on the same layer"):
        compare(few, one.model_copy(update={"rows": one.rows[2:]}))
    assert compare(one, few).only_before == [str(setting) for setting in SETTINGS[1:]]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, each in (("a", report(0)), ("b", report(1, lists={"slower": 1.5}))):
        (tmp_path / name).mkdir()
        each.write(tmp_path / name / "report.json")
    ended = call(capsys, "bench", "compare", tmp_path / "a", tmp_path / "b" / "report.json")
    assert ended.code == 0, ended.err
    assert re.search(r"lists nprobe=4 │ +32 │ +p50 \(ms\) │ .*1\.\d\d times.* worse │", ended.out)
    for name in ("change", "p50"):
        assert f"\n{name}: " in ended.out
    assert "\nattention-mass recall: " not in ended.out
    assert "in units of the time of exact" in ended.out
    same = call(capsys, "bench", "compare", tmp_path / "a", tmp_path / "a")
    assert "│" not in same.out
    line = refusal(capsys, 1, "bench", "compare", tmp_path / "a", tmp_path / "c")
    assert line == f"{tmp_path / 'c'} does not exist; expected a folder that fotmem bench wrote"


def test_missing_packages_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = importlib.util.find_spec
    monkeypatch.setattr(
        "fotmem.errors.find_spec", lambda name: None if name == "scipy" else known(name)
    )
    line = refusal(capsys, 1, "bench", "compare", tmp_path, tmp_path)
    assert line.endswith("needs scipy, not installed: pip install 'fotmem[bench]'")


def test_growth_is_shown_in_the_terminal() -> None:
    titles = [table.title for table in tables(report(0))]
    assert titles == [
        "top 1, mean of 2 layers",
        "top 32, mean of 2 layers",
        "while growing, top 32, default options",
        None,
    ]


def with_all_keys() -> BenchReport:
    """A report of a store that estimates, which is better on the second layer."""
    drawn, time = report(0), Figure(1, 1, 1)
    rows = [
        AllKeysRow(
            setting=setting,
            layer=layer,
            error=Figure(0.1 / layer, 0.0, 0.1),
            error_p95=Figure(0.2, 0.1, 0.3),
            estimated_error=None if setting.store == "exact" else 0.3 / layer,
            calibration=() if setting.store == "exact" else (EstimatedError(1.5 / layer, 0.2),) * 4,
            share_read=0.01,
            latency_p50=time,
            latency_p95=time,
            latency_p99=time,
            window_latency=time,
            window_queries=512,
            relative_latency=Figure(0.5, 0.4, 0.6),
            batch=0,
        )
        for setting in (SETTINGS[1], SETTINGS[0])
        for layer in (3, 5)
    ]  # fmt: skip
    return drawn.model_copy(update={"all_keys": tuple(rows)})


def test_attention_to_all_keys_is_shown(tmp_path: Path) -> None:
    out = StringIO()
    report = with_all_keys()
    shown = [table for table in tables(report) if table.title][2:4]
    for table in shown:
        Console(file=out, width=WIDTH).print(table)
    lines = [re.split(r" *[│┃] *", line)[1:-1] for line in out.getvalue().splitlines()]
    found = {line[0]: line for line in lines if len(line) > 7}
    assert found["exact"][1:5] == ["0.027", "0.200", "-", "0.010"]
    assert found["lists nprobe=1"][1:5] == ["0.027", "0.200", "0.080", "0.010"]
    assert ["lists nprobe=1", *["0.400 / 0.200"] * 4] in lines
    file = tmp_path / "report.html"
    write_page(report, file)
    page = file.read_text("utf-8")
    data = page.partition('<script id="data" type="application/json">')[2].partition("</script>")[0]
    rows = json.loads(data)["all_keys"]["rows"]
    assert [(row["setting"], row["layer"]) for row in rows[:3]] == [
        ("exact", "mean of all"), ("exact", "layer 3"), ("exact", "layer 5"),
    ]  # fmt: skip
    assert rows[-1]["calibration"] == [[0.3, 0.2]] * 4


def test_a_report_of_before_is_read(tmp_path: Path) -> None:
    """Without attention to all keys, as it was written earlier."""
    file = tmp_path / "report.json"
    content = with_all_keys().model_dump(mode="json")
    file.write_text(json.dumps(content))
    assert BenchReport.read(file) == with_all_keys()
    del content["all_keys"]
    file.write_text(json.dumps(content))
    assert BenchReport.read(file) == report(0)


OPTIONS = {"keys": "mmap", "values": "mmap", "nlist": 256, "nprobe": 8}
LARGE = {"seconds": 12_345.6, "max_insert_latency": 123.4, "ram": 12_345.0, "disk": 12_345.0}


def with_long_cells() -> BenchReport:
    """A report of a setting with a long name and of large numbers."""
    drawn, long = report(0), Setting(store="lists", options=OPTIONS)
    large = {"setting": long, "build": BUILD.model_copy(update=LARGE)}
    rows = (
        row.model_copy(update=large) if row.setting == SETTINGS[-1] else row for row in drawn.rows
    )
    return drawn.model_copy(update={"rows": tuple(rows)})


def test_long_settings_leave_numbers_whole() -> None:
    out = StringIO()
    for table in tables(with_long_cells()):
        Console(file=out, width=WIDTH).print(table)
    shown = out.getvalue()
    assert "…" not in shown
    assert all(f"{name}={value}" in shown for name, value in OPTIONS.items())


FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --window-size=1280,1600"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start headless Chromium, once: this takes longer than a test."""
    webdriver = pytest.importorskip("selenium.webdriver")
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or chromium is None:
        pytest.skip("needs Chromium and its driver: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.chrome.service.Service(driver)
    with webdriver.Chrome(options=options, service=service) as started:
        yield started


def test_the_page_in_a_browser(tmp_path: Path, browser: Any) -> None:
    """It shows all settings, tells about the one pointed at, hides what is not chosen."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    def all_of(selector: str) -> list[Any]:
        found: list[Any] = browser.find_elements(By.CSS_SELECTOR, selector)
        return found

    file = tmp_path / "report.html"
    write_page(report(0), file)
    browser.get(file.as_uri())
    points, lines = "#plot .scatterlayer .points path", "#table tbody tr"
    wait = WebDriverWait(browser, 10)
    wait.until(lambda _: len(all_of(points)) == len(SETTINGS))
    assert len(all_of(lines)) == len(SETTINGS)
    assert "recall" in all_of("#meanings dt")[0].text
    assert all_of("#failures td")[2].text == "</script><b>disk</b>"

    ActionChains(browser).move_to_element(all_of(points)[2]).perform()
    wait.until(lambda _: all_of("#plot .hoverlayer .hovertext"))
    assert "lists nprobe=2" in all_of("#plot .hoverlayer .hovertext")[0].text

    Select(all_of("#layer")[0]).select_by_visible_text("layer 5")
    Select(all_of("#up")[0]).select_by_visible_text("recall")
    all_of("#stores input[value=lists]")[0].click()
    wait.until(lambda _: len(all_of(points)) == 1)
    assert [line.text.split()[0] for line in all_of(lines)] == ["exact"]
    assert all_of("#growth .scatterlayer .trace")
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []


def test_the_page_shows_attention_to_all_keys(tmp_path: Path, browser: Any) -> None:
    from selenium.webdriver.common.by import By

    def shown() -> list[str]:
        lines = browser.find_elements(By.CSS_SELECTOR, "#all_keys tbody tr")
        return [line.text.removesuffix(" ") for line in lines]

    file = tmp_path / "report.html"
    write_page(with_all_keys(), file)
    browser.get(file.as_uri())
    head = browser.find_elements(By.CSS_SELECTOR, "#all_keys th")
    assert len(head) == 1 + 8 + 4
    assert [line.split()[:2] for line in shown()] == [["exact", "0.0267"], ["lists", "nprobe=1"]]
    assert shown()[1].endswith(" ".join(["0.400 / 0.200"] * 4))
    browser.find_element(By.CSS_SELECTOR, "#stores input[value=lists]").click()
    assert [line.split()[0] for line in shown()] == ["exact"]
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []
    write_page(report(0), file)
    browser.get(file.as_uri())
    assert not browser.find_element(By.ID, "attending").is_displayed()


def test_all_columns_of_the_page_fit_into_1300_pixels(tmp_path: Path, browser: Any) -> None:
    """With their units, and without scrolling; also where a setting has a long name."""
    from selenium.webdriver.common.by import By

    file = tmp_path / "report.html"
    write_page(with_long_cells(), file)
    browser.set_window_size(1300, 1200)
    browser.get(file.as_uri())
    table = browser.find_element(By.ID, "table")
    width = browser.execute_script("return document.documentElement.clientWidth")
    assert 1250 < width <= 1300
    head = [cell.text.replace("\n", " ") for cell in table.find_elements(By.TAG_NAME, "th")]
    assert head == ["store", *(f"{each.name} {each.unit}".strip() for each in COLUMNS)]
    last = table.find_elements(By.CSS_SELECTOR, "tbody tr:nth-child(2) td")[-1]
    assert last.text == "12,345"
    assert last.rect["x"] + last.rect["width"] <= width
    for element in ("html", ".scroll"):
        whole = f"const it = document.querySelector('{element}'); "
        assert browser.execute_script(f"{whole}return it.scrollWidth <= it.clientWidth")


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    """Nothing in it is loaded from elsewhere, with or without a browser to ask."""
    file = tmp_path / "report.html"
    write_page(report(0), file)
    page = file.read_text("utf-8")
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"'](?!data:)", page)
    assert page.count('<script id="data" type="application/json">') == 1
    data = page.partition('<script id="data" type="application/json">')[2].partition("</script>")[0]
    assert '"lists nprobe=8"' in data
    assert "<\\/script><b>disk<\\/b>" in data
