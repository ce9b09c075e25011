"""What runs on a host so that a change can't hurt: snapshot, timer, change, confirm or rollback, history.

Runs as root on any Python 3.10 or later with systemd, with nothing else. `begin` comes over ssh, see
`underlay.remote.send`: the first line of stdin is this package as one file, the rest is the request (JSON). It leaves a
copy of that file at COPY, which is what everything else runs: `python3 COPY COMMAND …`. Each command writes one JSON
object to stdout and exits with 0 when done, 1 when refused or failed (the object then has "error"); ssh's own 255 is
none of these.

- `begin`, request {token, who, commit, what: [LINE, …], seconds, change, sysctls: [KEY, …], touches: [PATH, …],
  services: [UNIT, …]}. The last three name what may change beside what is always looked at. `change` is
  {live: SHELL, rules: TEXT, files: {PATH: {content: BASE64, mode: "644"} | null}, check: SHELL, activate: SHELL}, run
  in the order check (nothing has changed yet; the new files are below $STAGE), live, rules (iptables rules to put in
  place, see `underlay.compare.tables.write`), files, activate; or {restore: NUMBER, check: SHELL}: back to the state
  before that confirmed change
- `confirm TOKEN`: keep the change
- `rollback TOKEN WHY`: undo it now
- `status`, `history`, `history NUMBER`
- `login ACCOUNT`: for whoever sits at the console: why ssh does not let an account in, see `remote.survey.logins`
- of the host itself: `apply TOKEN`, `expire TOKEN` (the timer), `boot`, and `rules FILE`: at boot, our iptables rules

What is kept below GUARD, and why no end of any process and no power cut leaves anything in between:

- PENDING is the lock, and the snapshot. It is prepared aside, made durable, and appears by one rename once the timer is
  armed; so whoever sees it can undo it. It goes by one rename, too: into HISTORY, which is the commit point, or to
  UNDONE after everything is as it was. Between the two, the timer's service (started again if it is killed), `boot`
  after a power cut, or the next `begin` after the deadline starts the same rollback from its beginning.
- `apply` and the rollback run in services of systemd, so a connection that breaks does not stop them half-way.
- MUTEX, a lock of the kernel's, is held by whoever is about to move PENDING: of a confirmation and the timer, one wins.

A rollback makes files, links, IPv4 addresses, routes, policy rules and sysctls what they were, in their order, and
starts the services that ran. What is right already is not touched, so open connections live on. Of the iptables rules
it takes back what the change did, rule by rule, and nothing else: what others have there, or put there meanwhile,
stays. NICs that appeared since then, and their addresses and routes, are left alone. IPv6 is left alone.
"""
