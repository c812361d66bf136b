"""What containerd and the CRI speak, generated from ``api/machined/wire``."""
