"""What the package may import from where, what it may not do at all, and what importing it costs."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import spvmia_plugin

PACKAGE = Path(spvmia_plugin.__file__).parent
MODULES = {
    ".".join(("spvmia_plugin", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# Layers from below: a module imports from its own layer and those above it in this table, DESIGN section 5.
LAYERS = [
    ["errors", "lazy", "seeds", "util"],
    ["records", "config", "signals", "paraphrases"],
    ["metrics", "attacks"],
    ["protocols", "hookspecs", "plugins", "builtins", "store"],
    ["data", "checks"],
    ["perturb", "models", "training", "engines", "trainers"],
    ["auditing"],
    ["harness"],
    ["results", "web"],
    ["report", "leaderboard", "export", "combination", "learning", "shadow"],
    ["analysis", "compare", "evidence"],
    ["demo", "cli", "__main__"],
]
# Built-ins are a plugin: they name, inside functions, what the higher layers bring.
BUILTINS = "builtins"

HEAVY = {"torch", "transformers", "peft", "lm_eval", "datasets", "accelerate"}
PURE = {
    "errors",
    "seeds",
    "records",
    "config",
    "signals",
    "paraphrases",
    "metrics",
    "attacks",
    "checks",
    "hookspecs",
    "plugins",
    "protocols",
}
"""No torch and no lm_eval, not even inside a function."""


def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def part(module: str) -> str:
    """The piece of the package a module belongs to: `spvmia_plugin.attacks.loss` -> `attacks`."""
    return module.partition(".")[2].partition(".")[0]


def imports(node: ast.AST) -> Iterator[str]:
    """Names of the modules imported anywhere below a node, but for `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"relative import in line {child.lineno}: the package uses absolute ones"
            yield str(child.module)
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        else:
            yield from imports(child)


def layer_of(name: str) -> int:
    return next((number for number, parts in enumerate(LAYERS) if name in parts), len(LAYERS))


def test_every_module_has_a_layer() -> None:
    parts = {part(module) for module in MODULES} - {""}
    assert parts <= {name for layer in LAYERS for name in layer}


@pytest.mark.parametrize("module", [module for module in MODULES if part(module) not in ("", BUILTINS)])
def test_imports_point_one_way(module: str) -> None:
    above = {
        imported
        for imported in imports(tree(module))
        if imported in MODULES and part(imported) and layer_of(part(imported)) > layer_of(part(module))
    }
    # The plugin manager registers the built-ins, and knows nothing else of them.
    assert above <= ({"spvmia_plugin.builtins"} if module == "spvmia_plugin.plugins" else set())


@pytest.mark.parametrize("module", MODULES)
def test_lm_eval_is_imported_in_harness_only(module: str) -> None:
    roots = {name.split(".")[0] for name in imports(tree(module))}
    assert "lm_eval" not in roots or part(module) == "harness"


@pytest.mark.parametrize("module", [module for module in MODULES if part(module) in PURE])
def test_what_the_numbers_mean_needs_no_torch(module: str) -> None:
    assert not HEAVY & {name.split(".")[0] for name in imports(tree(module))}


def top_level(module: str) -> set[str]:
    statements = [node for node in tree(module).body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    return {name.split(".")[0] for name in imports(ast.Module(statements, []))}


@pytest.mark.parametrize("module", [module for module in MODULES if part(module) == "cli"])
def test_commands_import_heavy_things_when_called(module: str) -> None:
    assert not (HEAVY | {"numpy", "scipy", "sklearn", "pyarrow"}) & top_level(module)


@pytest.mark.parametrize("module", MODULES)
def test_input_is_checked_with_errors_not_asserts(module: str) -> None:
    assert [node.lineno for node in ast.walk(tree(module)) if isinstance(node, ast.Assert)] == []


TELLERS = {"traceback.print_exc", "reason_of", "refusal", "unavailable", "cannot_load", "_reason"}
"""What says what a library said."""
TRIALS = {"spvmia_plugin.models.gradients", "spvmia_plugin.training.lora", "spvmia_plugin.models.forward"}
"""Where a model is tried: whatever it raises is the answer, and only what the machine lacks is raised again."""


BOUNDARY = "spvmia_plugin.util.boundary"
"""Which raises, after its handler, what has nothing of what it caught."""


@pytest.mark.parametrize("module", MODULES)
def test_what_is_caught_widely_is_told_or_raised_again(module: str) -> None:
    """An unknown exception ends the run as what it is: our line has the library's words."""
    for node in ast.walk(tree(module)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = "BaseException" if node.type is None else ast.unparse(node.type)
        where = f"except {caught} in line {node.lineno}"
        if caught == "BaseException" and module != BOUNDARY:
            assert ast.unparse(node.body[-1]) == "raise", where
        elif caught == "Exception":
            raised = [inner for inner in ast.walk(node) if isinstance(inner, ast.Raise)]
            called = {ast.unparse(c.func) for c in ast.walk(node) if isinstance(c, ast.Call)}
            assert raised, where
            assert called & TELLERS or module in TRIALS, where


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_asked_of_code_that_swallows_exceptions(module: str) -> None:
    """scipy's graph routines print what goes wrong in their compiled part, and answer all the same."""
    assert not {name for name in imports(tree(module)) if name.startswith("scipy.sparse.csgraph")}


@pytest.mark.parametrize("module", MODULES)
def test_no_pickle_is_read(module: str) -> None:
    unpicklers = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    found = set(imports(tree(module)))
    if "marshal.dumps" in found:  # which writes, and takes nothing else of it along
        assert "import marshal" not in ast.unparse(tree(module))
        found -= {"marshal", "marshal.dumps"}
    assert not unpicklers & {name.split(".")[0] for name in found}
    for node in ast.walk(tree(module)):
        if not isinstance(node, ast.Call):
            continue
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if ast.unparse(node.func) == "torch.load":
            assert keywords.get("weights_only") == "True", f"torch.load in line {node.lineno}"
        if ast.unparse(node.func).endswith(("numpy.load", "np.load")):
            assert keywords.get("allow_pickle", "False") == "False", f"np.load in line {node.lineno}"
        assert keywords.get("trust_remote_code") != "True", f"trust_remote_code in line {node.lineno}"


@pytest.mark.parametrize("module", MODULES)
def test_modules_stay_readable(module: str) -> None:
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= 700
    for node in ast.walk(tree(module)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = int(node.end_lineno or 0) - node.lineno + 1
            documented = ast.get_docstring(node, clean=False) or ""
            assert length - documented.count("\n") - 1 <= 80, f"{node.name} in line {node.lineno}"


def test_what_a_class_brings_itself_is_documented() -> None:
    """What overrides is documented where it was brought."""
    classes = {
        node.name: (node, [ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases])
        for module in MODULES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.ClassDef)
    }

    def methods(name: str) -> set[str]:
        """Names that a class and its bases define; of a base that is not ours, any."""
        if name not in classes:
            return set()
        node, bases = classes[name]
        own = {each.name for each in node.body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))}
        return own.union(*map(methods, bases))

    bare = [
        f"{name}.{method.name}"
        for name, (node, bases) in classes.items()
        if not name.startswith("_") and not any(base not in classes for base in bases)
        for method in node.body
        if isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef))
        and not method.name.startswith("_")
        and ast.get_docstring(method) is None
        and not any(method.name in methods(base) for base in bases)
    ]
    assert bare == []


@pytest.mark.parametrize("statement", ["import spvmia_plugin", "import spvmia_plugin.cli.main as m; m.make_app()"])
def test_what_is_imported_at_once_is_light(statement: str) -> None:
    code = f"import sys; {statement}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {name.split(".")[0] for name in loaded} & (HEAVY | {"numpy", "scipy", "sklearn", "pandas", "pyarrow"})
    assert heavy == set()


@pytest.mark.parametrize("command", ["--help", "plugins", "plugins --json", "--version", "report --help"])
def test_what_only_lists_is_light(command: str) -> None:
    """`spvmia plugins` took as long as torch takes to import: 23 s on one loaded core."""
    code = (
        f"import sys; sys.argv = ['spvmia', *{command.split()}]\n"
        "from spvmia_plugin.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as done: assert not done.code, done.code\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.split()
    slow = HEAVY | {"numpy", "scipy", "sklearn", "pandas", "pyarrow", "matplotlib", "huggingface_hub", "pydantic"}
    assert {name.split(".")[0] for name in loaded} & slow == set()


def test_results_are_read_and_set_side_by_side_without_scipy_s_parts() -> None:
    """Importing them took half of the imports' time: `import scipy` loads each when it is first used."""
    code = "import sys, spvmia_plugin.leaderboard, spvmia_plugin.results.read; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    parts = {f"scipy.{part}" for part in ("special", "stats", "optimize", "linalg", "sparse", "integrate")}
    assert set(loaded) & (parts | {"torch", "transformers", "lm_eval", "sklearn", "pandas"}) == set()
    assert "numpy" in loaded


@pytest.mark.skipif("SPVMIA_TEST_WHEEL" not in os.environ, reason="set by tox, where the tests run in a built wheel")
def test_the_tests_run_in_the_built_wheel() -> None:
    assert "site-packages" in PACKAGE.parts
    assert (PACKAGE / "tasks" / "spv_mia_custom.yaml").is_file()
    assert (PACKAGE / "py.typed").is_file()


def test_what_is_left_out_of_the_untraced_tests_is_traced() -> None:
    """A folder that one of the two commands of `tox -e py` has, and the other does not leave out, or the reverse."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(Path(__file__).parent.parent / "tox.ini", encoding="utf-8")
    section = config["testenv:py"]
    core = section["core"].split()
    assert core == re.findall(r"--ignore (\S+)", section["commands"])
    assert all((Path(__file__).parent.parent / folder).is_dir() for folder in core)


def declared() -> set[str]:
    """Distributions that the package depends on, those of extras too. Read from the source: installed metadata of an
    editable install grow old."""
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    lists = re.findall(r"^(?:dependencies|demo|server) = \[(.*?)\]$", text, re.S | re.M)
    return {normal(name) for found in lists for name in re.findall(r'"([\w.-]+)', found)}


def normal(name: str) -> str:
    return name.lower().replace("_", "-")


def distributions_of_packages() -> dict[str, set[str]]:
    """Names of distributions by the package they bring. importlib.metadata of Python 3.10 knows those alone that say it
    in a `top_level.txt`."""
    found: dict[str, set[str]] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]  # parsed anew each time
        for file in distribution.files or ():
            root = file.parts[0]
            if len(file.parts) > 1 or file.suffix == ".py":
                found.setdefault(root.removesuffix(".py"), set()).add(name)
    return found


def test_every_import_is_a_declared_dependency() -> None:
    distributions = distributions_of_packages()
    roots = {name.split(".")[0] for module in MODULES for name in imports(tree(module))}
    foreign = roots - set(sys.stdlib_module_names) - {"spvmia_plugin"}
    dependencies = declared()
    # vLLM comes with the LM that has it: its backend is made of nothing else. What `semantic` takes is an extra of its
    # own, which tests do without.
    foreign -= {"vllm", "sentence_transformers"}
    assert {root for root in foreign if not {normal(d) for d in distributions.get(root, [])} & dependencies} == set()
