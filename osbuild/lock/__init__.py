"""Lock files: which Debian packages and Python wheels a build is made of, by version and hash.

``locks/sets.toml`` says what is wanted, ``locks/debian.json`` and ``locks/wheels.json`` what that came to. A lock holds pool paths
and hashes, never a host name: the mirror comes from the host's own configuration.
"""
