"""The floors of the house: imports go down only, and two libraries have one importer each."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "eftlocal"
FLOORS = (  # from the lowest; each a file or a folder of the package
    ("text.py", "interrupt.py"),
    ("errors.py",),
    ("catalog",),
    ("arithmetic",),
    ("runtime",),
    ("training",),
    ("engine",),
    ("decoding",),
    ("emulation",),
    ("runs",),
    ("evaluation",),
    ("apps",),
    ("tuning.py",),  # what several apps do together
    ("cli",),
    ("__init__.py", "__main__.py"),  # what users import, and what they run
)
FOLDERS = {  # inside of those
    "apps": {"batch", "bench", "chat", "doctor", "eval", "harness", "serve", "store", "tune"},
    "catalog": {"hub"},
    "decoding": {"constraints", "drafts"},
    "runtime": {"child", "llama", "plan", "remote", "rpc"},
}
SOLE_IMPORTERS = {  # a file, or all of a package
    "llama_cpp": "runtime/llama/",
    "llguidance": "decoding/constraints/",
    "huggingface_hub": "catalog/hub/",
    "torch": "training/",
    "starlette": "apps/serve/",
    "uvicorn": "apps/serve/server.py",
    "lm_eval": "apps/harness/",
    "inspect_ai": "apps/harness/inspect_model.py",
    "httpx2": "catalog/hub/",  # what huggingface_hub asks the network with
}


def imports(source: Path) -> set[str]:
    """Every module that `source` imports, anywhere in it, by absolute name."""
    found: set[str] = set()
    here = ("eftlocal", *source.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            stem = ".".join(here[: len(here) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (stem, node.module) if part)
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return found


def sources() -> list[tuple[str, set[str]]]:
    return [(str(path.relative_to(PACKAGE)), imports(path)) for path in sorted(PACKAGE.rglob("*.py"))]


def floor(name: str) -> int:
    """The floor of a file or folder of the package, by its name with or without `.py`."""
    for number, names in enumerate(FLOORS):
        if name in names or f"{name}.py" in names:
            return number
    raise AssertionError(f"{name} has no floor: give it one in FLOORS")


def test_every_file_and_folder_has_a_floor() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    for folder in sorted(folders - {PACKAGE}):
        top, *inside = folder.relative_to(PACKAGE).parts
        floor(top)  # raises where it has none
        assert len(inside) < 2 and set(inside) <= FOLDERS.get(top, set()), f"{folder} is not a known folder"
    for path in PACKAGE.glob("*.py"):
        floor(path.name)


def test_an_unknown_file_or_folder_has_no_floor() -> None:
    for unknown in ("sampling", "helpers.py"):
        with pytest.raises(AssertionError, match="has no floor"):
            floor(unknown)


def test_imports_only_go_down() -> None:
    for name, modules in sources():
        own = floor(name.split("/")[0])
        for module in modules:
            parts = module.split(".")
            if parts[0] != "eftlocal":
                continue
            other = floor(parts[1]) if len(parts) > 1 else floor("__init__.py")
            assert other <= own, f"{name} imports {module}, which is a floor above it"


def test_apps_never_import_each_other() -> None:
    for name, modules in sources():
        if name.startswith("apps/") and name != "apps/__init__.py":
            own = {"common", "editor", name.split("/")[1].removesuffix(".py")}  # an app is a module or a package
            others = {m for m in modules if m.startswith("eftlocal.apps.") and m.split(".")[2] not in own}
            assert not others, f"{name} imports {others}"


def test_one_importer_for_each_outside_engine() -> None:
    for name, modules in sources():
        for library, importer in SOLE_IMPORTERS.items():
            if any(m.split(".")[0] == library for m in modules):
                assert name.startswith(importer), f"{name} imports {library}; only {importer} may"


def test_all_but_tune_runs_without_the_extra_that_brings_torch() -> None:
    """Importing anything of training/ without torch is an error that says what to install."""
    tune = ("training/", "apps/tune/", "tuning.py", "cli/tune.py")
    for name, modules in sources():
        mine = {m for m in modules if m.startswith("eftlocal.training")}
        assert not mine or name.startswith(tune), f"{name} imports {mine}"


def test_the_arithmetic_imports_numpy_and_of_ours_only_errors_and_arithmetic() -> None:
    for name, modules in sources():
        if name.startswith("arithmetic/"):
            ours = {m for m in modules if m.split(".")[0] == "eftlocal"}
            above = {m for m in ours if m.split(".")[1] not in ("errors", "arithmetic")}
            outside = {m.split(".")[0] for m in modules - ours} - sys.stdlib_module_names - {"numpy"}
            assert not above and not outside, f"{name} imports {above | outside}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    left = {module_name(name): modules for name, modules in sources()}
    for module, modules in left.items():
        known = modules & left.keys()
        # `from package import module` names both; it is the package's own names that are not wanted then.
        left[module] = {m for m in known if not any(other.startswith(f"{m}.") for other in known)}
    while leaves := {module for module, modules in left.items() if not modules & left.keys()}:
        left = {module: modules for module, modules in left.items() if module not in leaves}
    while roots := left.keys() - {m for modules in left.values() for m in modules}:  # they only lead to a circle
        left = {module: modules for module, modules in left.items() if module not in roots}
    assert not left, f"these import each other: {left}"


def module_name(name: str) -> str:
    return ".".join(("eftlocal", *Path(name).with_suffix("").parts)).removesuffix(".__init__")
