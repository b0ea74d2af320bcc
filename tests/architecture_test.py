"""The rules of the house, executable: floors, cycles, sizes, docstrings, imports.

A module may import modules of lower floors, of its own family, and plain modules
(files directly under jaxrobust/) of its own floor; never a sibling family, never up.
"""

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "jaxrobust"
LAYERS = (
    {"types", "registry", "rng", "tree", "errors", "files"},
    {"threat", "losses", "metrics", "augment", "data", "models"},
    {"attacks", "state", "optim", "checkpoint", "loader", "sharding", "workdir"}
    | {"memory", "progress", "samplers", "compile_cache"},
    {"objectives", "scores", "features", "trackers", "interop"},
    {"selection", "generative", "evaluators", "report", "proxy", "distill"},
    {"train_step", "accumulate", "finished", "perceptual", "profiling"},
    {"tasks"},
    {"main", "flags"},
)
FORBIDDEN = {
    # An attack and an evaluator see a network as `logits_fn` and nothing else.
    "attacks": {"flax", "optax", "jaxrobust.models", "jaxrobust.state"},
    "evaluators": {"flax", "optax", "jaxrobust.models", "jaxrobust.state"},
    # A selector never knows the network, a loader never the selector.
    "selection": {"flax", "jaxrobust.models", "jaxrobust.state"},
    "loader": {"flax", "jaxrobust.models", "jaxrobust.state"},
    "models": {"optax"},
}
LAZY = {"tensorflow_datasets", "ml_collections", "array_record"}
LAZY |= {"torch", "safetensors"}
MAX_FUNCTION, MAX_FILE = 70, 300
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def modules():
    """{dotted name: syntax tree} of the whole package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(), str(path))
    return found


def imported(tree):
    """Dotted names that a tree imports anywhere; `from a import b` counts as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(name):
    """The modules of this package that module `name` imports."""
    for target in imported(modules()[name]):
        while target.startswith("jaxrobust") and target not in modules():
            target = target.rpartition(".")[0]
        if target.startswith("jaxrobust.") and target != name:
            yield target


def room(name):
    """The family or plain module that `name` belongs to."""
    return name.split(".")[1]


def floor(name):
    return next(i for i, rooms in enumerate(LAYERS) if room(name) in rooms)


def is_family(name):
    return (PACKAGE / room(name)).is_dir()


def defined(name, kinds):
    """All nodes of some kinds, nested ones too."""
    return [node for node in ast.walk(modules()[name]) if isinstance(node, kinds)]


def inner_modules():
    return sorted(name for name in modules() if name != "jaxrobust")


def test_every_module_has_a_floor_and_every_floor_its_modules():
    rooms = {room(name) for name in inner_modules()}
    assert rooms == set().union(*LAYERS)
    assert sum(map(len, LAYERS)) == len(rooms), "a room stands on two floors"


def test_imports_go_down():
    def allowed(name, target):
        plain_neighbour = floor(target) == floor(name) and not is_family(target)
        lower = floor(target) < floor(name)
        return lower or plain_neighbour or room(target) == room(name)

    wrong = [
        f"{name} -> {target}"
        for name in inner_modules()
        for target in own_imports(name)
        if not allowed(name, target)
    ]
    assert not wrong


def test_no_import_cycles():
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            path.append(name)
            for target in own_imports(name):
                visit(target)
            done.add(path.pop())

    for name in inner_modules():
        visit(name)


def test_forbidden_imports():
    wrong = [
        f"{name} -> {target}"
        for name in inner_modules()
        for target in imported(modules()[name])
        for barred in FORBIDDEN.get(room(name), set()) | {"tensorflow"}
        if f"{target}.".startswith(f"{barred}.")
    ]
    assert not wrong


def test_heavy_libraries_are_imported_inside_functions_only():
    for name in inner_modules():
        tree = modules()[name]
        lazy = {id(n) for f in defined(name, FUNCTIONS) for n in ast.walk(f)}
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)) and id(node) not in lazy:
                roots = {x.split(".")[0] for x in imported(ast.Module([node], []))}
                assert not roots & LAZY, name


def test_functions_and_files_are_short():
    for name in inner_modules():
        last = max(getattr(n, "end_lineno", 0) for n in ast.walk(modules()[name]))
        assert last <= MAX_FILE, name
        for node in defined(name, FUNCTIONS):
            length = node.end_lineno - node.lineno + 1
            assert length <= MAX_FUNCTION, f"{name}.{node.name}: {length} lines"
    for path in PACKAGE.parent.glob("tests/**/*.py"):
        assert len(path.read_text().splitlines()) <= MAX_FILE, path.name


def test_public_names_have_docstrings():
    def bare(prefix, body):
        for node in body:
            if not isinstance(node, (*FUNCTIONS, ast.ClassDef)):
                continue
            if node.name.startswith("_"):
                continue
            if not ast.get_docstring(node):
                yield f"{prefix}.{node.name}"
            if isinstance(node, ast.ClassDef):
                yield from bare(f"{prefix}.{node.name}", node.body)

    missing = [n for n in inner_modules() if not ast.get_docstring(modules()[n])]
    for name in inner_modules():
        missing += bare(name, modules()[name].body)
    assert not missing


def test_only_the_program_prints():
    for name in inner_modules():
        calls = defined(name, (ast.Call,))
        prints = [c for c in calls if getattr(c.func, "id", "") == "print"]
        assert not prints or room(name) in {"main", "flags", "tasks"}, name
