"""The only part of the node that the network can reach.

It runs as an ordinary user without capabilities, terminates mutual TLS, finds out who calls and whether the contract lets them,
and relays the bytes to machined's unix socket without looking into them. What it needs to know — the node's key and certificate,
the client authorities, the mode — it reads from one file that machined replaces whole (:mod:`machined.gateway.trust`).
"""
