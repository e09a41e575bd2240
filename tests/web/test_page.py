"""The page, in a real browser: on a phone and a wide screen, by day and by night, by keyboard and screen reader."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator

import pytest

from tests.web.browser import Browser, Tab, axe, chromium
from tests.web.documents import attempt, flow
from tests.web.scenes import HOSTILE, SCENES
from tests.web.standin_site import STATIC, StandInSite

WIDTHS = (360, 1440)
SCHEMES = ("light", "dark")

LOOKED_AT = {"normal": [(360, "light"), (360, "dark"), (1440, "light"), (1440, "dark")]}
"""Where axe-core looks at a scene; at the others at each width, and in each scheme, once: it takes its time."""

OVERFLOWING = """
(() => {
  const root = document.querySelector("dialog[open]") ?? document.body;
  const isSeen = (one) => one.checkVisibility() && !one.closest(".unseen, .skip, .sprite, .rows thead, svg");
  const words = (one) => `${one.tagName}.${one.className} ${one.textContent.slice(0, 40)}`;
  const found = [...root.querySelectorAll("*")].filter(isSeen).filter((one) => {
    const { left, right, width } = one.getBoundingClientRect();
    const isBox = getComputedStyle(one).display !== "inline" && one.clientWidth;
    const spills = isBox && one.scrollWidth > one.clientWidth + 1;
    return width && (left < -0.5 || right > innerWidth + 0.5 || spills);
  }).map(words);
  const page = document.scrollingElement;
  return page.scrollWidth > innerWidth ? [`the page is ${page.scrollWidth} wide`, ...found] : found;
})()
"""

RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")

INTERACTIVE = "a[href], button, summary, input, select, [tabindex='0']"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all. Without one, or without axe-core, there is no test; but CI has to have both."""
    if not os.environ.get("CI") and (chromium() is None or axe() is None):
        pytest.skip("needs Chromium (apt-get install chromium) and axe-core (npm; CODEXPOOL_AXE: its axe.min.js)")
    started = Browser(tmp_path_factory.mktemp("browser"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def axe_core() -> str:
    file = axe()
    assert file is not None, "needs axe-core: npm install axe-core, and CODEXPOOL_AXE with the path of its axe.min.js"
    return file.read_text()


@pytest.fixture
def site() -> Iterator[StandInSite]:
    with StandInSite() as standin:
        yield standin


@pytest.fixture
def tab(browser: Browser) -> Iterator[Tab]:
    opened = browser.tab()
    yield opened
    opened.close()


def shown(tab: Tab, site: StandInSite, at: str = "/") -> Tab:
    """The page, once all that the proxy knows is on it."""
    tab.open(site.url + at)
    listed = [one for one in site.scene.events if one["event"] not in ("request", "socket")]
    events = min(200, len(listed))
    rows = f"document.querySelectorAll('#events-list > li').length >= {events}"
    tab.wait(f"!document.getElementById('content').hidden && {rows} && {_rows(len(site.scene.flows))}")
    return tab


def _rows(many: int) -> str:
    return f"document.querySelectorAll('#requests-rows > tr').length === {many}"


def violations(tab: Tab, axe_core: str) -> list[str]:
    """What axe-core finds fault with. (Rows are alike: of long lists it looks at the first ones.)"""
    if not tab.run("'axe' in window"):
        tab.run(f"{axe_core}; 0")
    lists = ("#requests-rows", "#hour-rows", "#events-list", "#sessions-rows", ".identities")
    where = {"include": [["html"]], "exclude": [[f"{one} > :nth-child(n + 13)"] for one in lists]}
    options = {"resultTypes": ["violations"], "runOnly": RULES, "preload": False}
    words = "(one) => `${one.id}: ${one.nodes.map((n) => `${n.html.slice(0, 200)} ${n.failureSummary}`)}`"
    run = f"axe.run({json.dumps(where)}, {json.dumps(options)})"
    found: list[str] = tab.run(f"{run}.then((one) => one.violations.map({words}))")
    return found


def hurry(tab: Tab) -> None:
    """Have the page ask for the status now, as it does when the machine's network is back."""
    tab.run("dispatchEvent(new Event('online'))")


def text(tab: Tab, selector: str) -> str:
    found: str = tab.run(f"document.querySelector({selector!r}).innerText")
    return found


HIDDEN = r"/[\u0000\u001b\u200b\u202a-\u202e\u2066-\u2069]/.test(document.documentElement.outerHTML)"


def check_text_only(tab: Tab, site: StandInSite) -> None:
    """Check that no value of the hostile scene is markup, or changes how the text around it reads."""
    assert tab.run("window.pwned === undefined")
    loaded = "[...document.querySelectorAll('script, img, iframe, object')].map((one) => one.src)"
    assert tab.run(loaded) == [f"{site.url}/page.js"]
    assert not tab.run(HIDDEN), "what turns text round or cannot be seen is to be shown as what it is"


@pytest.mark.parametrize("name", SCENES)
def test_the_page_fits_is_accessible_and_asks_no_other_host(
    name: str, tab: Tab, site: StandInSite, axe_core: str
) -> None:
    site.show(name)

    shown(tab, site)
    tab.run("document.querySelectorAll('body details').forEach((one) => (one.open = true))")
    tab.run("document.getElementById('ids').click()")

    for width in WIDTHS:
        for scheme in SCHEMES:
            tab.look(width, scheme)
            assert tab.run(OVERFLOWING) == [], (width, scheme)
            if (width, scheme) in LOOKED_AT.get(name, [(360, "light"), (1440, "dark")]):
                assert violations(tab, axe_core) == [], (width, scheme)
    assert tab.console() == []
    assert {url for url in tab.requested() if not url.startswith((site.url, "data:"))} == set()


@pytest.mark.parametrize(("name", "number"), [("normal", 1), *(("hostile", n) for n in range(len(HOSTILE)))])
def test_a_request_in_detail_fits_and_reads_well(
    name: str, number: int, tab: Tab, site: StandInSite, axe_core: str
) -> None:
    site.show(name)
    found = site.scene.flows[number]

    shown(tab, site, f"/#flow/{found['id']}")
    tab.wait("!document.getElementById('flow-content').hidden")
    tab.run("document.querySelectorAll('#flow details').forEach((one) => (one.open = true))")
    check_text_only(tab, site)

    for width in WIDTHS:
        for scheme in SCHEMES:
            tab.look(width, scheme)
            assert tab.run(OVERFLOWING) == [], (width, scheme)
            if number == 1 and (width, scheme) in [(360, "light"), (1440, "dark")]:
                assert violations(tab, axe_core) == [], (width, scheme)
    assert tab.console() == []


def test_foreign_values_are_only_text(tab: Tab, site: StandInSite) -> None:
    site.show("hostile")

    shown(tab, site)

    check_text_only(tab, site)


def test_everything_works_with_the_keyboard(tab: Tab, site: StandInSite) -> None:
    shown(tab, site)
    tab.run(f"window.all = [...document.querySelectorAll({INTERACTIVE!r})].filter((one) => one.checkVisibility()); 0")
    many = tab.run("all.length")
    outlined = (
        "['', '::after'].some((part) => getComputedStyle(document.activeElement, part).outlineStyle !== 'none')"
    )

    reached = []
    for _ in range(many):
        tab.press("Tab")
        reached.append(tab.run("all.indexOf(document.activeElement)"))
        assert tab.run(outlined), tab.run("document.activeElement.outerHTML")

    assert reached == list(range(many)), "everything, in the order in which it stands"
    for link in ("#events-list a", "#requests-rows a"):  # Their details open over the page.
        tab.run(f"document.querySelector({link!r}).focus()")
        tab.press("Enter")
        tab.wait("!document.getElementById('flow-content').hidden")
        tab.wait("document.activeElement.id !== ''")  # What was shown before may be there still.
        assert tab.run("document.activeElement.id") == "flow-title"
        tab.press("Tab")
        assert tab.run("document.activeElement.id") == "flow-close"
        tab.press("Escape")
        tab.wait("!document.getElementById('flow').open")
        assert tab.run(f"document.activeElement === document.querySelector({link!r})")
        tab.wait("location.hash === ''")  # A dialog tells that it was closed a moment after.
    tab.press("ArrowDown")
    assert tab.run("document.activeElement === document.querySelectorAll('#requests-rows a')[1]")


def test_the_skip_links_lead_past_the_lists(tab: Tab, site: StandInSite) -> None:
    shown(tab, site)

    for link in tab.run("[...document.querySelectorAll('.skip')].map((one) => one.getAttribute('href'))"):
        tab.run(f"document.querySelector('.skip[href=\"{link}\"]').focus()")
        assert tab.run("document.activeElement.getBoundingClientRect().width") > 20, (
            "it is seen once it has the focus"
        )
        tab.press("Enter")
        tab.wait(f"document.activeElement === document.querySelector({link!r})")


def test_a_request_in_detail_says_what_the_proxy_says(tab: Tab, site: StandInSite) -> None:
    found = site.scene.flows[1]

    shown(tab, site, f"/#flow/{found['id']}")
    tab.wait("!document.getElementById('flow-content').hidden")

    assert text(tab, "#flow-route").split("\n") == [
        "client",
        "127.0.0.1",
        "work",
        "401 refused",
        "spare",
        "200",
        "client",
        "200",
    ]
    assert "row 7: the backend refuses a PAT" in text(tab, "#flow-explanation")
    assert "evidence: 401 token_revoked on codex/responses" in text(tab, "#flow-attempts")
    rows = [line.split() for line in text(tab, "#flow-headers").split("\n") if line.startswith(("~", "+", "-", "="))]
    assert rows == [["~", "replaced"]] * 2 + [["+", "added"], ["-", "removed"]] + [["=", "kept"]] * 3
    assert "PAT 48 chars sha256:40c025b2aff6" in text(tab, "#flow-headers")
    tab.run("document.getElementById('flow-changed').click()")
    assert tab.run("document.querySelectorAll('#flow-headers > tr').length") == 4
    assert text(tab, "#flow-time").count("ms") == 4


def test_a_forgotten_request_is_reported_as_such(tab: Tab, site: StandInSite) -> None:
    shown(tab, site, "/#flow/%E0%A4%A")

    tab.wait("document.getElementById('flow-words').innerText.includes('no longer remembers this request')")


def test_the_list_updates_itself_and_stays_bounded(tab: Tab, site: StandInSite) -> None:
    shown(tab, site)

    site.say("POST /backend-api/codex/responses: 200, the-new-one", flow="x")
    tab.wait("document.querySelector('#events-list > li').innerText.includes('the-new-one')")
    for number in range(300):
        site.say(f"event {number} of many")

    tab.wait("document.querySelector('#events-list > li').innerText.includes('event 299 of many')")
    assert tab.run("document.querySelectorAll('#events-list > li').length") == 200
    site.scene.status["identities"][1]["status"] = "resting"
    hurry(tab)
    tab.wait("document.querySelector('#identities-list').innerText.includes('resting')")


def test_rows_stay_in_place_while_a_person_reads(tab: Tab, site: StandInSite) -> None:
    for number in range(20):
        site.say(f"event {number}", flow="x")
    shown(tab, site)
    first = "document.querySelector('#events-list > li').innerText"
    waits = "!document.getElementById('held').hidden && document.getElementById('held-show').innerText"

    tab.run("document.querySelector('#events-list a').focus()")
    site.say("while a row has the focus")
    tab.wait(f"{waits} === 'Show 1 new event'")
    assert "while a row" not in tab.run(first)
    tab.run("document.activeElement.blur()")
    tab.wait(f"{first}.includes('while a row has the focus')")

    tab.run("document.getElementById('events-panel').scrollTop = 60")
    site.say("while it is scrolled")
    tab.wait(f"{waits} === 'Show 1 new event'")
    assert tab.run("document.getElementById('events-panel').scrollTop") == 60
    tab.run("document.getElementById('held-show').click()")
    assert "while it is scrolled" in tab.run(first)
    tab.run("document.activeElement.blur()")

    tab.run("document.getElementById('pause').click()")
    site.say("while it is paused")
    tab.wait(f"{waits} === 'Show 1 new event'")
    assert tab.run("document.getElementById('pause').getAttribute('aria-pressed')") == "true"
    tab.run("document.getElementById('pause').click()")
    tab.wait(f"{first}.includes('while it is paused')")


def test_focus_selection_and_scroll_survive_an_update(tab: Tab, site: StandInSite) -> None:
    shown(tab, site)
    tab.run("document.querySelectorAll('#requests-rows a')[5].focus()")
    tab.run(
        "window.kept = document.activeElement; getSelection().selectAllChildren(document.querySelector('.who')); 0"
    )
    tab.run("document.getElementById('requests-panel').scrollTop = 90; scrollTo(0, 300)")
    place = "kept.getBoundingClientRect().top - kept.closest('.scroller').getBoundingClientRect().top"
    before, selected = tab.run(place), tab.run("String(getSelection())")

    site.scene.flows.insert(0, flow(99, attempt(1, "latest")))
    site.say("a request", flow=site.scene.flows[0]["id"])
    tab.wait("document.querySelector('#events-list').innerText.includes('a request')")
    hurry(tab)

    tab.wait("document.querySelector('#requests-rows').innerText.includes('latest')")
    assert tab.run("document.activeElement === kept")
    assert tab.run(place) == pytest.approx(before, abs=1)
    assert tab.run("String(getSelection())") == selected
    assert tab.run("scrollY") == 300


def test_a_screen_reader_is_told_little_of_many_events(tab: Tab, site: StandInSite) -> None:
    shown(tab, site)
    tab.run("""
      window.said = [];
      const told = document.getElementById("announcement");
      new MutationObserver(() => said.push(told.textContent)).observe(told, { childList: true });
    """)

    for number in range(40):
        site.say(f"event {number}")
        time.sleep(0.05)
    tab.wait("document.querySelector('#events-list > li').innerText.includes('event 39')")

    assert len(tab.run("said")) <= 1
    assert tab.run("document.querySelectorAll('[aria-live]').length") == 1
    assert not tab.run("Boolean(document.getElementById('events-list').closest('[aria-live]'))")


def test_it_outlives_a_restart_of_the_proxy(tab: Tab, site: StandInSite) -> None:
    shown(tab, site)

    site.stop()
    hurry(tab)
    tab.wait("document.getElementById('notices').innerText.includes('The proxy does not answer since')")
    assert text(tab, "#link") == "no answer"
    assert "Put a new token at" in text(tab, "#identities-list"), "what was known stays"
    assert text(tab, "#headline") == "Last known: Serving: 1 of 5 ready, 1 needs you"
    site.begin_anew()
    site.start()

    tab.wait("document.getElementById('link').innerText === 'live'")
    assert "does not answer" not in text(tab, "#notices")
    site.say("first of the new run")
    tab.wait("document.querySelector('#events-list > li').innerText.includes('first of the new run')")
    assert "The proxy was restarted." in text(tab, "#events-list > li:nth-child(2)")
    assert tab.run("document.querySelectorAll('#requests-rows > tr').length") == 0


def test_it_notices_a_restart_between_two_questions(tab: Tab, site: StandInSite) -> None:
    shown(tab, site)

    site.begin_anew()
    for number in range(40):
        site.say(f"event {number} of the new run")
    tab.wait("document.querySelector('#events-list').innerText.includes('event 39 of the new run')")
    hurry(tab)

    rows = "[...document.querySelectorAll('#events-list .words')].map((one) => one.innerText)"
    tab.wait(f"{rows}[40].startsWith('The proxy was restarted.')")
    assert tab.run(rows)[:40] == [f"event {number} of the new run" for number in reversed(range(40))]


def test_it_says_why_the_proxy_does_not_serve_it(tab: Tab, site: StandInSite) -> None:
    site.refusal = "this page is only available on the machine that the proxy runs on"

    tab.open(site.url)

    tab.wait(f"document.getElementById('notices').innerText.includes({site.refusal!r})")
    assert tab.run("document.getElementById('content').hidden"), "no empty lists, of which nothing is known"


def test_the_chart_is_also_text_and_a_table(tab: Tab, site: StandInSite) -> None:
    minutes, series = site.scene.status["hour"], site.scene.status["hour_by_identity"]
    total = {what: sum(one[what] for one in minutes) for what in ("requests", "refusals", "failures", "moves")}

    shown(tab, site)
    tab.run("document.querySelector('#hour-details summary').click()")
    tab.wait("document.querySelector('#hour-rows > tr')")

    assert tab.run("document.querySelector('#chart svg').getAttribute('aria-labelledby')") == "chart-words"
    words = "{requests} requests, {refusals} refusals, {failures} failure, {moves} moves".format(**total)
    assert words in text(tab, "#chart-words")
    rows = "[...document.querySelectorAll('#hour-rows > tr')]"
    told = tab.run(f"{rows}.map((row) => [...row.cells].slice(1, 5).map((one) => +one.innerText))")
    assert [sum(column) for column in zip(*told, strict=True)] == list(total.values())
    now = minutes[-1]["requests"]
    parts = [f"{one['identity']} {one['requests'][-1]}" for one in series if one["requests"][-1]]
    assert parts
    assert all(part in tab.run(f"{rows}[0].cells[5].innerText") for part in parts), now
    bars = "[...document.querySelectorAll('#chart g > rect.KIND')].filter((bar) => +bar.getAttribute('height') > 0)"
    for kind in ("refusals", "failures"):
        heights = tab.run(f"{bars.replace('KIND', kind)}.map((bar) => +bar.getAttribute('height'))")
        assert len(heights) == sum(bool(one[kind]) for one in minutes)
        assert min(heights) >= 7, "one can be seen"
    assert tab.run("document.querySelectorAll('#chart path.moves[d^=M]').length") == 3
    for slot, one in enumerate(series):
        of = sum(bool(number) for number in one["requests"])
        assert tab.run(f"{bars.replace('KIND', f'of-{slot}')}.length") == of
        assert f"{one['identity']} {sum(one['requests'])}" in text(tab, "#legend")


def test_usage_is_a_meter_that_says_its_words(tab: Tab, site: StandInSite) -> None:
    shown(tab, site)

    meter = "document.querySelector('#identities-list [role=meter]')"
    names = ("aria-label", "aria-valuenow", "aria-valuetext")
    assert tab.run(f"{list(names)}.map((name) => {meter}.getAttribute(name))") == [
        "5 h window",
        "75",
        "75 % used, 78 % of its time has passed",
    ]
    assert tab.run(f"{meter}.firstChild.getBoundingClientRect().width / {meter}.clientWidth") == pytest.approx(
        0.75, abs=0.01
    )
    identities = text(tab, "#identities-list")
    assert re.search(r"5 h\s+75 % used\s+resets in 1 h [56] min", identities)
    assert "without gpt-large, which others have" in identities
    assert re.search(r"2 reset credits, the first expires\sin [89] d", identities)


def test_the_headline_says_how_it_stands_and_the_cards_what_to_do(tab: Tab, site: StandInSite) -> None:
    shown(tab, site)

    assert text(tab, "#headline") == "Serving: 1 of 5 ready, 1 needs you"
    assert text(tab, "#headline-words") == "1 suspect · 1 limited · 1 paused"
    groups = tab.run(
        "[...document.querySelectorAll('.group')].map((one) => one.innerText.split('\\n').filter(Boolean))"
    )
    assert [(group[0], group[1]) for group in groups] == [
        ("Needs you 1", "work"),
        ("Ready 1", "spare"),
        ("Limited or resting 1", "batch"),
        ("Paused 1", "holiday"),
        ("Being checked 1", "night-shift"),
    ]
    dead, ready = (text(tab, f".group:nth-child({place})") for place in (1, 2))
    assert "work@example.com" in dead
    assert not re.search(r"% used|% left|expected to expire", dead), "it does not matter any more"
    assert re.search(r"39 % left\s+2.3M tokens today", ready.replace("·", ""))
    assert "acc-spare" not in ready

    tab.run("document.getElementById('ids').click()")
    assert "acc-spare · user-spare · sha256:1a2b3c4d5e6f" in text(tab, ".group:nth-child(2)")

    tab.run("document.querySelector('.call .copy').click()")
    tab.wait("document.querySelector('.call .copy').innerText !== 'Copy'")
    assert tab.run("document.querySelector('.call .command code').innerText") == "codexpool replace work"
    tab.wait("document.getElementById('announcement').innerText === document.querySelector('.call .copy').innerText")

    site.scene.status["identities"][1]["status"] = "needs_login"
    hurry(tab)
    tab.wait("document.getElementById('headline').innerText === 'Not serving: 0 of 5 ready, 2 need you'")
    assert re.match(r"The first one returns at \d\d:\d\d \(in 1\d min\)\. 1 suspect", text(tab, "#headline-words"))
    assert "(2) codexpool" in tab.run("document.title")


def test_an_empty_pool_shows_the_two_lines_that_lead_on(tab: Tab, site: StandInSite) -> None:
    site.show("empty")
    shown(tab, site)

    assert text(tab, "#headline") == "No pool yet"
    lines = tab.run("[...document.querySelectorAll('#begin-section .command code')].map((one) => one.innerText)")
    assert lines == ["codexpool add NAME", 'eval "$(codexpool env)" && codex']
    assert not tab.run("document.getElementById('lists').checkVisibility()"), "nothing but empty lists"
    tab.run("document.querySelector('#away').click()")
    assert "ssh -N -L 8080:127.0.0.1:8080 HOST" in text(tab, ".away")

    path = "/home/you/.config/codexpool/pool.toml"
    file = {"path": path, "read_at": time.time(), "missing": True, "problem": ""}
    site.scene.status.update(pool_file=file)
    site.scene.status["proxy"]["pool"] = path
    hurry(tab)
    tab.wait("document.getElementById('headline').innerText === 'No identities'")
    assert text(tab, "#headline-words") == f"There is no {path}. Requests are refused until there is one."

    site.show("normal")
    hurry(tab)

    tab.wait("document.getElementById('lists').checkVisibility()")
    assert not tab.run("document.getElementById('begin-section').checkVisibility()")


def test_the_lists_are_filtered_and_a_reload_keeps_it(tab: Tab, site: StandInSite) -> None:
    site.show("fleet")
    shown(tab, site)
    listed = "[...document.querySelectorAll('ROWS')].filter((one) => one.checkVisibility())"
    rows = {
        name: listed.replace("ROWS", f"#{name} > *") for name in ("requests-rows", "events-list", "sessions-rows")
    }
    of_work = sum(any(a["identity"] == "work" for a in one["attempts"]) for one in site.scene.flows)

    tab.run(
        "const field = document.getElementById('filter-identity'); field.value = 'work';"
        "field.dispatchEvent(new Event('change')); 0"
    )

    tab.wait(f"{rows['requests-rows']}.length === {of_work}")
    words = tab.run(f"{rows['events-list']}.map((one) => one.querySelector('.words').innerText)")
    assert [word.split(":")[0].split(" ")[0] for word in words] == ["work", "session"]
    assert tab.run(f"{rows['sessions-rows']}.length") == 0
    assert text(tab, "#sessions-none") == "No session fits the filter."
    assert tab.run("location.search") == "?identity=work"

    tab.open(tab.run("location.href"))
    tab.wait(f"{rows['requests-rows']}.length === {of_work}")
    assert tab.run("document.getElementById('filter-identity').value") == "work"

    tab.run("document.getElementById('filters-clear').click()")
    tab.wait(f"{rows['requests-rows']}.length === {len(site.scene.flows)}")
    tab.run("document.querySelector('#sessions-rows a').click()")  # leads to the requests of the session
    key = site.scene.status["sessions"][0]["key"]
    tab.wait(f"{rows['sessions-rows']}.length === 1")
    assert tab.run("[document.activeElement.id, document.getElementById('filter-session').value]") == [
        "requests",
        key,
    ]


def test_a_pool_file_that_is_not_used_and_an_upgrade_are_notices(tab: Tab, site: StandInSite) -> None:
    site.show("breaker")
    shown(tab, site)

    notices = text(tab, "#notices")
    assert re.search(r"not used as it is now: .*line 7.* stays in use.\s+codexpool config check", notices)
    assert "Restart the proxy to upgrade: codexpool 0.2.0 is installed, and 0.1.0 runs." in notices
    assert "codexpool breaker --close" in notices
    assert text(tab, "#headline") == "Not serving: 0 of 3 ready, 3 need you"


def test_members_are_shown_with_what_they_used(tab: Tab, site: StandInSite) -> None:
    site.show("fleet")
    shown(tab, site)

    rows = tab.run(
        "[...document.querySelectorAll('#members-rows > tr')]"
        ".map((row) => [...row.cells].map((one) => one.innerText))"
    )
    assert [row[:2] for row in rows] == [["ann", "valid"], ["bob", "valid"], ["contractor", "revoked"]]
    assert [row[2:5] for row in rows] == [
        ["1 of 4", "212 of 2,000", "9.4M"],
        ["1", "212", "9.4M"],
        ["0 of 4", "0 of 2,000", ""],
    ]
    assert text(tab, "#sessions-rows > tr td.member") == "ann"


def test_pins_are_listed_with_the_sessions(tab: Tab, site: StandInSite) -> None:
    shown(tab, site)

    assert re.search(r"2 sessions are pinned:\s+01a1fc00\S+ to batch, \d+ \w+ ago", text(tab, "#pins"))


def test_the_fleet_is_listed_and_a_lost_state_is_a_notice(tab: Tab, site: StandInSite) -> None:
    shown(tab, site)
    assert not tab.run("document.getElementById('fleet-section').checkVisibility()")  # one proxy with its file

    site.show("fleet")
    hurry(tab)

    tab.wait("document.getElementById('fleet-section').checkVisibility()")
    fleet = text(tab, "#fleet-section")
    assert "postgresql://db.example:5432/codexpool" in fleet
    assert re.search(r"pool-a this proxy · codexpool 0.1.0 · process 4242 · 9 sessions · started 3 h ago", fleet)
    assert re.search(r"pool-c codexpool 0.0.9 .*last heartbeat [12] min ago", fleet)
    assert re.search(r"out of reach. .* lost since .*\(12 rows so far\)", text(tab, "#notices"))


def test_without_scripts_it_names_the_command(tab: Tab, site: StandInSite) -> None:
    tab.call("Emulation.setScriptExecutionDisabled", value=True)

    tab.call("Page.navigate", url=site.url)

    tab.wait("document.querySelector('noscript')?.innerText.includes('codexpool status')")
    assert "/api/status" in text(tab, "main")
    assert tab.run("document.getElementById('content').hidden")


def test_the_csp_allows_nothing_else(tab: Tab, site: StandInSite) -> None:
    shown(tab, site)
    tab.run("window.refused = []; 0")
    tab.run("addEventListener('securitypolicyviolation', (event) => refused.push(event.effectiveDirective))")

    with StandInSite() as other:
        tab.run(
            "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.pwned = 1'}))"
        )
        tab.run(f"fetch('{other.url}/api/status').catch(() => 0)")
        tab.run(f"document.body.append(Object.assign(new Image(), {{src: '{other.url}/x.png'}}))")
        tab.wait("refused.length === 3")

        assert other.asked == []
    assert tab.run("window.pwned === undefined")
    assert sorted(tab.run("refused")) == ["connect-src", "img-src", "script-src-elem"]


def test_the_files_fit_a_strict_csp() -> None:
    texts = {file.name: file.read_text().replace("http://www.w3.org/2000/svg", "") for file in STATIC.iterdir()}

    script = '<script type="module" src="/page.js"></script>'
    assert texts["index.html"].count(script) == texts["index.html"].count("<script") == 1
    assert re.findall(r"\son\w+=|\sstyle=|<style", texts["index.html"]) == []
    for name, words in texts.items():
        dangerous = r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|Function\(|setHTML"
        elsewhere = r"https?://(?!chatgpt\.com\"|127\.0\.0\.1|<span|codex\.pool/`)"
        assert re.findall(f"{dangerous}|{elsewhere}", words) == [], name
        assert len(words.splitlines()) < 300, name
