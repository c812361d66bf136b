"""Workloads: what the configuration has the node run, kept running.

:mod:`machined.workloads.desired` says what a document means for the runtime, :mod:`machined.workloads.decide` what follows from what
is there, both pure; a :class:`machined.workloads.keeper.Keeper` per workload does it, and the concern "workloads"
(:mod:`machined.workloads.reconciler`) has a keeper for each document.
"""
