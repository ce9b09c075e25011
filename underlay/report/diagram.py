"""Plan → a picture of the site, as SVG. Pure.

Networks are horizontal bands. Hosts that are in the enterprise network alone stand above its band, all others between
it and the internal ones; each NIC is a line from its host to the band of its network. The leftmost NIC of a host goes
to the lowest band, so that no line meets the label of another.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal
from xml.etree import ElementTree as ET

from underlay.plan import Host, Interface, Network, Plan

WHAT = {
    "gateway": "router, NAT",
    "jumphost": "the way in, deploys the site",
    "lb_nginx": "L7 and L4 proxy",
    "master": "control plane",
    "worker": "runs pods",
    "workstation": "workstation",
    "images": "images and packages",
    "server": "server",
}
"""Role → what its hosts are, for people."""
_GROUND, _INK, _SOFT, _FRAME, _PUBLISHED = "#ffffff", "#1b2430", "#566170", "#8a96a3", "#b3261e"
_ENTERPRISE = ("#e9edf2", "#475467")  # fill and line of a band
_INTERNAL = (
    ("#e3eefb", "#1d5fa8"),
    ("#e2f3e7", "#24743f"),
    ("#fdeedc", "#a85508"),
    ("#f0e8fa", "#6a3da6"),
    ("#dff3f3", "#10707a"),
    ("#fbe6ef", "#a32a62"),
)
_MARGIN, _GAP, _PADDING = 28, 28, 18
_BOX, _BAND, _ROW, _NIC = 62, 64, 24, 20
_BUS = 104  # height of the enterprise band: labels of the hosts above it, then of those below it
_LEGEND = 760
_STATE = 24  # room for a host's state in its box
State = Literal["good", "attention", "bad", "unknown"]
_STATES: dict[State, tuple[str, str]] = {  # colour, and the path of its mark around 0 0
    "good": ("#1a7f4b", "M-3 0.2 L-0.8 2.4 L3.2 -2.4"),
    "attention": ("#9a6200", "M0 -3.2 V0.8 M0 2.9 V3.1"),
    "bad": ("#c02b1d", "M-2.4 -2.4 L2.4 2.4 M-2.4 2.4 L2.4 -2.4"),
    "unknown": ("#566170", "M-2.6 0 H2.6"),
}
_LEGEND_OF_STATES: dict[State, str] = {
    "good": "as planned",
    "attention": "reachable, not as planned",
    "bad": "can't be reached",
    "unknown": "not asked",
}
_ADDRESS = 116  # room for an address in the gateway's box


DARK = {
    "#ffffff": "#151b23",
    "#1b2430": "#e8ecf1",
    "#566170": "#9daab8",
    "#8a96a3": "#5d6a78",
    "#d5dbe1": "#2a333d",
    "#f6f8fa": "#1d252f",
    "#b3261e": "#f28b82",
    "#1a7f4b": "#4cc38a",
    "#9a6200": "#f0b252",
    "#c02b1d": "#ff7b6e",
    "#e9edf2": "#232c37",
    "#475467": "#a9b8c9",
    "#e3eefb": "#16283d",
    "#1d5fa8": "#79b1ef",
    "#e2f3e7": "#15301f",
    "#24743f": "#6cc48a",
    "#fdeedc": "#38270f",
    "#a85508": "#eda55c",
    "#f0e8fa": "#2a2040",
    "#6a3da6": "#b99bea",
    "#dff3f3": "#102f31",
    "#10707a": "#5fc0c9",
    "#fbe6ef": "#3a1b29",
    "#a32a62": "#ec8ab6",
}
"""Each colour of a picture → what a page with a dark ground may put in its place."""


@dataclass(frozen=True)
class Live:
    """What is known of a host as it is now.

    word: the state in a word or two
    nics: the network of each NIC that is not as planned → what is wrong with it, in a word or two
    """

    state: State
    word: str
    nics: Mapping[str, str] = field(default_factory=dict)


def svg(plan: Plan, live: Mapping[str, Live] | None = None) -> str:
    """The picture of a plan: an SVG document on a light ground of its own.

    live: by the host's name; what it has nothing about is unknown. Without it, the picture is of the plan alone.
    """
    return _Picture(plan, live).draw()


def _width(text: str, size: float) -> float:
    """About the width of a text: fonts differ, so rather too much."""
    return len(text) * size * 0.59


@dataclass(frozen=True)
class _Box:
    """Where a host is drawn."""

    host: Host
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class _Band:
    """Where a network is drawn, and in which colours."""

    y: float
    height: float
    fill: str
    line: str


class _Picture:
    def __init__(self, plan: Plan, live: Mapping[str, Live] | None) -> None:
        self.plan = plan
        self.live = live
        # Beside states, of which one is red, the arrows are not.
        self.published = _PUBLISHED if live is None else _INK
        self.box = _BOX + (0 if live is None else _STATE)
        outer = [host for host in plan.hosts if [nic.network for nic in host.interfaces] == [plan.enterprise.name]]
        # The last published host stands next to the gateway, so that the arrows to them don't cross.
        inner = [plan.gateway, *reversed(plan.published)]
        inner += [host for host in plan.hosts if host not in inner and host not in outer]

        top = 88
        bus = top + self.box + 34
        gateway = bus + _BUS + 34
        boxes = gateway + 56 + (self.box - _BOX) + _ROW * (1 + len(plan.published))
        self.left = _MARGIN + 2 * _PADDING + max(map(self._label_width, plan.networks))
        self.router_width = max(_width("upstream router", 15), _width(str(plan.enterprise.upstream), 13)) + 2 * _PADDING
        first = self.left + self.router_width + _GAP
        self.outer = list(self._row(outer, first, top, self.box))
        self.inner = list(self._row(inner, self.left, boxes, self.box))
        self.gateway = _Box(plan.gateway, self.left, gateway, self.inner[0].width, boxes + self.box - gateway)
        self.inner[0] = self.gateway
        self.top = top

        y: float = boxes + self.box + 40
        self.bands = {plan.enterprise.name: _Band(bus, _BUS, *_ENTERPRISE)}
        for index, network in enumerate(plan.internal):
            height = max(_BAND, 54 + 16 * len(self._zones(network)))
            self.bands[network.name] = _Band(y, height, *_INTERNAL[index % len(_INTERNAL)])
            y += height + 14
        right = max(box.x + box.width for box in (*self.outer, *self.inner))
        self.width = round(max(right + _PADDING, first, _LEGEND) + _MARGIN)
        self.height = round(y + 44 + (0 if live is None else 26))
        self.root = ET.Element(
            "svg",
            {
                "xmlns": "http://www.w3.org/2000/svg",
                "viewBox": f"0 0 {self.width} {self.height}",
                "width": str(self.width),
                "height": str(self.height),
                "role": "img",
                "aria-labelledby": "title description",
                "font-family": "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif",
            },
        )

    def draw(self) -> str:
        self._head()
        for network in self.plan.networks:
            self._band(network)
        self._upstream()
        for box in (*self.outer, *self.inner):
            self._lines(box)
        for box in (*self.outer, *self.inner[1:]):
            self._host(box)
        self._gateway()
        self._legend()
        ET.indent(self.root)
        return ET.tostring(self.root, encoding="unicode") + "\n"

    def _row(self, hosts: Iterable[Host], x: float, y: float, height: float) -> Iterable[_Box]:
        for host in hosts:
            width = self._host_width(host)
            yield _Box(host, x, y, width, height)
            x += width + _GAP

    def _host_width(self, host: Host) -> float:
        texts = [_width(host.name, 15), _width(WHAT[host.role], 12)]
        texts += [22 + _width(self.live_of(host).word, 12)] if self.live is not None else []
        if host == self.plan.gateway:
            texts += [_ADDRESS + _width(what, 13) for _, what in self._addresses()]
        labels = [
            max(_width(self._address(host, nic), 13), _width(self._nic(host, nic), 11)) for nic in host.interfaces
        ]
        return max(max(texts) + 2 * _PADDING, _PADDING + _NIC * len(labels) + max(labels))

    def _label_width(self, network: Network) -> float:
        zones = [_width(zone, 11) for zone in self._zones(network)]
        return max(_width(network.name, 17), _width(str(network.cidr), 13), *zones, 96)

    def _zones(self, network: Network) -> list[str]:
        return [f"{zone.name} {zone.cidr}" for zone in self.plan.zones if zone.network == network.name]

    def _addresses(self) -> list[tuple[str, str]]:
        """The rows in the gateway's box: its enterprise addresses, and what each is for."""
        published = [(str(host.published), host.name) for host in self.plan.published]
        return [(str(self.plan.gateway.primary.address), "gateway, SNAT for the rest"), *published]

    def _address(self, host: Host, nic: Interface) -> str:
        more = len(self.plan.published) if host == self.plan.gateway and nic == host.primary else 0
        return f"{nic.address}, {more} published" if more else str(nic.address)

    def _nic(self, host: Host, nic: Interface) -> str:
        wrong = self.live_of(host).nics.get(nic.network)
        return nic.nic + (f" · {wrong}" if wrong else " · default route" if host.default_network == nic.network else "")

    def live_of(self, host: Host) -> Live:
        """What is known of a host."""
        return (self.live or {}).get(host.name, Live("unknown", "not known"))

    def _head(self) -> None:
        plan = self.plan
        ET.SubElement(self.root, "title", id="title").text = f"The underlay network of {plan.site}"
        hosts = "; ".join(
            f"{host.name} has {', '.join(f'{nic.address} in {nic.network}' for nic in host.interfaces)}"
            + (f" and is published as {host.published}" if host.published else "")
            for host in plan.hosts
        )
        networks = ", ".join(f"{network.name} {network.cidr}" for network in plan.networks)
        ET.SubElement(self.root, "desc", id="description").text = f"Networks: {networks}. Hosts: {hosts}."
        defs = ET.SubElement(self.root, "defs")
        marker = self._add(
            "marker",
            defs,
            id="arrow",
            viewBox="0 0 10 10",
            refX=8.5,
            refY=5,
            markerWidth=8,
            markerHeight=8,
            orient="auto",
        )
        self._add("path", marker, d="M0 1 L9 5 L0 9 z", fill=self.published)
        # A ground of its own keeps the picture readable on a dark page.
        self._rect(0.5, 0.5, self.width - 1, self.height - 1, _GROUND, "#d5dbe1", 10)
        self._text(_MARGIN, 42, plan.site, 22, bold=True)
        counts = f"{len(plan.networks)} networks, {len(plan.hosts)} hosts, {len(plan.published)} of them published"
        self._text(_MARGIN, 64, counts, 13, _SOFT)

    def _band(self, network: Network) -> None:
        band = self.bands[network.name]
        self._rect(_MARGIN, band.y, self.width - 2 * _MARGIN, band.height, band.fill, "none", 8)
        self._rect(_MARGIN, band.y, 6, band.height, band.line, "none", 3)
        zones = self._zones(network)
        y = band.y + (band.height - 16 * len(zones)) / 2 - 3
        x = _MARGIN + _PADDING + 2
        self._text(x, y, network.name, 17, band.line, bold=True)
        self._text(x, y + 19, str(network.cidr), 13)
        for index, zone in enumerate(zones):
            self._text(x, y + 37 + 16 * index, zone, 11, _SOFT)

    def _upstream(self) -> None:
        """The internet and the upstream router."""
        y, band = self.top, self.bands[self.plan.enterprise.name]
        x, middle = self.left, self.left + self.router_width / 2
        cloud = self.left - _GAP - 116
        self._add("path", d=f"M{cloud + 100:g} {y + 32} H{x:g}", stroke=_FRAME, stroke_width=2, fill="none")
        self._add(
            "path",
            d=f"M{cloud + 24:g} {y + 54} a18 18 0 0 1 -2 -36 a24 24 0 0 1 42 -8 a20 20 0 0 1 30 12 a16 16 0 0 1 2 32 z",
            fill="#f6f8fa",
            stroke=_FRAME,
            stroke_width=1.5,
        )
        self._text(cloud + 58, y + 41, "internet", 13, _SOFT, anchor="middle")
        self._line(middle, y + self.box, band.y + 26, band.line)
        self._text(middle + 10, band.y + 25, str(self.plan.enterprise.upstream), 13)
        self._frame(x, y, self.router_width, self.box, "upstream router", "the way out", dashed=True)

    def _lines(self, box: _Box) -> None:
        """The NICs of a host, the one in the lowest band first."""
        order = sorted(box.host.interfaces, key=lambda nic: -self.bands[nic.network].y)
        for index, nic in enumerate(order):
            band = self.bands[nic.network]
            x = box.x + _PADDING + _NIC * index
            if band.y > box.y:
                start, end = box.y + box.height, band.y + (26 if nic.network == self.plan.enterprise.name else 28)
            else:
                start, end = box.y, band.y + _BUS - 34
            wrong = nic.network in self.live_of(box.host).nics
            self._line(x, start, end, _STATES["bad"][0] if wrong else band.line, cut=wrong)
            self._text(x + 10, end - 1, self._address(box.host, nic), 13)
            self._text(
                x + 10, end + 15, self._nic(box.host, nic), 11, _STATES["bad"][0] if wrong else _SOFT, bold=wrong
            )

    def _host(self, box: _Box) -> None:
        live = self.live_of(box.host)
        self._frame(box.x, box.y, box.width, box.height, box.host.name, WHAT[box.host.role])
        if self.live is None:
            return
        if live.state in ("attention", "bad"):
            self.frame.set("stroke", _STATES[live.state][0])
            self.frame.set("stroke-width", "2")
        self._state(box.x + _PADDING + 7, box.y + 65, live.state, live.word)

    def _state(self, x: float, y: float, state: State, word: str) -> None:
        """A mark and a word: colour alone would not do."""
        colour, mark = _STATES[state]
        self._add("circle", cx=x, cy=y - 4, r=7, fill=colour, **{"class": "mark"})
        self._add(
            "path",
            d=mark,
            transform=f"translate({x:g} {y - 4:g})",
            stroke=_GROUND,
            stroke_width=1.8,
            stroke_linecap="round",
            stroke_linejoin="round",
            fill="none",
        )
        self._text(x + 14, y, word, 12, colour, bold=state in ("attention", "bad"))

    def _gateway(self) -> None:
        """The gateway with its enterprise addresses, and an arrow from each published one to its host."""
        box = self.gateway
        places = {other.host.name: other for other in self.inner}
        y = box.y + 72 + self.box - _BOX
        self._host(box)
        for (address, what), host in zip(self._addresses(), (None, *self.plan.published), strict=True):
            colour = self.published if host else _SOFT
            self._text(box.x + _PADDING, y, address, 13)
            self._text(box.x + _PADDING + _ADDRESS, y, what, 13, colour)
            if host is not None:
                there = places[host.name]
                start, x = box.x + _PADDING + _ADDRESS + _width(what, 13) + 6, there.x + there.width / 2
                self._add(
                    "path",
                    d=f"M{start:g} {y - 4:g} H{x - 8:g} q8 0 8 8 V{there.y - 3:g}",
                    fill="none",
                    stroke=self.published,
                    stroke_width=1.6,
                    stroke_dasharray="6 4",
                    marker_end="url(#arrow)",
                )
            y += _ROW
        self._text(box.x + _PADDING, box.y + box.height - 30, "Between internal networks:", 12, _SOFT)
        self._text(box.x + _PADDING, box.y + box.height - 14, "routed, never translated", 12, _SOFT)

    def _legend(self) -> None:
        y, x = self.height - 26 - (0 if self.live is None else 26), float(_MARGIN)
        self._line(x + 8, y - 14, y, _FRAME)
        self._text(x + 22, y - 1, "a NIC, with its address and name", 12, _SOFT)
        x += 250
        self._add(
            "path",
            d=f"M{x:g} {y - 5} h34",
            stroke=self.published,
            stroke_width=1.6,
            stroke_dasharray="6 4",
            marker_end="url(#arrow)",
        )
        self._text(x + 44, y - 1, "published 1:1: all ports, in both directions", 12, _SOFT)
        if self.live is None:
            return
        self._text(_MARGIN, y + 25, "now:", 12, _SOFT)
        x = _MARGIN + 48
        for state, word in _LEGEND_OF_STATES.items():
            self._state(x, y + 25, state, word)
            x += 14 + _width(word, 12) + 22
        self._line(x, y + 10, y + 24, _STATES["bad"][0], cut=True)
        self._text(x + 14, y + 25, "a NIC that is not as planned", 12, _STATES["bad"][0], bold=True)

    def _frame(
        self, x: float, y: float, width: float, height: float, name: str, what: str, dashed: bool = False
    ) -> None:
        self.frame = self._rect(x, y, width, height, "#ffffff", _FRAME, 7)
        if dashed:
            self.frame.set("stroke-dasharray", "5 4")
        self._text(x + _PADDING, y + 27, name, 15, bold=True)
        self._text(x + _PADDING, y + 45, what, 12, _SOFT)

    def _line(self, x: float, start: float, end: float, colour: str, cut: bool = False) -> None:
        """A NIC's line; its light edge sets it off from the bands that it passes. `cut`: dashed, with a hollow end."""
        for width, stroke in ((6, _GROUND), (2.5, colour)):
            path = self._add("path", d=f"M{x:g} {start:g} V{end:g}", stroke=stroke, stroke_width=width, fill="none")
        if cut:
            path.set("stroke-dasharray", "4 4")
        fill, stroke = (_GROUND, colour) if cut else (colour, _GROUND)
        self._add("circle", cx=x, cy=end, r=5, fill=fill, stroke=stroke, stroke_width=1.5)

    def _rect(
        self, x: float, y: float, width: float, height: float, fill: str, stroke: str, radius: float
    ) -> ET.Element:
        return self._add(
            "rect", x=x, y=y, width=width, height=height, rx=radius, fill=fill, stroke=stroke, stroke_width=1.5
        )

    def _text(
        self, x: float, y: float, text: str, size: float, fill: str = _INK, bold: bool = False, anchor: str = "start"
    ) -> None:
        weight = "600" if bold else "400"
        self._add("text", x=x, y=y, font_size=size, fill=fill, font_weight=weight, text_anchor=anchor).text = text

    def _add(self, tag: str, parent: ET.Element | None = None, /, **values: str | float) -> ET.Element:
        attributes = {
            key.replace("_", "-"): (value if isinstance(value, str) else f"{value:g}") for key, value in values.items()
        }
        return ET.SubElement(self.root if parent is None else parent, tag, attributes)
