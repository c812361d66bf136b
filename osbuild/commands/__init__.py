"""The commands of osbuild, a module for each concern. Each function takes the parsed arguments and returns an exit code."""
