"""Generated from api/basalt/machine/v1 by ``python -m basalt.stubs``; never edited by hand."""
