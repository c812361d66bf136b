"""The kernel's configuration: from reviewed fragments to a checked result.

Pure functions on text and values; the steps in ``osbuild.steps.kernel_config`` and ``osbuild.steps.kernel`` carry them out.

* :mod:`~osbuild.kernel.fragments`: ``kernel-config/*.config`` → one request, every line with its reason and its place.
* :mod:`~osbuild.kernel.config`: the final ``.config``, and where it differs from the request.
* :mod:`~osbuild.kernel.policy`: the project's hardening policy and its verdict on a configuration.
* :mod:`~osbuild.kernel.report`: what ``osbuild kernel`` shows.
"""
