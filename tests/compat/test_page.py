"""The pages in a real browser: they draw, sort, filter, run without an error, and hostile names
stay text.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from chromium import Browser, program

from git_theta.core.manifest import Entry, Link, Manifest, ObjectRef
from git_theta.git.history.commits import Commit
from git_theta.reports import page
from git_theta.reports.naming import natural
from git_theta.reports.report import ModelReport, Report
from git_theta.workflows.comparing.compare import Comparison, TensorChange, compare
from git_theta.workflows.comparing.log import Step
from git_theta.workflows.comparing.movement import Statistics
from git_theta.workflows.comparing.statistics import Result, Unknown

BROWSER = program()
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium is installed (apt-get install chromium)"
)
HOSTILE = [
    "<script>window.pwned=1</script>",
    '"><img src=x onerror=window.pwned=1>',
    "</script><script>window.pwned=1</script>",
    "<!--<script>",
    "h.0.attn.<b>bold</b>.weight",
    "\u202egnp.exe",
    "\x1b[31mred\x07",
    "javascript:window.pwned=1",
    "' onmouseover='window.pwned=1",
    "{{7*7}}${window.pwned=1}",
    "&lt;i&gt;&amp;",
    "__proto__",
    "constructor.prototype",
    "line\nbreak\u2028here",
    "\ud800 lone",
    " ",
    "",
    "x" * 10_000,
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert BROWSER is not None
    with Browser(BROWSER, tmp_path_factory.mktemp("chromium")) as found:
        yield found


def sha(text: object) -> str:
    return hashlib.sha256(str(text).encode("utf-8", "backslashreplace")).hexdigest()


def entry(
    name: str, version: int, shape: tuple[int, ...] = (64, 64), update: str = "delta"
) -> Entry:
    identity = sha((name, version))
    size = 100 + int(identity[:3], 16)
    return Entry(
        name,
        "f32",
        shape,
        identity,
        (Link(update if version else "dense", (ObjectRef(sha(("o", identity)), size).whole,)),),
    )


def manifest(*entries: Entry) -> Manifest:
    skeleton = Entry(
        "skeleton", "u8", (100,), sha("s"), (Link("dense", (ObjectRef(sha("so"), 90).whole,)),)
    )
    return Manifest(
        "safetensors", sum(item.nbytes for item in entries) + 100, skeleton, entries, {}
    )


def names(layers: int) -> list[str]:
    parts = [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.up_proj",
        "mlp.down_proj",
        "input_layernorm",
    ]
    inner = [f"model.layers.{layer}.{part}.weight" for layer in range(layers) for part in parts]
    return ["model.embed_tokens.weight", *inner, "model.norm.weight", "lm_head.weight"]


def measured(change: TensorChange, number: int) -> Result:
    if not change.has_values:
        return None
    if number % 29 == 28:
        return Unknown("object 0 is not in the store", missing=True)
    norm, relative = 10.0, 10 ** -(1 + number % 5)
    histogram = tuple((order, number + 1, 2 * number + 1) for order in range(-14, -4))
    rank = 8 if "q_proj" in change.name else None
    return Statistics(
        4096,
        4000,
        0,
        norm,
        norm,
        norm * relative,
        relative**2 / 2,
        relative / 10,
        rank,
        histogram,
        False,
        True,
    )


def model(
    comparison: Comparison, entries: tuple[Entry, ...] = (), path: str = "model.safetensors"
) -> ModelReport:
    results = tuple(measured(change, number) for number, change in enumerate(comparison.changes))
    return ModelReport(
        path, comparison, comparison.changes, results, modes=("100644", "100644"), entries=entries
    )


def ordinary(layers: int = 12) -> Report:
    old = manifest(*(entry(name, 0) for name in names(layers)), entry("gone", 0))
    changed = {name for number, name in enumerate(names(layers)) if number % 3}
    new = manifest(
        *(entry(name, int(name in changed)) for name in names(layers)), entry("fresh", 1)
    )
    return Report("v1.0", "v1.1", (model(compare(old, new), new.entries),))


def write(folder: Path, text: str) -> Path:
    file = folder / "page.html"
    file.write_text(text, encoding="utf-8")
    return file


def table(browser: Browser, column: int) -> list[str]:
    found: list[str] = browser.value(
        "[...document.querySelectorAll('table.rows tbody tr')].map(r =>"
        f" r.cells[{column}].textContent)"
    )
    return found


def headings(browser: Browser) -> list[str]:
    found: list[str] = browser.value(
        "[...document.querySelectorAll('table.rows th')].map(h => h.textContent)"
    )
    return found


def test_a_diff_is_drawn(browser: Browser, tmp_path: Path) -> None:
    browser.open(write(tmp_path, page.diff(ordinary())))
    assert browser.errors == []
    cells = browser.value("document.querySelectorAll('[data-cell]').length")
    assert cells == 12 * 7 + 5
    assert browser.value("document.querySelectorAll('svg').length") >= 4
    rows = table(browser, 0)
    assert "model.layers.0.self_attn.k_proj.weight" in rows
    assert "fresh" in rows
    assert "gone" in rows
    assert browser.value("document.querySelector('.tiles').textContent").startswith(
        f"{len(rows)} of "
    )
    assert browser.value("document.querySelectorAll('.movers li').length") == 12
    assert browser.value("document.title") == "model.safetensors: v1.0 → v1.1"


def test_findings_stand_out(browser: Browser, tmp_path: Path) -> None:
    found = ordinary()
    whole = found.models[0]
    results = list(whole.results)
    harmed = next(
        number for number, change in enumerate(whole.changes) if "layers.4." in change.name
    )
    results[harmed] = Statistics(
        4096, 1, 1, 1.0, 1.0, 0.0, math.nan, 0.0, comparable=True, new_nan=1
    )
    browser.open(
        write(tmp_path, page.diff(Report("a", "b", (replace(whole, results=tuple(results)),))))
    )
    assert browser.errors == []
    assert (
        browser.value("document.querySelector('.alarm').textContent")
        == f"Findings in 1 tensor{whole.changes[harmed].name} 1 new NaN"
    )
    red = browser.value("getComputedStyle(document.querySelector('.alarm b')).color")
    assert red != browser.value("getComputedStyle(document.body).color")
    titles = headings(browser)
    row = next(
        row
        for row in range(len(whole.changes))
        if table(browser, 0)[row] == whole.changes[harmed].name
    )
    assert [
        table(browser, titles.index(title))[row]
        for title in ("health", "‖Δ‖/‖W‖", "cosine", "max |Δ|")
    ] == ["1 new NaN", *3 * ["NaN"]]
    assert browser.value("document.querySelectorAll('rect[data-cell][stroke]').length") == 1
    browser.value("document.querySelector('input[type=checkbox]').click()")
    assert table(browser, 0) == [whole.changes[harmed].name]
    browser.open(write(tmp_path, page.diff(ordinary())))
    assert browser.value("document.querySelector('.alarm')") is None


def test_nothing_is_asked_of_the_network(browser: Browser, tmp_path: Path) -> None:
    file = write(tmp_path, page.diff(ordinary()))
    browser.open(file)
    assert browser.requests == [file.as_uri()]
    browser.value("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')")
    assert any("Content Security Policy" in error for error in browser.errors)


def test_sorting(browser: Browser, tmp_path: Path) -> None:
    browser.open(write(tmp_path, page.diff(ordinary())))
    titles = headings(browser)
    column = titles.index("‖Δ‖/‖W‖")
    press = f"document.querySelectorAll('table.rows th button')[{column}].click()"
    browser.value(press)
    assert "?" in table(browser, column), (
        "what was not measured is not shown as if nothing had changed"
    )
    numbers = [float(text) for text in table(browser, column) if text not in ("", "?")]
    assert numbers == sorted(numbers, reverse=True)
    assert (
        browser.value(
            f"document.querySelectorAll('table.rows th')[{column}].getAttribute('aria-sort')"
        )
        == "descending"
    )
    browser.value(press)
    numbers = [float(text) for text in table(browser, column) if text not in ("", "?")]
    assert numbers == sorted(numbers)
    assert table(browser, column)[-1] == "", "what has no number stands last in either order"
    browser.value("document.querySelectorAll('table.rows th button')[0].click()")
    assert table(browser, 0) == sorted(table(browser, 0), key=natural)
    assert browser.value("document.querySelectorAll('table.rows th[aria-sort]').length") == 1
    assert browser.errors == []


def test_filtering(browser: Browser, tmp_path: Path) -> None:
    browser.open(write(tmp_path, page.diff(ordinary())))
    every = table(browser, 0)
    browser.value("document.querySelector('input[type=search]').focus()")
    browser.type("Layers.1")
    kept = table(browser, 0)
    assert kept == [name for name in every if "layers.1" in name]
    assert (
        browser.value("document.querySelector('[role=status]').textContent")
        == f"{len(kept)} of {len(every)} tensors"
    )
    browser.value(
        "(() => { const s = document.querySelector('select[aria-label=\"Filter by part of the"
        " model\"]'); s.value = 'attention v'; s.dispatchEvent(new Event('change')); })()"
    )
    assert table(browser, 0) == [name for name in kept if "v_proj" in name]
    browser.value(
        "(() => { const s = document.querySelector('select[aria-label=\"Filter by kind of"
        " change\"]'); s.value = 'removed'; s.dispatchEvent(new Event('change')); })()"
    )
    assert table(browser, 0) == []
    assert browser.errors == []


def test_the_heat_map_by_keyboard(browser: Browser, tmp_path: Path) -> None:
    browser.open(write(tmp_path, page.diff(ordinary())))
    assert browser.value(
        "document.querySelectorAll('svg [data-cell][tabindex=\"0\"]').length"
    ) == browser.value(
        "[...document.querySelectorAll('svg')].filter(s => s.querySelector('[data-cell]')).length"
    )
    browser.value("document.querySelector('[data-cell=\"0,0\"]').focus()")
    assert not browser.value("document.getElementById('tip').hidden")
    browser.press("ArrowRight")
    browser.press("ArrowDown")
    assert browser.value("document.activeElement.dataset.cell") == "1,1"
    label = browser.value("document.activeElement.getAttribute('aria-label')")
    assert "layer 1" in label
    assert "tensor" in label
    browser.press("ArrowLeft")
    browser.press("ArrowUp")
    browser.press("ArrowUp")
    assert browser.value("document.activeElement.dataset.cell") == "0,0"
    browser.press("ArrowDown")
    browser.press("Enter")
    kept = table(browser, 0)
    assert kept
    assert all("layers.0." in name for name in kept)
    assert browser.errors == []
    clear = "[...document.querySelectorAll('button')].find(b => b.textContent.startsWith('only '))"
    browser.value(f"{clear}.click()")
    assert len(table(browser, 0)) > len(kept)
    browser.press("Escape")
    assert browser.value("document.getElementById('tip').hidden")


def test_what_the_colour_shows_can_be_chosen(browser: Browser, tmp_path: Path) -> None:
    browser.open(write(tmp_path, page.diff(ordinary())))
    seen = set()
    for name in browser.value(
        "[...document.querySelector('.bar select').options].map(o => o.value)"
    ):
        browser.value(
            f"(() => {{ const s = document.querySelector('.bar select'); s.value = {name!r};"
            " s.dispatchEvent(new Event('change')); })()"
        )
        seen.add(
            browser.value(
                "[...document.querySelectorAll('[data-cell]')].map(c =>"
                " c.getAttribute('fill')).join()"
            )
        )
    assert len(seen) >= 4
    assert browser.errors == []


def test_light_and_dark(browser: Browser, tmp_path: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    file = write(tmp_path, page.diff(ordinary()))
    browser.open(file, dark=True)
    dark, cells = (
        browser.value(ground),
        browser.value("document.querySelector('[data-cell]').getAttribute('fill')"),
    )
    browser.value("document.getElementById('theme').click()")
    light = browser.value(ground)
    assert (dark, light) == ("rgb(21, 22, 26)", "rgb(255, 255, 255)")
    browser.open(file)
    assert browser.value(ground) == light
    assert cells
    assert browser.errors == []


def test_contrast_is_enough_to_read(browser: Browser, tmp_path: Path) -> None:
    """WCAG 2.1: 4.5 to 1 for text, in both grounds."""
    script = """(() => {
      const linear = (x) => (x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
      const light = (c) => {
        const v = c.match(/[\\d.]+/g).slice(0, 3).map((x) => linear(Number(x) / 255));
        return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2];
      };
      const ground = (n) => {
        for (; n; n = n.parentElement) {
          const c = getComputedStyle(n).backgroundColor;
          if (!c.startsWith("rgba(0, 0, 0, 0")) return c;
        }
        return "rgb(255, 255, 255)";
      };
      const texts = document.querySelectorAll(
        "h1, h2, h3, p, td, th button, .tiles b, .tiles span, .tag, .soft, button, dt, dd");
      return [...texts].filter((n) => n.textContent.trim() && !n.closest("svg")).map((n) => {
        const a = light(getComputedStyle(n).color), b = light(ground(n));
        return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), n.outerHTML.slice(0, 80)];
      }).filter((pair) => pair[0] < 4.5);
    })()"""
    for dark in (False, True):
        browser.open(write(tmp_path, page.diff(ordinary())), dark)
        assert browser.value(script) == []


def test_every_control_has_a_name_and_is_reached_by_the_tabulator(
    browser: Browser, tmp_path: Path
) -> None:
    browser.open(write(tmp_path, page.diff(ordinary())))
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    for node in tree:
        if node.get("role", {}).get("value") in (
            "button",
            "textbox",
            "searchbox",
            "combobox",
            "image",
            "table",
            "region",
        ):
            assert node.get("name", {}).get("value"), node
    reached = set()
    for _ in range(40):
        browser.press("Tab")
        label = (
            "document.activeElement.getAttribute('aria-label') ||"
            " document.activeElement.textContent.slice(0, 20)"
        )
        reached.add(browser.value(f"document.activeElement.tagName + '.' + ({label})"))
    for wanted in (
        "BUTTON.Light / dark",
        "INPUT.Filter by name",
        "SELECT.Filter by kind of change",
    ):
        assert wanted in reached, reached
    assert any(item.startswith("rect.") for item in reached)


def test_hostile_names_stay_text(browser: Browser, tmp_path: Path) -> None:
    old = manifest(*(entry(name, 0) for name in HOSTILE))
    new = manifest(*(entry(name, 1) for name in HOSTILE))
    report = Report(
        "<i>old</i>",
        "</title><script>window.pwned=1</script>",
        (model(compare(old, new), new.entries, "<img src=x onerror=window.pwned=1>.pt"),),
    )
    text = page.diff(report)
    browser.open(write(tmp_path, text))
    assert browser.errors == []
    assert browser.value("window.pwned") is None
    assert (
        browser.value("document.querySelectorAll('img, b.bold, i, main script, main a').length")
        == 0
    )
    shown = table(browser, 0)
    assert len(shown) == len(HOSTILE)
    assert "<script>window.pwned=1</script>" in shown
    assert "\\u{202e}gnp.exe" in shown
    assert "\\x1b[31mred\\x07" in shown
    assert max(map(len, shown)) < 300
    assert browser.value("document.title").startswith("<img src=x")
    body = browser.value("document.body.innerText")
    assert not {"\u202e", "\x1b", "\u2028", "\ud800"}.intersection(body)
    assert browser.value("document.documentElement.scrollWidth") <= 1240


def test_twenty_thousand_tensors(browser: Browser, tmp_path: Path) -> None:
    many = [
        f"model.layers.{layer}.mlp.experts.{number}.w1.weight"
        for layer in range(80)
        for number in range(250)
    ]
    old, new = (
        manifest(*(entry(name, 0) for name in many)),
        manifest(*(entry(name, 1) for name in many)),
    )
    browser.open(write(tmp_path, page.diff(Report("a", "b", (model(compare(old, new)),)))))
    assert len(table(browser, 0)) == 200
    browser.value(
        "[...document.querySelectorAll('button')].find(b => b.textContent.startsWith('Show"
        " more')).click()"
    )
    assert len(table(browser, 0)) == 1200
    browser.value("document.querySelector('input[type=search]').focus()")
    browser.type("layers.79.mlp.experts.249")
    assert table(browser, 0) == ["model.layers.79.mlp.experts.249.w1.weight"]
    assert browser.errors == []


ONE = compare(manifest(entry("w", 0)), manifest(entry("w", 1)))
INFINITE = Statistics(4096, 4096, 7, 0.0, math.inf, math.inf, None, math.inf, None, (), False, True)
ODD = [
    Report("a", "b", ()),
    Report("a", "b", (ModelReport("broken.pt", None, problem="it is <broken>"),)),
    Report("a", "b", (ModelReport("same.pt", compare(manifest(), manifest())),)),
    Report(
        "a",
        "b",
        (
            model(compare(None, manifest(entry("w", 1)))),
            model(compare(manifest(entry("w", 1)), None)),
        ),
    ),
    Report("a", "b", (ModelReport("unread.pt", ONE, ONE.changes, (None,), measured=False),)),
    Report("a", "b", (ModelReport("infinite.pt", ONE, ONE.changes, (INFINITE,)),)),
]


@pytest.mark.parametrize("report", ODD)
def test_odd_reports(browser: Browser, tmp_path: Path, report: Report) -> None:
    browser.open(write(tmp_path, page.diff(report)))
    assert browser.errors == []
    assert browser.value("document.querySelector('main').textContent.trim().length") > 5


@pytest.mark.parametrize("width", [360, 800, 1600])
def test_any_width(browser: Browser, tmp_path: Path, width: int) -> None:
    browser.call(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=800,
        deviceScaleFactor=1,
        mobile=False,
    )
    try:
        browser.open(write(tmp_path, page.diff(ordinary(48))))
        assert browser.value("document.documentElement.scrollWidth") <= width, (
            "only figures and tables may scroll sideways"
        )
        assert browser.errors == []
    finally:
        browser.call("Emulation.clearDeviceMetricsOverride")


def test_figures_are_saved_as_svg(browser: Browser, tmp_path: Path) -> None:
    browser.open(write(tmp_path, page.diff(ordinary())))
    browser.value(
        "(() => { window.saved = []; URL.createObjectURL = (blob) => { window.saved.push(blob);"
        " return 'blob:x'; }; HTMLAnchorElement.prototype.click = function () { window.savedAs ="
        " this.download; }; for (const b of document.querySelectorAll('button')) if (b.textContent"
        " === 'Save as SVG') b.click(); })()"
    )
    import xml.etree.ElementTree as ET

    texts = browser.value("Promise.all(window.saved.map((blob) => blob.text()))")
    assert len(texts) == 2
    for text in texts:
        root = ET.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(" not in text.replace("var(--empty)", "") or "url(#unknown)" in text
        assert len(list(root.iter("{http://www.w3.org/2000/svg}rect"))) > 20
    assert browser.value("window.savedAs") == "histograms.svg"


def commit(
    number: int, subject: str = "A change", author: str = "Ann", merge: bool = False
) -> Commit:
    parents = (
        tuple(sha(("c", number - 1 - i))[:40] for i in range(2 if merge else 1)) if number else ()
    )
    return Commit(
        sha(("c", number))[:40],
        parents,
        author,
        "a@b.c",
        f"2026-01-{number % 28 + 1:02d}T10:00:00+00:00",
        subject,
        "m.pt",
        sha("b")[:40],
        sha("b")[:40],
    )


def history(count: int) -> list[Step]:
    steps, old = [], None
    for number in range(count):
        new = manifest(
            *(
                entry(
                    name,
                    (number + i) // 7,
                    update=("delta", "sparse", "low-rank", "ia3", "dense", "other")[number % 6],
                )
                for i, name in enumerate(names(6))
            )
        )
        found = compare(old, new)
        steps.append(
            Step(
                commit(number, merge=number == 3),
                found,
                found.changes,
                sum(c.entry.nbytes for c in found.changes),
                1000 * number + 5,
            )
        )
        old = new
    return steps[::-1]


def test_a_history_is_drawn(browser: Browser, tmp_path: Path) -> None:
    steps = history(9)
    browser.open(write(tmp_path, page.log("m.pt", steps)))
    assert browser.errors == []
    assert table(browser, 0) == [step.commit.oid[:10] for step in steps]
    assert browser.value("document.querySelectorAll('[data-cell]').length") > 40
    seen = set()
    for name in ("share", "stored", "update"):
        browser.value(
            f"(() => {{ const s = document.querySelector('.bar select'); s.value = {name!r};"
            " s.dispatchEvent(new Event('change')); })()"
        )
        seen.add(
            browser.value(
                "[...document.querySelectorAll('[data-cell]')].map(c =>"
                " c.getAttribute('fill')).join()"
            )
        )
    assert len(seen) == 3
    browser.value("document.querySelectorAll('table.rows th button')[7].click()")
    assert table(browser, 7)[0] == "8.0 kB"
    browser.value("document.querySelector('input[type=search]').focus()")
    browser.type(steps[2].commit.oid[:8])
    assert table(browser, 0) == [steps[2].commit.oid[:10]]
    assert browser.errors == []


def test_hostile_commits_stay_text(browser: Browser, tmp_path: Path) -> None:
    steps = []
    for number, name in enumerate(HOSTILE):
        found = compare(manifest(entry(name, 0)), manifest(entry(name, 1)))
        steps.append(Step(commit(number, subject=name, author=name), found, found.changes, 10, 5))
    steps.append(Step(commit(99), None, (), problem="<b>not</b> here"))
    browser.open(write(tmp_path, page.log("</script><script>window.pwned=1</script>", steps)))
    assert browser.errors == []
    assert browser.value("window.pwned") is None
    assert (
        browser.value(
            "document.querySelectorAll('img, main b:not(.tiles b), main i, main script').length"
        )
        == 0
    )
    assert len(table(browser, 0)) == len(steps)
    assert not {"\u202e", "\x1b", "\u2028", "\ud800"}.intersection(
        browser.value("document.body.innerText")
    )


@pytest.mark.parametrize("count", [0, 1, 400])
def test_histories_short_and_long(browser: Browser, tmp_path: Path, count: int) -> None:
    browser.open(write(tmp_path, page.log("m.pt", history(count))))
    assert browser.errors == []
    assert len(table(browser, 0)) == min(count, 200)
