"""What is sent to a host to follow one connection there.

It is spoken to as `remote.serve` says, and its hello is `{"root": BOOL}`: without root it can send and listen, but sees
nothing. PROTOCOL is tcp, udp or icmp; PORTS are [SOURCE PORT, DESTINATION PORT], for icmp [IDENTIFIER, 0].

- `{"listen": [PROTOCOL, ADDRESS]}` → the port of a listener on that address
- `{"reserve": [PROTOCOL, ADDRESS]}` → the port, or identifier, that will be sent from
- `{"watch": [PROTOCOL, PORTS, [NIC, …]]}` → `true`: from now on packets of this connection are noted, and what
  happens around these NICs
- `{"send": [DESTINATION, PORT]}` → null if an answer came, else why not
- `{"seen": null}` → `{"packets": […], "chains": […], "around": {…}}`, see `Watch.seen`
- `{"taken": [PACKET, …]}` → by which route and policy rule each goes, see `policy.taken`
- `{"heard": [[NIC, ADDRESS], …]}` → NIC → ADDRESS → the MACs that answer ARP for it
- `{"run": [[ARGV, STDIN], …]}` → `[[EXIT CODE, STDOUT, STDERR], …]`

Packets are noted by a packet socket with a filter in the kernel. Rules are noted by the kernel's own tracing of
nftables, which iptables is made of: a table of our own marks the packets. It is owned by the socket that made it, so
the kernel removes it when this process ends, however it ends. No chain of anybody else is touched, and `iptables-save`
does not show it. Nothing else stays behind either: this ends with its stdin, and when it was not asked for
DEADLINE seconds, whatever happens.
"""
