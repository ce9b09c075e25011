"""Plan → a picture of the site, as SVG. Pure.

Networks are horizontal bands. Hosts that are in the enterprise network alone stand above its band, all others between
it and the internal ones; each NIC is a line from its host to the band of its network. The leftmost NIC of a host goes
to the lowest band, so that no line meets the label of another.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from underlay.plan import Host, Interface, Network, Plan

_WHAT = {
    "gateway": "router, NAT",
    "jumphost": "the way in, deploys the site",
    "lb_nginx": "L7 and L4 proxy",
    "master": "control plane",
    "workstation": "workstation",
    "images": "images and packages",
    "server": "server",
}
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
_LEGEND = 620
_ADDRESS = 116  # room for an address in the gateway's box


def svg(plan: Plan) -> str:
    """The picture of a plan: an SVG document on a light ground of its own."""
    return _Picture(plan).draw()


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
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        outer = [host for host in plan.hosts if [nic.network for nic in host.interfaces] == [plan.enterprise.name]]
        # The last published host stands next to the gateway, so that the arrows to them don't cross.
        inner = [plan.gateway, *reversed(plan.published)]
        inner += [host for host in plan.hosts if host not in inner and host not in outer]

        top = 88
        bus = top + _BOX + 34
        gateway = bus + _BUS + 34
        boxes = gateway + 56 + _ROW * (1 + len(plan.published))
        self.left = _MARGIN + 2 * _PADDING + max(map(self._label_width, plan.networks))
        self.router_width = max(_width("upstream router", 15), _width(str(plan.enterprise.upstream), 13)) + 2 * _PADDING
        first = self.left + self.router_width + _GAP
        self.outer = list(self._row(outer, first, top, _BOX))
        self.inner = list(self._row(inner, self.left, boxes, _BOX))
        self.gateway = _Box(plan.gateway, self.left, gateway, self.inner[0].width, boxes + _BOX - gateway)
        self.inner[0] = self.gateway
        self.top = top

        y: float = boxes + _BOX + 40
        self.bands = {plan.enterprise.name: _Band(bus, _BUS, *_ENTERPRISE)}
        for index, network in enumerate(plan.internal):
            height = max(_BAND, 54 + 16 * len(self._zones(network)))
            self.bands[network.name] = _Band(y, height, *_INTERNAL[index % len(_INTERNAL)])
            y += height + 14
        right = max(box.x + box.width for box in (*self.outer, *self.inner))
        self.width = round(max(right + _PADDING, first, _LEGEND) + _MARGIN)
        self.height = round(y + 44)
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
        texts = [_width(host.name, 15), _width(_WHAT[host.role], 12)]
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

    @staticmethod
    def _nic(host: Host, nic: Interface) -> str:
        return nic.nic + (" · default route" if host.default_network == nic.network else "")

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
        self._add("path", marker, d="M0 1 L9 5 L0 9 z", fill=_PUBLISHED)
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
        self._line(middle, y + _BOX, band.y + 26, band.line)
        self._text(middle + 10, band.y + 25, str(self.plan.enterprise.upstream), 13)
        self._frame(x, y, self.router_width, _BOX, "upstream router", "the way out", dashed=True)

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
            self._line(x, start, end, band.line)
            self._text(x + 10, end - 1, self._address(box.host, nic), 13)
            self._text(x + 10, end + 15, self._nic(box.host, nic), 11, _SOFT)

    def _host(self, box: _Box) -> None:
        self._frame(box.x, box.y, box.width, box.height, box.host.name, _WHAT[box.host.role])

    def _gateway(self) -> None:
        """The gateway with its enterprise addresses, and an arrow from each published one to its host."""
        box = self.gateway
        places = {other.host.name: other for other in self.inner}
        y = box.y + 72
        self._frame(box.x, box.y, box.width, box.height, box.host.name, _WHAT[box.host.role])
        for (address, what), host in zip(self._addresses(), (None, *self.plan.published), strict=True):
            colour = _PUBLISHED if host else _SOFT
            self._text(box.x + _PADDING, y, address, 13)
            self._text(box.x + _PADDING + _ADDRESS, y, what, 13, colour)
            if host is not None:
                there = places[host.name]
                start, x = box.x + _PADDING + _ADDRESS + _width(what, 13) + 6, there.x + there.width / 2
                self._add(
                    "path",
                    d=f"M{start:g} {y - 4:g} H{x - 8:g} q8 0 8 8 V{there.y - 3:g}",
                    fill="none",
                    stroke=_PUBLISHED,
                    stroke_width=1.6,
                    stroke_dasharray="6 4",
                    marker_end="url(#arrow)",
                )
            y += _ROW
        self._text(box.x + _PADDING, box.y + box.height - 30, "Between internal networks:", 12, _SOFT)
        self._text(box.x + _PADDING, box.y + box.height - 14, "routed, never translated", 12, _SOFT)

    def _legend(self) -> None:
        y, x = self.height - 26, _MARGIN
        self._line(x + 8, y - 14, y, _FRAME)
        self._text(x + 22, y - 1, "a NIC, with its address and name", 12, _SOFT)
        x += 250
        self._add(
            "path",
            d=f"M{x} {y - 5} h34",
            stroke=_PUBLISHED,
            stroke_width=1.6,
            stroke_dasharray="6 4",
            marker_end="url(#arrow)",
        )
        self._text(x + 44, y - 1, "published 1:1: all ports, in both directions", 12, _SOFT)

    def _frame(
        self, x: float, y: float, width: float, height: float, name: str, what: str, dashed: bool = False
    ) -> None:
        rect = self._rect(x, y, width, height, "#ffffff", _FRAME, 7)
        if dashed:
            rect.set("stroke-dasharray", "5 4")
        self._text(x + _PADDING, y + 27, name, 15, bold=True)
        self._text(x + _PADDING, y + 45, what, 12, _SOFT)

    def _line(self, x: float, start: float, end: float, colour: str) -> None:
        """A NIC's line; its light edge sets it off from the bands that it passes."""
        for width, stroke in ((6, _GROUND), (2.5, colour)):
            self._add("path", d=f"M{x:g} {start:g} V{end:g}", stroke=stroke, stroke_width=width, fill="none")
        self._add("circle", cx=x, cy=end, r=5, fill=colour, stroke=_GROUND, stroke_width=1.5)

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
