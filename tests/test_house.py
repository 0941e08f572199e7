"""The packages lie in layers: each imports only from those below it, and no package imports a script."""

import ast
from pathlib import Path

import pytest

ROOM = Path(__file__).parents[1] / "references" / "video_classification"
# Low to high.
LAYERS = ["runtime", "videos", "clips", "network", "caching", "evaluation", "reporting", "training", "deployment"]
MAY_IMPORT = {package: set(LAYERS[:level]) for level, package in enumerate(LAYERS)}
MAY_IMPORT |= {"synthetic": set(), "benchmarks": {*LAYERS, "synthetic"}}
SCRIPTS = {path.stem for path in ROOM.glob("*.py")}
MODULES = sorted(path for package in MAY_IMPORT for path in (ROOM / package).glob("*.py"))


def imported(path: Path) -> set[str]:
    """Dotted names of the modules, ours and others', that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: a relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_every_package_is_in_a_layer():
    assert {path.parent.name for path in ROOM.glob("*/__init__.py")} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_imports_point_downward(path):
    package = path.parent.name
    packages = {name.split(".")[0] for name in imported(path)}
    assert packages & set(MAY_IMPORT) <= MAY_IMPORT[package] | {package}
    assert not packages & SCRIPTS


def test_a_package_has_no_cycles():
    ours = {f"{path.parent.name}.{path.stem}": path for path in MODULES}
    below = {name: imported(path) & set(ours) for name, path in ours.items()}
    while leaves := [name for name, others in below.items() if not others & set(below)]:
        for name in leaves:
            del below[name]
    assert not below


def test_only_the_quickstart_and_benchmarks_need_generated_videos_and_only_benchmark_py_the_benchmarks():
    users = {
        package: {p.stem for p in ROOM.glob("*.py") if _uses(p, package)} for package in ("synthetic", "benchmarks")
    }
    assert users["synthetic"] <= {"quickstart", "benchmark"} and users["benchmarks"] <= {"benchmark"}


def _uses(path: Path, package: str) -> bool:
    return any(name.split(".")[0] == package for name in imported(path))


def test_an_init_file_holds_a_docstring_alone():
    for path in ROOM.glob("*/__init__.py"):
        (statement,) = ast.parse(path.read_text(encoding="utf-8")).body
        assert isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant), path
