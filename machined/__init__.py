"""The node daemon of Basalt: PID 1's first moments, the reconciler, and the gateway in front of it.

``machined.init`` runs as PID 1 and hands over to s6; ``machined.daemon`` owns the node's state; ``machined.gateway`` is the only
part that the network can reach, and it may do nothing but ask the daemon. See docs/decisions/node-processes.md.
"""
