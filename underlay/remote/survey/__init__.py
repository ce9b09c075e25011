"""What the doctor sends to a host to look around from there, as root.

It reads the request from stdin (JSON), and prints one JSON object. It changes nothing; every wait in it is a second or
two.

Keys of the request, and of the answer:

- `arp`: [[NIC, ADDRESS, SEEK], …] → NIC → ADDRESS → the MACs that answer who has it. With SEEK, if nobody does, it is
  asked for on all other NICs of the list, too. The question is a probe of RFC 5227: nobody learns anything from it
- `echo`: [[NIC, SOURCE, DESTINATION], …] → NIC → [its MTU, the largest unfragmented packet that is answered; 0: none]
- `connect`: [[ADDRESS, PORT, TLS], …] → `ADDRESS:PORT` → error, empty for none
- `sources`: true → the URIs of the host's package sources → error, empty for none
- `names`: true → the name servers that the host asks → error, empty for none
- `services`: true → the services that are enabled and do not run
- `owners`: [PORT, …] → PORT → the systemd unit that listens there, or the program's name
- `talkers`: SHARE → if the connection table is fuller: [[ADDRESS, SHARE], …], who opened most of its
  entries
- `policy`: [PACKET, …] → for each by which route and policy rule it goes, see `remote.trace.policy.taken`
- `boot`: {"units": [NAME, …], "files": [PATH, …], "nics": [NIC, …], "nginx": BOOL} → what the next boot will
  do, as `compare.systemd.next_boot.NextBoot`: each part is asked that will do it
- `full`: SHARE → of the file systems of / and /var that are fuller: mount point → [[SIZE, PATH], …], largest first
"""
