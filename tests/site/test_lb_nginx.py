"""The load balancer: nginx's configuration, its ports, and what it answers."""

from collections.abc import Iterable

from underlay.desired import nginx
from underlay.desired.units import NGINX
from underlay.observe.state import NO_SUCH_NAME, HostState
from underlay.plan import Host, Plan, roles
from underlay.verify.checks import EveryHost, each, expect, expect_listening, expect_unit, wrong


def web_services(plan: Plan, _: Host) -> Iterable[str]:
    return roles.lb_nginx(plan).web_services


def ports(plan: Plan, _: Host) -> Iterable[int]:
    return [nginx.HTTP_PORT, nginx.API_PORT] if plan.hosts_of("master") else [nginx.HTTP_PORT]


class TestLbNginx(EveryHost):
    role = "lb_nginx"

    def test_nginx(self, planned: Host, state: HostState) -> None:
        """It runs nginx, now and at boot."""
        expect_unit(planned, state, NGINX)

    def test_configuration(self, plan: Plan, state: HostState) -> None:
        """The configuration is that of the plan."""
        seen, wanted = state.files.get(nginx.PATH, "").splitlines(), nginx.configuration(plan).splitlines()
        if seen != wanted:
            missing = [line.strip() for line in wanted if line not in seen]
            added = [line.strip() for line in seen if line not in wanted]
            wrong(missing or "no other lines", added or "they are missing", nginx.PATH)

    def test_configuration_is_valid(self, state: HostState) -> None:
        """The configuration passes its test."""
        state.lines("nginx")

    @each(ports)
    def test_port(self, planned: Host, state: HostState, item: int) -> None:
        """The ports of web and API are open."""
        expect_listening(planned, state, item)

    def test_unknown_name(self, state: HostState) -> None:
        """A name that is not served gets 404."""
        expect(state.answers[f"{NO_SUCH_NAME}/"][0], 404, f"the default server in {nginx.PATH}")

    def test_health(self, state: HostState) -> None:
        """It says that it is healthy."""
        expect(state.answers[f"{NO_SUCH_NAME}/healthz"], (200, "ok\n"), f"/healthz in {nginx.PATH}")

    @each(web_services)
    def test_web_service(self, plan: Plan, state: HostState, item: str) -> None:
        """Every web service is passed on."""
        status, body = state.answers[f"{item}/"]
        # An upstream may say 404 itself, but not in the words of this proxy.
        if status == 0 or (status, body) == state.answers[f"{NO_SUCH_NAME}/"]:
            wrong(f"{item} is served", f"status {status}: {body}", str(roles.role_file(plan, self.role)))
