"""What the doctor sends to a host to look around from there, as root.

It reads the request from stdin (JSON), and prints one JSON object. It changes nothing; every wait in it is a second or
two.

Keys of the request, and of the answer:

- `arp`: [[NIC, ADDRESS, SEEK], …] → NIC → ADDRESS → the MACs that answer who has it. With SEEK, if nobody does, it is
  asked for on all other NICs of the list, too. The question is a probe of RFC 5227: nobody learns anything from it
- `echo`: [[NIC, SOURCE, DESTINATION], …] → NIC → [its MTU, the largest unfragmented packet that is answered; 0: none]
- `connect`: [[ADDRESS, PORT, TLS], …] → `ADDRESS:PORT` → error, empty for none
- `sources`: true → the URIs of the host's package sources, and of the proxies that apt asks (behind `proxy `) → error,
  empty for none
- `names`: true → the name servers that the host asks → error, empty for none
- `services`: true → the services that are enabled and do not run
- `failed`: true → the units that have failed → the file of each
- `owners`: [PORT, …] → PORT → the systemd unit that listens there, or the program's name
- `talkers`: SHARE → if the connection table is fuller: [[ADDRESS, SHARE], …], who opened most of its
  entries
- `paths`: [[SOURCE, DESTINATION], …] → `SOURCE DESTINATION` → [pings sent, answered, seconds of the fastest first
  answer, seconds from the first to the last answer of the fastest burst of 20 with 1400 bytes each]
- `policy`: [PACKET, …] → for each by which route and policy rule it goes, see `remote.trace.policy.taken`
- `login`: [ACCOUNT, ADDRESS, KEY, FORWARDS, PORT, PASSWORD] → why it does not get in from there, see `logins.refused`
- `accounts`: true → who may get in: `accounts` [[NAME, UID, empty password, expired], …] that have a shell; `keys`
  [[ACCOUNT, FILE, LINE, KEY, COMMENT, runs one command only], …]; `rights` [[FILE, LINE, TEXT], …] of sudo; `admins`,
  members of its groups; `writable` [[FILE, MODE], …] by everybody; `asks_nothing` [[FILE, LINE, TEXT], …] of PAM, by
  which everybody is who he says; `recorded`, those that a deploy made
- `odd`: {nics: [NIC, …], tables: [FIRST, END], priorities: [FIRST, END], iptables: whether they are the plan's} →
  [{what, text, since: seconds of the epoch or 0}, …], what differs from a plain host
- `changed`: SINCE, in seconds of the epoch → [[TIME, WHAT, TEXT], …], what changed since then, the latest first
- `listeners`: true → who listens on TCP: port, address (0.0.0.0: all), how many connections wait and how many may,
  program, pid, unit
- `stuck`: true → the processes of services, and pid 1, that can't go on: unit, pid, program, how (`stopped` by a
  signal, `traced`, `frozen`, waits for a `disk`), and the file of the control group that is frozen
- `limits`: true → limits that are met: unit (empty: of the host), what of, how much is used, the limit, where it is set
- `answers`: [[ADDRESS, PORT, NAME], …] → NAME, or `ADDRESS:PORT` → the first line that a program says there; with a
  NAME (`HOST/PATH`, anything and `@` before it) the HTTP status. What goes wrong begins with `- `
- `units`: [UNIT, …] → of these, and of all that are being started: what systemd says, the settings of administrators'
  files for it, and the last lines of the journal of those that failed
- `complaints`: PATH → the last lines of nginx's error log that are worse than errors
- `lacking`: [PROGRAM, …] → those that are not there or do not work → why
- `resolver`: true → how names are found: servers, where /etc/resolv.conf is a link to, its mode, the order of
  nsswitch.conf, the rows of /etc/hosts and their numbers
- `mounts`: true → [[PATH, `read-only` or `inodes`], …] of what must be writable
- `modes`: true → [[PATH, what is wrong, COMMAND], …] of folders, files and devices that every program needs
- `sysctls`: [KEY, …] → KEY → value
- `boot`: {"units": [NAME, …], "files": [PATH, …], "nics": [NIC, …], "nginx": BOOL} → what the next boot will
  do, as `compare.systemd.next_boot.NextBoot`: each part is asked that will do it
- `full`: SHARE → of the file systems that must be writable and are fuller: folder → [[SIZE, PATH], …], largest first
"""
