"""A DHCPv4 client (RFC 2131): messages, the state machine, the sockets, each in its module.

Our own, because the one in pyroute2 0.9 keeps its times by the wall clock, which chrony steps on a node, and repeats requests more
often than RFC 2131, 4.4.5 allows (docs/decisions/node-network.md).
"""
