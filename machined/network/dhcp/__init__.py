"""DHCP clients, v4 (RFC 2131) and v6 (RFC 8415): messages, the state machines, the sockets, each in its module.

Our own, because the one in pyroute2 0.9 keeps its times by the wall clock, which chrony steps on a node, and repeats requests more
often than RFC 2131, 4.4.5 allows (docs/decisions/node-network.md).
"""
