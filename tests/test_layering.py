"""Arrows between the packages run one way, as docs/architecture.md lists them; importing does nothing."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = sorted((ROOT / 'metaft').rglob('*.py'))
SOURCES = LIBRARY + sorted((ROOT / 'experiments').rglob('*.py'))
FORBIDDEN_NAMES = re.compile(r'^(utils?|commons?|helpers?|misc)$|_(utils?|common|helpers?|v\d+)$')
OTHERS = ROOT / 'metaft' / 'search' / 'adapters'  # need the libraries that they serve


def relative(path):
    return path.relative_to(ROOT).as_posix()


def allowed_imports():
    """Reads the table: {package: packages that it may import}."""
    text = (ROOT / 'docs' / 'architecture.md').read_text()
    table = text.split('## Imports allowed', 1)[1].split('\n## ', 1)[0]
    rows = re.findall(r'^    (\w+) +(.+)$', table, flags=re.MULTILINE)
    packages = {name for name, _ in rows}
    return {name: packages & set(re.findall(r'\w+', re.sub(r'\(.*', '', listed))) for name, listed in rows}


def imports(path):
    """Yields every module that a file imports, wherever in the file, as dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{relative(path)}: imports are absolute here'
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def statements_at_import(tree):
    """Yields the nodes that run when a module is imported: everything outside of function bodies."""
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            pending += ast.iter_child_nodes(node)


def test_the_table_is_read():
    table = allowed_imports()
    assert table['search'] == {'surrogate', 'metadataset'} and table['adapters'] == {'phi3'} and not table['errors']


@pytest.mark.parametrize('path', LIBRARY, ids=relative)
def test_packages_import_only_what_the_architecture_allows(path):
    package = path.relative_to(ROOT / 'metaft').parts[0].removesuffix('.py')
    if package == '__init__':
        assert not list(imports(path))
        return
    assert package in allowed_imports(), f'metaft/{package} has no row in docs/architecture.md'
    allowed = allowed_imports()[package] | {package, 'errors', '__version__'}
    found = {name.split('.')[1] for name in imports(path) if name.startswith('metaft.')}
    assert found <= allowed, f'{relative(path)} imports metaft.{found - allowed}'
    outside = {name.split('.')[0] for name in imports(path)} & {
        'experiments',
        'launch',
        'tests',
        'absl',
        'torch',
        'peft',
    }
    assert not outside, f'{relative(path)} imports {outside}'


@pytest.mark.parametrize('path', LIBRARY, ids=relative)
def test_the_library_sets_nothing_up_at_import(path):
    for node in statements_at_import(ast.parse(path.read_text())):
        found = ast.unparse(node) if isinstance(node, ast.Attribute) else ''
        assert found not in ('jax.config', 'os.environ', 'os.getenv'), f'{relative(path)}:{node.lineno} touches {found}'


def test_importing_the_whole_library_asks_for_no_device():
    paths = [path for path in LIBRARY if path.parent != OTHERS]
    modules = [relative(path).removesuffix('.py').replace('/', '.').removesuffix('.__init__') for path in paths]
    code = f'import {", ".join(modules)}\nfrom jax._src import xla_bridge\nprint(xla_bridge.backends_are_initialized())'
    quiet = os.environ | {'TRANSFORMERS_NO_ADVISORY_WARNINGS': '1'}  # it says where torch is missing
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, env=quiet)
    assert (done.stdout, done.stderr) == ('False\n', '')


@pytest.mark.parametrize('path', SOURCES, ids=relative)
def test_a_file_begins_by_saying_what_lives_in_it(path):
    assert ast.get_docstring(ast.parse(path.read_text())), f'{relative(path)} has no module docstring'


def test_only_experiments_declare_flags():
    users = {relative(path) for path in SOURCES if any(name.startswith('absl') for name in imports(path))}
    assert users == {'experiments/program.py'}


def test_no_drawer_for_odds_and_ends():
    names = {part.removesuffix('.py') for path in SOURCES for part in path.relative_to(ROOT).parts}
    assert not [name for name in names if FORBIDDEN_NAMES.search(name)]
