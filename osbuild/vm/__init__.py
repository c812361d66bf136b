"""Virtual machines: booting what was built, in QEMU from the locked vm-tools tree."""
