"""The concern "volumes": further disks, found by what they are, made into one file system each, mounted at ``/var/mnt/NAME``.

:mod:`~machined.volumes.facts` reads which disks there are and what is on them, :mod:`~machined.volumes.plan` decides which disk a
volume gets and what is next (pure, with the table of what a power cut leaves), :mod:`~machined.volumes.apply` does it, and
:mod:`~machined.volumes.reconciler` looks after all of them.
"""
