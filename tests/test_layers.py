"""The house rules of docs/architecture.md: who may import whom, what stays lazy, how large a file may grow."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pennyweight
from pennyweight.engines.base import ENGINES
from pennyweight.techniques.base import TECHNIQUES
from pennyweight.traces.reading import FORMATS

ROOT = Path(pennyweight.__file__).parent
VALUES = {
    "balancing",
    "budget",
    "cluster",
    "deployment",
    "evidence",
    "features",
    "generation",
    "hardware",
    "measurement",
    "mixture",
    "mixture_evidence",
    "model",
    "schemes",
    "service",
    "shape",
    "similar_evidence",
    "step_price",
    "study",
    "workload",
}
LAYERS = [
    {"errors"},
    {"paths"},
    VALUES,
    {"busy", "codec", "json_lines", "processes", "chat_template"},
    {"plain_specials"},
    {"tokenizer"},
    {"checks"},
    {"checkpoint", "legacy", "traces"},
    {"formats", "weights", "install", "openai_api", "artifact_cache", "embedding", "mixing"},
    {"similarity"},
    {"engines", "techniques", "export", "plan", "simulate", "report", "journal"},
    {"browsers"},
    {"worker", "console"},
    {"serve"},
    {"measure"},
    {"search"},
    {"conform"},
    {"inputs", "provision"},
    {"verbs"},
    {"cli"},
    {"__main__"},
]
RANK = {unit: rank for rank, units in enumerate(LAYERS) for unit in units}
HEAVY = {
    "torch",
    "transformers",
    "openvino",
    "openvino_genai",
    "onnxruntime",
    "onnxruntime_genai",
    "auto_round",
    "gguf",
    "scipy",
    "huggingface_hub",
    "onnx",
    "safetensors",
    "sklearn",
    "numba",
}
MAY_IMPORT_HEAVY = {  # only a driver process imports these, or what needs them at once
    "pennyweight.simulate.compiled",
    "pennyweight.engines.transformers.graphs",
    "pennyweight.engines.transformers.loading",
    "pennyweight.engines.transformers.own_caches",
    "pennyweight.engines.transformers.runtime",
}
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
LONGEST_FILE = 400
LONGEST_FACADE = 15  # lines of a package's __init__.py
VARIANTS = {"engines": set(ENGINES), "techniques": set(TECHNIQUES), "traces": set(FORMATS)}


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(file): file.read_text(encoding="utf-8") for file in sorted(ROOT.rglob("*.py"))}
PACKAGES = {module_name(file) for file in ROOT.rglob("__init__.py")}


def targets(node: ast.AST, importer: str) -> Iterator[str]:
    """The modules that one import statement names; `from package import module` names the module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = importer.split(".") if importer in PACKAGES else importer.split(".")[:-1]
            base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
        for alias in node.names:
            whole = f"{base}.{alias.name}"
            yield whole if whole in SOURCES else base


def all_imports(importer: str, source: str) -> list[tuple[int, str]]:
    """Lazy ones and those for type checking too."""
    nodes = ast.walk(ast.parse(source))
    return [(n.lineno, t) for n in nodes if isinstance(n, ast.Import | ast.ImportFrom) for t in targets(n, importer)]


def eager_imports(importer: str, source: str) -> list[tuple[int, str]]:
    """What runs when the module is imported: nothing in a function, nothing under TYPE_CHECKING."""
    found: list[tuple[int, str]] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for orelse in node.orelse:
                visit(orelse)
            return
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.extend((node.lineno, target) for target in targets(node, importer))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return found


