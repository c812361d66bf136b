"""The concern "logging": copies of the logs for collectors elsewhere.

The local logs are the queue. Each destination has a cursor into them (:mod:`~machined.forwarding.cursor`) and a task of its own that
reads on from there, writes what it read in the destination's format (:mod:`~machined.forwarding.formats`), sends it, and moves the
cursor once the collector's machine has acknowledged it (:mod:`~machined.forwarding.sender`). So memory is bounded by one batch per
destination; a collector that is dead or slow delays nothing but its own copy; and what is lost to it, when the local log is
rotated away first, is told. What was sent but not acknowledged is sent again: at least once, never silently less.
"""
