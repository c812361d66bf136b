"""``osctl``: the operator's client for Basalt nodes."""
