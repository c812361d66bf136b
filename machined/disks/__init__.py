"""STATE and DATA on the disk that the node booted from: found, made once, grown, checked, mounted.

:mod:`~machined.disks.facts` reads what is, :mod:`~machined.disks.plan` decides the next step (pure), :mod:`~machined.disks.apply`
takes it, :mod:`~machined.disks.filesystems` checks, mounts and grows what is on a partition.
"""
