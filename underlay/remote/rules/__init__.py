"""The iptables rules of a host: read with all that a comparison needs, and ours put in place beside those of others.

Rules of others are never written, from no text: `iptables-save` prints some of what native nftables rules match, and
not the rest. Ours are deleted and inserted one by one, each table in one commit. Which rules of the kernel are ours is
told by their expressions, not by what is printed of them.

`read REQUEST` prints one JSON object; REQUEST is JSON, packed by `argument`: {own: PATH, program: PATH, wanted: TEXT,
boot: [[UNIT, FILE, [PROGRAM, …]], …]}. Both the file and the text are what `underlay.compare.tables.write` makes;
`program` puts that file in place at boot. The answer has tables as {NAME: null, where iptables can't show it, or
{CHAIN: [POLICY, [RULE, …]]}}:

- `live`
- `wanted`: the text's rules alone, as this host prints them
- `others`: what the files of others make at the next boot, loaded by their programs in an empty network namespace, in
  the order of `boot`, of those units that are enabled
- `boot`: the same with the file of ours on top
- `failed`: [[UNIT, FILE, why it does not load], …]
- `own`: the text of the file; null if there is none

`missing` instead of all that: there is no iptables. `error`: why it can't be read.
"""
