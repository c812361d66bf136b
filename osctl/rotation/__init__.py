"""``osctl ca rotate``: replace an authority on every node of a context, while everything goes on working.

The way is a table of phases (:mod:`osctl.rotation.phases`), each of which leaves a state in which every client that worked before
still works:

========= ============================================ ==============================================================
phase     client authority                             node authority
========= ============================================ ==============================================================
add       each node accepts certificates of both       the context accepts nodes of both
switch    the context shows the new certificate        each node shows a certificate of the new one
remove    each node accepts the new one alone          the context accepts the new one alone
========= ============================================ ==============================================================

After each phase every node is looked at, and the next one begins only when all of them are as they should be: so the old
authority goes only after the new one was seen working everywhere. What is done to a node is on trial until a new connection, made
with the new certificate, has confirmed it. How far a rotation is stands in a file beside the context's keys
(:mod:`osctl.rotation.record`), written before each step; every step finds out what is left to do of it, so the command can be
interrupted anywhere and is then run again.
"""
