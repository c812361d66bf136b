"""The node's network: links, addresses, routes, names.

:mod:`~machined.network.desired` turns the configuration and the DHCP leases into what should be, :mod:`~machined.network.netlink`
reads what is, :mod:`~machined.network.plan` compares the two (pure), and :mod:`~machined.network.reconciler` carries the plan out,
again at every event of the kernel: drift heals by the same path that made it right in the first place.
"""
