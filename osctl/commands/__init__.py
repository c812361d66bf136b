"""What each command does; the table of them is :mod:`osctl.cli`."""
