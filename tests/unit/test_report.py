"""The facts of the report, and the page that is made of them, for a site that is made up."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

import pytest
from netaddr import IPAddress
from playwright.sync_api import Browser
from playwright.sync_api import Page as Tab

from tests.browser import browser, watch
from tests.unit import site
from underlay.access.endpoints import Endpoint
from underlay.access.sessions import Links, UnreachableError
from underlay.access.target import Target
from underlay.desired.traffic import Flow
from underlay.doctor import run as doctor
from underlay.doctor.cause import Cause, Diagnosis
from underlay.guard import history
from underlay.guard.history import Entries
from underlay.observe import exchange
from underlay.observe import state as states
from underlay.observe.exchange import Outcome
from underlay.observe.state import HostState
from underlay.plan import REPO, Host, Plan, load
from underlay.report import facts as report
from underlay.report import html as page
from underlay.report.facts import Facts

HOSTILE = "</code></script><script>document.title = 'hostile'</script><img src=x onerror=alert(1)>"
ENTRY = {
    "number": 2,
    "time": "2026-03-01 02:10:00 +0000",
    "who": "ada@laptop",
    "commit": "0123456789ab",
    "what": ["one"],
}
Told = Callable[[Plan, Host], HostState]
Gather = Callable[..., Facts]


def good(flow: Flow) -> Outcome:
    if flow.must_not:
        return Outcome(error="no answer within 1 s")
    return Outcome(receiver=flow.receivers[0], seen_as=str(flow.seen_as), tracked=flow.tracked)


@pytest.fixture
def plan() -> Plan:
    return load(REPO / "group_data" / "all.py")


@pytest.fixture
def gather(plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gather:
    """The facts of a made-up site: all good, but for the hosts that are dead and what is said to be otherwise."""

    def make(
        dead: Iterable[str] = (),
        told: Told = site.state,
        outcome: Callable[[Flow], Outcome] = good,
        entries: Entries | None = None,
        of: Plan = plan,
        found: Iterable[Cause] = (),
    ) -> Facts:
        dead = frozenset(dead)

        def check(_: Links, name: str) -> None:
            if name in dead:
                raise UnreachableError(f"{name} can't be reached at 192.0.2.1: no answer")

        def read(links: Links, plan: Plan, host: Host, *_: object) -> HostState:
            links.check(host.name)
            return told(plan, host)

        def run(flows: Iterable[Flow], *_: object) -> dict[Flow, Outcome]:
            return {flow: Outcome("dead", unasked=True) if flow.hosts & dead else outcome(flow) for flow in flows}

        def changes(_: Target, hosts: Iterable[Host], __: Links) -> dict[str, Entries | UnreachableError]:
            return {h.name: UnreachableError(f"{h.name}: no") if h.name in dead else entries or [] for h in hosts}

        monkeypatch.setattr(Links, "open", lambda *_: None)
        monkeypatch.setattr(Links, "check", check)
        monkeypatch.setattr(states, "read", read)
        monkeypatch.setattr(exchange, "run", run)
        monkeypatch.setattr(history, "read", changes)
        monkeypatch.setattr(doctor, "examine", lambda _: Diagnosis(tuple(found)))
        endpoints = tuple(Endpoint(host.name, host.primary.address) for host in of.hosts)
        outside = IPAddress("203.0.113.1")
        (tmp_path / "config").touch()
        return report.gather(Target(of, "ssh", None, endpoints, tmp_path / "config", tmp_path / "known", outside))

    return make


class Page(HTMLParser):
    """What a page has: its tags with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_everything_as_planned(plan: Plan, gather: Gather) -> None:
    """Every host, connection and rule is good, with figures, the lines of the plan, and who asked when."""
    facts = gather(entries=[ENTRY])
    assert {host.name: host.word for host in facts.hosts} == {
        **dict.fromkeys(("dev", "images"), "reachable"),
        **dict.fromkeys(("gateway", "jumphost", "lb", "master-1"), "as planned"),
    }
    assert {flow.verdict for flow in facts.flows} == {"good"}
    assert sum(flow.must_not for flow in facts.flows) == 15
    assert [(rule.state, rule.packets, rule.bytes) for rule in facts.rules] == [("good", 7, 700)] * 22
    assert all("group_data/all.py:" in rule.plan for rule in facts.rules)
    assert {nic.state for host in facts.hosts for nic in host.nics if host.role == "master"} == {"good"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", facts.generated)
    assert "@" in facts.by
    assert facts.hosts[2].history == [ENTRY]
    assert page.summary(facts) == "as planned"
    html = page.page(plan, facts)
    assert "No difference from the plan was found" in html
    assert "What needs attention" not in html


def test_facts_as_json(gather: Gather) -> None:
    """All of it is plain data."""
    facts = gather(told=lambda plan, host: site.without_address(plan, host, host.primary.network), entries=[ENTRY])
    document = json.loads(json.dumps(asdict(facts)))
    assert document["hosts"][5]["differences"][0]["kind"] == "missing"
    assert document["flows"][0]["verdict"] == "good"


def test_dead_gateway(plan: Plan, gather: Gather) -> None:
    """With nothing reachable there is still a page: it says what can't be reached, and calls nothing else wrong."""
    facts = gather(dead=["gateway", "jumphost", "lb", "master-1"])
    assert [host.state for host in facts.hosts] == ["good", "good", "bad", "bad", "bad", "bad"]
    assert {flow.verdict for flow in facts.flows} == {"unknown"}
    assert {rule.state for rule in facts.rules} == {"unknown"}
    assert page.summary(facts) == "2 things need attention"
    text = " ".join(Page(page.page(plan, facts)).text.split())
    assert "gateway can't be reached at 192.0.2.1: no answer" in text
    assert "jumphost, lb, master-1 can't be reached either" in text
    assert "Drift - 4 not read" in text or "Drift-4 not read" in text


def test_what_the_doctor_found(plan: Plan, gather: Gather) -> None:
    """His causes, with their fixes, in place of what follows from them; what got in is no consequence."""

    def outcome(flow: Flow) -> Outcome:
        if flow.must_not and flow.source == "dev":
            return Outcome(receiver=flow.receivers[0], seen_as="192.168.0.105")
        return Outcome(error="no answer within 3 s") if flow.source == "lb" else good(flow)

    live = Cause("service-down", "lb", "lb: nginx does not run", ("it was stopped",), "./inv deploy lb_nginx")
    late = Cause("boot-differs", "gateway", "gateway: forgets its rules", (), "ip x", at="at its console", latent=True)
    facts = gather(outcome=outcome, dead=["jumphost"], found=[live, late])
    html = page.page(plan, facts)
    text = " ".join(Page(html).text.split())
    for words in (live.cause, "it was stopped", f"fix: {live.fix}", late.cause, "fix (at its console): ip x"):
        assert words in text
    assert "jumphost can't be reached at" not in text[text.index("What needs") : text.index("Topology")]
    assert page.summary(facts).startswith("3 things")
    assert '<li class="attention">' in html
    assert json.loads(json.dumps(asdict(facts)))["findings"][0]["fix"] == live.fix


def test_host_that_nobody_deploys_and_that_cannot_be_asked(gather: Gather) -> None:
    """It is unknown, not wrong; so are its connections."""
    facts = gather(dead=["dev"])
    assert (facts.hosts[0].state, facts.hosts[0].word) == ("unknown", "can't be asked")
    assert {flow.verdict for flow in facts.flows if "dev" in (flow.source, *flow.receivers)} == {"unknown"}
    assert page.summary(facts) == "as planned"


def test_drift(plan: Plan, gather: Gather) -> None:
    """A host that is not as planned is told with its differences, its NIC, and the line of the plan."""

    def told(plan: Plan, host: Host) -> HostState:
        return site.without_address(plan, host, "storage") if host.role == "master" else site.state(plan, host)

    master = gather(told=told).hosts[5]
    assert (master.state, master.word) == ("attention", "1 difference from the plan")
    assert [(nic.network, nic.word) for nic in master.nics if nic.state == "bad"] == [("storage", "no address")]
    assert master.differences[0].plan.endswith("hosts.master-1.addresses.storage")


def test_missing_rule(plan: Plan, gather: Gather) -> None:
    """A rule of the plan that has no counter is not there."""

    def told(plan: Plan, host: Host) -> HostState:
        planned = site.state(plan, host)
        return site.state(plan, host, counters=planned.counters[1:])

    facts = gather(told=told)
    assert [(rule.state, rule.packets) for rule in facts.rules[:2]] == [("bad", None), ("good", 7)]


def test_host_that_cannot_be_read(gather: Gather) -> None:
    """What can't be read is not as planned, and the reason is told."""
    facts = gather(told=lambda _, host: HostState(host.name, {}))
    assert {host.word for host in facts.hosts[2:]} == {"can't be read"}
    assert facts.hosts[2].reason == "network of gateway can't be read: it was not read"
    assert {nic.state for host in facts.hosts for nic in host.nics} == {"unknown"}


def test_matrix(plan: Plan, gather: Gather) -> None:
    """Each connection is behind one cell, whose mark is that of its worst; each cell leads to its words."""

    def outcome(flow: Flow) -> Outcome:
        if flow.must_not and flow.source == "dev":
            return Outcome(receiver=flow.receivers[0], seen_as="192.168.0.105")
        if str(flow.source_address) == "100.64.32.2":
            return Outcome(error="no answer within 3 s")
        return good(flow)

    facts = gather(outcome=outcome)
    found = Page(page.page(plan, facts))
    cells = [each for tag, each in found.tags if tag == "a" and (each.get("class") or "").startswith("cell ")]
    by_label = {each["aria-label"]: each for each in cells}
    assert by_label["jumphost to master-1 100.64.64.2, any port: works as planned"]["class"] == "cell good"
    assert by_label["master-1 to lb 192.168.0.53, any port: not as planned"]["class"] == "cell bad"
    assert by_label["dev to lb 100.64.0.53, any port: must not get through, but does"]["class"] == "cell got-in"
    assert (
        by_label["internet to lb 100.64.0.53, any port: must not get through, and does not"]["class"] == "cell kept-out"
    )
    assert by_label["dev to lb 192.168.0.53, port 80: works as planned"]["class"] == "cell good"
    anchors = [f"#{each['id']}" for tag, each in found.tags if tag == "article" and each.get("id")]
    assert [each["href"] for each in cells] == [each for each in anchors if each.startswith("#connection-")]
    assert found.text.count("\nExpected") == len(facts.flows)
    for flow in facts.flows:
        assert flow.expected in found.text
        assert all(line in found.text for line in flow.why)
    assert page.summary(facts).startswith("4 things")


def test_texts_of_others_stay_texts(plan: Plan, gather: Gather) -> None:
    """Whatever a host or a person wrote, the page has no script and no element but its own."""

    def told(plan: Plan, host: Host) -> HostState:
        planned = site.state(plan, host)
        rules = dict(planned.firewall.live)
        chains = {**rules["filter"].rules, "FORWARD": [*rules["filter"].chain("FORWARD"), f"--comment '{HOSTILE}'"]}
        rules["filter"] = replace(rules["filter"], rules=chains)
        return site.state(plan, host, firewall=replace(planned.firewall, live=rules))

    entry = {key: [HOSTILE, HOSTILE] if key == "what" else HOSTILE for key in ENTRY}
    facts = gather(told=told, outcome=lambda _: Outcome(error=HOSTILE), entries=[entry])
    facts = replace(facts, by=HOSTILE, commit=HOSTILE, site=HOSTILE)
    clean = Page(page.page(plan, gather()))
    found = Page(page.page(plan, facts))
    assert found.text.count(HOSTILE) > 10
    assert [tag for tag, _ in found.tags].count("script") == 1
    assert {tag for tag, _ in found.tags} - {tag for tag, _ in clean.tags} <= {"ol", "b", "details", "summary", "time"}
    names = {name for _, attributes in found.tags for name in attributes}
    assert not [name for name in names if name.startswith("on")]


def test_long_history(plan: Plan, gather: Gather) -> None:
    """Of many changes the latest are shown, of a long one the first lines, and where the rest is; nothing is empty."""
    long = {**ENTRY, "time": "2026-03-01T02:10:00+01:00", "what": ["", *(f"line {n}" for n in range(100))]}
    text = Page(page.page(plan, gather(entries=[long, *[ENTRY] * 20, {**ENTRY, "what": []}]))).text
    assert "2026-03-01 02:10:00 +0100" in text
    assert "line 39" in text
    assert "line 40" not in text
    assert "60 more: ./inv history gateway 2" in text
    assert "12 earlier: ./inv history gateway" in text


def test_page_needs_nothing_else(plan: Plan, gather: Gather) -> None:
    """No address of another file or server is in it, and its policy would not let it load one."""
    html = page.page(plan, gather())
    found = Page(html)
    for tag, attributes in found.tags:
        for name in ("src", "href", "data", "action", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith("#") or value == "data:,", (tag, value)
    assert "url(" not in html.replace("url(#arrow)", "")
    assert "@import" not in html
    [policy] = [each["content"] or "" for tag, each in found.tags if each.get("http-equiv")]
    assert policy.startswith("default-src 'none'; ")


def test_large_site(gather: Gather, tmp_path: Path) -> None:
    """Of many hosts alike some are tried and drawn; the page says how many were not, and all of them are listed."""
    text = (REPO / "group_data" / "all.py").read_text().rstrip().removesuffix("}")
    more = "".join(
        f'    "node-{n}": {{"role": "master", "addresses": {{"mgmt": "100.64.1.{n}", "traffic": "100.64.33.{n}"}}}},\n'
        for n in range(1, 41)
    )
    (tmp_path / "large.py").write_text(f"{text}{more}}}\n")
    large = load(tmp_path / "large.py")
    facts = gather(of=large)
    assert len(facts.hosts) == 46
    assert facts.left_out == 33
    html = page.page(large, facts)
    assert "33 hosts of many alike are not drawn" in html
    assert len(html) < 2_000_000


@pytest.mark.parametrize(
    ("output", "problem"), [("report.html", ""), (".", "it is a folder"), ("no/report.html", "there is no folder ")]
)
def test_place_of_the_page(tmp_path: Path, output: str, problem: str) -> None:
    """A place where no page can be written is told before anything is asked."""
    assert page.not_writable(tmp_path / output).startswith(problem)
    assert bool(page.not_writable(tmp_path / output)) == bool(problem)


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as chromium:
        yield chromium


@pytest.fixture
def written(plan: Plan, gather: Gather, tmp_path: Path) -> str:
    """The URL of the page of a site with everything that a page can have."""

    def told(plan: Plan, host: Host) -> HostState:
        return site.without_address(plan, host, "storage") if host.role == "master" else site.state(plan, host)

    def outcome(flow: Flow) -> Outcome:
        return Outcome(receiver="master-1", seen_as=HOSTILE) if flow.must_not else good(flow)

    entry = {**ENTRY, "what": [HOSTILE, "x" * 300]}
    file = tmp_path / "report.html"
    file.write_text(page.page(plan, gather(dead=["lb"], told=told, outcome=outcome, entries=[entry])))
    return file.as_uri()


@pytest.fixture
def shown(written: str, chromium: Browser) -> Iterator[Tab]:
    """The page in a browser on a desktop."""
    with chromium.new_page(viewport={"width": 1280, "height": 900}) as tab:
        tab.goto(written)
        yield tab


WRONG = "a.cell.got-in"
WIDTH = "document.documentElement.scrollWidth"


def test_renders_without_a_complaint_and_without_the_network(shown: Tab, written: str) -> None:
    """The file itself is all that is asked for; the page's own words are the title, whatever a host said."""
    requests, complaints = watch(shown)
    shown.reload()
    assert requests == [written]
    assert complaints == []
    assert shown.title().startswith("lab-site: the underlay network")
    assert shown.evaluate("document.querySelector('.picture svg').getBoundingClientRect().height") > 300
    # It could not get out if it wanted to.
    assert shown.evaluate("fetch('http://192.0.2.1/').then(() => 'sent', () => 'refused')") == "refused"
    assert requests == [written]


def test_a_cell_says_its_reason(shown: Tab) -> None:
    """A click opens what was expected, what was seen, and why; Escape closes it, and the place is kept."""
    label = shown.get_attribute(WRONG, "aria-label")
    shown.click(WRONG)
    words = shown.inner_text("dialog[open]")
    assert str(label).partition(":")[0] in words
    for word in (
        "must not reach master-1",
        "master-1 answers and sees",
        HOSTILE,
        "no rule stops",
        "group_data/all.py:",
    ):
        assert word in words
    shown.keyboard.press("Escape")
    assert shown.evaluate("document.querySelector('dialog').open") is False
    assert shown.evaluate("document.activeElement.getAttribute('aria-label')") == label


def test_by_keyboard_alone(shown: Tab) -> None:
    """Tab goes from cell to cell, Enter opens, Enter on the button closes."""
    shown.focus("a.cell")
    shown.keyboard.press("Tab")
    assert shown.evaluate("document.activeElement.matches('a.cell')")
    shown.keyboard.press("Enter")
    assert shown.evaluate("document.activeElement.closest('dialog[open]') !== null")
    shown.focus("dialog button")
    shown.keyboard.press("Enter")
    assert shown.evaluate("document.querySelector('dialog').open") is False


def test_on_a_phone(chromium: Browser, written: str) -> None:
    """The page is as wide as the phone, the reasons too; what is wider scrolls by itself."""
    with chromium.new_page(viewport={"width": 390, "height": 844}, is_mobile=True) as phone:
        phone.goto(written)
        assert phone.evaluate(WIDTH) == 390
        phone.click(WRONG)
        assert phone.evaluate("document.querySelector('dialog').getBoundingClientRect().width") <= 390
        assert phone.evaluate("(d => d.scrollWidth <= d.clientWidth)(document.querySelector('dialog > div'))")
        phone.keyboard.press("Escape")
        scrolls = "(m => m.scrollWidth <= m.clientWidth)(document.querySelector('.matrix').parentElement)"
        assert phone.evaluate(scrolls)


def test_on_paper(shown: Tab) -> None:
    """On A4 nothing is cut off, nothing needs a click, and the ground is white; a dark screen is not printed dark."""
    shown.emulate_media(media="print", color_scheme="dark")
    shown.set_viewport_size({"width": 703, "height": 1000})  # A4 without its margins
    assert shown.evaluate(WIDTH) <= 703
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert shown.evaluate("getComputedStyle(document.body).color") == "rgb(27, 36, 48)"
    assert shown.evaluate("getComputedStyle(document.querySelector('.all')).display") == "none"
    assert shown.pdf(print_background=True, prefer_css_page_size=True).startswith(b"%PDF-")
    assert shown.evaluate("[...document.querySelectorAll('.history details')].every(each => each.open)")


CONTRAST = r"""
(() => {
  const light = colour => {
    const [r, g, b] = colour.match(/[\d.]+/g).map(each => each / 255)
      .map(each => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = element => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if (!colour.endsWith(", 0)")) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const poor = [];
  for (const element of document.querySelectorAll("body :not(svg, svg *, script)")) {
    if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
    const pair = [light(getComputedStyle(element).color), light(ground(element))].sort((a, b) => b - a);
    const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (contrast < 4.5) poor.push(`${element.tagName}.${element.className} ${contrast.toFixed(2)}`);
  }
  return [...new Set(poor)];
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_can_be_read(shown: Tab, scheme: Literal["light", "dark"]) -> None:
    """Every text has the contrast to its ground that WCAG 2 asks for (4.5 to 1), on light and on dark screens."""
    shown.emulate_media(color_scheme=scheme)
    assert shown.evaluate(CONTRAST) == []
    lightness = shown.evaluate("getComputedStyle(document.querySelector('.picture rect')).fill")
    assert lightness == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 27, 35)"}[scheme]


def test_nothing_of_hosts_reaches_the_terminal(gather: Gather, plan: Plan, tmp_path: Path) -> None:
    """Who looks at the page with `less` or `cat` sees text, too; and it can be written, whatever is in it."""
    bad = "\x1b]0;x\x07\x9b2J\u202e\x7f\ud800"
    facts = gather(dead=["lb"], entries=[{**ENTRY, "who": f"ada{bad}", "what": [f"a rule{bad}"]}])
    facts = replace(facts, hosts=tuple(replace(each, reason=f"{each.reason}{bad}") for each in facts.hosts))
    text = page.page(plan, facts)
    assert "\\u001b]0;x\\u0007" in text
    assert all(line.isprintable() for line in text.split("\n"))
    (tmp_path / "report.html").write_text(text)
