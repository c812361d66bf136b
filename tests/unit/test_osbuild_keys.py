"""A step's key changes with everything that can change its output, and with nothing else."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from basalt.errors import BasaltError
from osbuild import keys, paths
from osbuild.graph import topological
from osbuild.pipeline import image_graph
from tests.unit.osbuild_steps import step

Digest = Callable[[], str]


def forget() -> None:
    """Sources are read once per process; a test edits them."""
    for function in (keys._module_source, keys._module_tree, keys.code_modules, keys.code_digest):
        function.cache_clear()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout in small: a step that imports a helper, which imports another inside a function."""
    monkeypatch.setattr(paths, "PROJECT", tmp_path)
    (tmp_path / "osbuild").mkdir()
    (tmp_path / "osbuild" / "__init__.py").write_text("")
    (tmp_path / "osbuild" / "one.py").write_text(
        "import json\nfrom osbuild import store\nfrom osbuild.near import LEVEL\n"
    )
    (tmp_path / "osbuild" / "near.py").write_text(
        "LEVEL = 6  # zstd\n\n\ndef late():\n    from osbuild import far\n    return far\n"
    )
    (tmp_path / "osbuild" / "far.py").write_text("SALT = 1\n")
    (tmp_path / "osbuild" / "store.py").write_text("import osbuild.hidden\n")
    (tmp_path / "osbuild" / "hidden.py").write_text("")
    forget()
    yield tmp_path
    forget()


@pytest.fixture
def digest(project: Path) -> Digest:
    def now() -> str:
        forget()
        return keys.code_digest("osbuild.one")

    return now


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_code_counts_with_all_that_it_imports_however_deep_but_not_the_framework(project: Path) -> None:
    assert keys.code_modules("osbuild.one") == ("osbuild", "osbuild.far", "osbuild.near", "osbuild.one")


@pytest.mark.parametrize(("module", "old", "new"), [("near", "6", "7"), ("far", "1", "2"), ("one", "LEVEL", "late")])
def test_changed_code_changes_the_key(project: Path, digest: Digest, module: str, old: str, new: str) -> None:
    before = digest()
    edit(project / "osbuild" / f"{module}.py", old, new)
    assert digest() != before


def test_comments_and_layout_change_nothing(project: Path, digest: Digest) -> None:
    before = digest()
    edit(project / "osbuild" / "near.py", "LEVEL = 6  # zstd\n", "# As measured.\n\nLEVEL   =   (6)\n")
    assert digest() == before


def test_framework_changes_nothing(project: Path, digest: Digest) -> None:
    before = digest()
    edit(project / "osbuild" / "store.py", "hidden", "far\nx = 1")
    assert digest() == before


def test_epoch_of_the_framework_changes_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = step("one").key
    monkeypatch.setattr("osbuild.graph.FRAMEWORK_EPOCH", -1)
    assert step("one").key != before


def test_parameters_inputs_and_name_change_the_key() -> None:
    plain = step("one", level=6)
    assert step("one", level=6).key == plain.key
    others = [
        step("one", level=7),
        step("one", level="6"),
        step("two", level=6),
        step("one", level=6, more=1),
        step("one", inputs=[step("tools")], level=6),
        step("one", inputs=[step("tools", version=2)], level=6),
    ]
    assert len({plain.key, *(other.key for other in others)}) == 7


def test_order_of_parameters_does_not_count() -> None:
    assert step("one", a=1, b={"x": 1, "y": 2}).key == step("one", b={"y": 2, "x": 1}, a=1).key


def test_files_count_by_name_content_and_executable_bit(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    file = tmp_path / "below" / "run"
    file.write_text("one")
    seen = [dict(keys.file_digests(tmp_path))]
    file.write_text("two")
    seen.append(dict(keys.file_digests(tmp_path)))
    file.chmod(0o755)
    seen.append(dict(keys.file_digests(tmp_path)))
    file.rename(tmp_path / "below" / "finish")
    seen.append(dict(keys.file_digests(tmp_path)))
    assert all(one != other for number, one in enumerate(seen) for other in seen[:number])


def test_times_of_files_and_bytecode_caches_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    before = dict(keys.file_digests(tmp_path))
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_bytes(b"x")
    (tmp_path / "a.py").touch()
    assert dict(keys.file_digests(tmp_path)) == before


def test_links_count_by_where_they_point_even_to_nowhere(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/nowhere/one")
    before = dict(keys.file_digests(tmp_path))
    link.unlink()
    link.symlink_to("/nowhere/two")
    assert dict(keys.file_digests(tmp_path)) != before != {}


def test_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(BasaltError, match="gone"):
        list(keys.file_digests(tmp_path / "gone"))


def _code_of_the_image() -> set[str]:
    steps = topological(image_graph("minimal").targets(("raw", "qcow2")))
    return {module for each in steps for module in keys.code_modules(each.run.__module__)}


def test_no_code_of_the_image_is_out_of_its_keys() -> None:
    """Importing a.b runs a/__init__.py as well, and relative imports are not followed: neither may carry anything."""
    for module in _code_of_the_image():
        tree = keys._module_tree(module)
        assert not any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree)), module
        package = module.rpartition(".")[0]
        while package:
            body = keys._module_tree(package).body
            assert all(isinstance(node, ast.Expr) for node in body), f"{package} has code that no key counts"
            package = package.rpartition(".")[0]