def unit(module: str) -> str:
    """The file or folder of the house that a module of ours lives in; empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


def ours(module: str) -> bool:
    return module == "pennyweight" or module.startswith("pennyweight.")


def allowed(importer: str, target: str) -> bool:
    own, other = unit(importer), unit(target)
    if own == other:
        return True
    if own == "":  # the public names
        return other in VALUES | {"errors", "verbs"}
    if other == "":  # asking the package for a public name pulls in all nouns
        return RANK[own] > RANK["model"]
    return RANK[other] < RANK[own] or (own in VALUES and other in VALUES)


def breaks(rule: str) -> list[str]:
    """`importer:line -> target` for every import of ours that breaks a rule."""
    found = []
    for importer, source in SOURCES.items():
        for line, target in all_imports(importer, source):
            if ours(target) and RULES[rule](importer, target):
                found.append(f"{importer}:{line} -> {target}")
    return found


def variant(module: str) -> str | None:
    """The variant that a module of a folder belongs to, e.g. transformers_runtime to transformers."""
    parts = module.split(".")
    if len(parts) < 3:
        return None
    names = sorted(VARIANTS.get(parts[1], set()), key=len, reverse=True)
    return next((name for name in names if parts[2] == name or parts[2].startswith(f"{name}_")), None)


def circles(graph: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Groups of modules that reach each other (Tarjan 1972, doi.org/10.1137/0201010)."""
    place: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        place[node] = lowest[node] = len(place)
        stack.append(node)
        for other in graph[node]:
            if other not in place:
                visit(other)
            if other in stack:
                lowest[node] = min(lowest[node], lowest[other])
        if lowest[node] == place[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in place:
            visit(node)
    return found


RULES = {
    "layers": lambda importer, target: not allowed(importer, target),
    "search and measure know no engine": lambda importer, target: (
        unit(importer) in ("search", "measure") and unit(target) == "engines"
    ),
    "plan knows no engine": lambda importer, target: unit(importer) == "plan" and unit(target) in ("engines", "serve"),
    "variants are strangers": lambda importer, target: (
        unit(importer) == unit(target)
        and None not in (variant(importer), variant(target))
        and variant(importer) != variant(target)
    ),
}


def test_every_module_has_a_place_in_the_house() -> None:
    assert {unit(module) for module in SOURCES} - {""} <= set(RANK)
    assert set(RANK) <= {unit(module) for module in SOURCES}


def test_the_checker_sees_what_it_must_see() -> None:
    source = (
        "from typing import TYPE_CHECKING\nimport torch\nfrom pennyweight import engines\nif TYPE_CHECKING:\n"
        "    import onnx\ndef f():\n    from pennyweight.search.pareto import front\n    import scipy\n"
        "from . import candidates\nfrom ..engines import openvino\n"
    )
    eager = [target for _, target in eager_imports("pennyweight.search.verify", source)]
    everything = [target for _, target in all_imports("pennyweight.search.verify", source)]
    assert {"torch", "pennyweight.engines", "pennyweight.engines.openvino"} < set(eager)
    assert "pennyweight.search.candidates" in eager
    assert not {"onnx", "scipy", "pennyweight.search.pareto"} & set(eager)
    assert {"onnx", "scipy", "pennyweight.search.pareto"} < set(everything)
    assert not allowed("pennyweight.plan.cost", "pennyweight.engines.rows")
    assert not allowed("pennyweight.model", "pennyweight.checkpoint")
    assert not allowed("pennyweight.serve.catalogue", "pennyweight.measure")
    assert allowed("pennyweight.study", "pennyweight.deployment")
    assert variant("pennyweight.engines.transformers_runtime") == "transformers"
    assert variant("pennyweight.engines.rows") is None
    assert RULES["variants are strangers"]("pennyweight.traces.azure", "pennyweight.traces.burstgpt")


def test_imports_only_go_down() -> None:
    assert breaks("layers") == []


def test_search_and_measure_import_no_engine() -> None:
    assert breaks("search and measure know no engine") == []


def test_plan_imports_no_engine() -> None:
    assert breaks("plan knows no engine") == []


def test_variants_of_a_folder_do_not_import_each_other() -> None:
    assert breaks("variants are strangers") == []


def test_nouns_and_errors_need_the_standard_library_only() -> None:
    foreign = [
        f"{importer}:{line} -> {target}"
        for importer, source in SOURCES.items()
        if unit(importer) in VALUES | {"errors", "paths"}
        for line, target in all_imports(importer, source)
        if not ours(target) and target.split(".")[0] not in sys.stdlib_module_names
    ]
    assert foreign == []


def test_no_heavy_library_is_imported_at_module_level() -> None:
    eager = [
        f"{importer}:{line} -> {target}"
        for importer, source in SOURCES.items()
        if importer not in MAY_IMPORT_HEAVY
        for line, target in eager_imports(importer, source)
        if target.split(".")[0] in HEAVY
    ]
    assert eager == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [module for module in SOURCES if BANNED_NAMES & set(module.split("."))] == []


def test_no_circle_of_files() -> None:
    """Not even a lazy one, or one for type checking: a file can be read with nothing but what lies below it."""
    graph = {
        importer: {target for _, target in all_imports(importer, source) if target in SOURCES} - {importer}
        for importer, source in SOURCES.items()
    }
    assert circles({"a": ["b"], "b": ["c"], "c": ["a", "d"], "d": []}) == [["a", "b", "c"]]
    assert circles(graph) == []


def test_a_package_is_a_facade() -> None:
    lengths = {file: len(file.read_text().splitlines()) for file in ROOT.rglob("__init__.py") if file.parent != ROOT}
    assert {str(file): length for file, length in lengths.items() if length > LONGEST_FACADE} == {}


def test_no_file_is_too_long_to_read() -> None:
    lengths = {module: len(source.splitlines()) for module, source in SOURCES.items()}
    assert {module: length for module, length in lengths.items() if length >= LONGEST_FILE} == {}


def test_the_command_line_starts_without_a_heavy_library() -> None:
    command = [sys.executable, "-X", "importtime", "-c", "import pennyweight.cli"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "pennyweight.cli" in loaded
    assert {name.split(".")[0] for name in loaded} & HEAVY == set()
