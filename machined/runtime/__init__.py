"""containerd, as machined speaks to it: the CRI, and containerd's own services where the CRI has no call."""
