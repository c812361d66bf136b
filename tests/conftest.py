"""What image and node tests share: the command lines as a user calls them, and the images that they build."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


class UnexpectedExitError(AssertionError):
    """A command ended with another exit code than the test expected."""


def command(*argv: str | Path, expect: int = 0, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of the project's commands and insist on its exit code; no command may ever show a traceback."""
    words = [str(BIN / str(argv[0])), *(str(word) for word in argv[1:])]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=PROJECT, env=os.environ | (env or {}))
    shown = f"$ {' '.join(str(word) for word in argv)}\n{done.stdout}\n{done.stderr}"
    if done.returncode != expect:
        raise UnexpectedExitError(f"exit code {done.returncode}, not {expect}\n{shown}")
    assert "Traceback" not in done.stderr, shown
    return done


def answer(*argv: str | Path, env: dict[str, str] | None = None) -> Any:
    """The JSON that a command prints."""
    return json.loads(command(*argv, "-o", "json", env=env).stdout)


@pytest.fixture(scope="module", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Contexts and machines of a module alone, never the operator's: what is done to all nodes of a context must not find those of
    another module. The store is shared: one kernel build serves all.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def minimal(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The minimal image, as ``osbuild image -o json`` describes it. Its artifacts lie in a directory of the test's."""
    return answer(
        "osbuild",
        "image",
        "--profile",
        "minimal",
        "--format",
        "raw,qcow2",
        "--output",
        tmp_path_factory.mktemp("minimal"),
    )
