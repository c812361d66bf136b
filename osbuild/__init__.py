"""osbuild: from a profile to an immutable, bootable image.

A build is a graph of steps (:mod:`osbuild.graph`) whose outputs live in a content-addressed store (:mod:`osbuild.store`). Steps run
external programs only inside locked trixie trees (:mod:`osbuild.sandbox`), fetched by what the lock files say (:mod:`osbuild.lock`).
"""
