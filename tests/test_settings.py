"""Settings of the programs: every field is read, a name means one thing, and `--help` answers at once."""

import ast
import collections
import functools
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted(path for path in (ROOT / 'experiments').glob('*.py') if path.stem not in ('__init__', 'program'))
SOURCES = EXPERIMENTS + sorted((ROOT / 'metaft').rglob('*.py'))
HELP_SECONDS = 20.0  # 1-4 alone; the limit allows for a loaded machine


def settings_classes(path):
    """Yields (class, its annotated fields) of the classes of settings that a file defines."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef) and node.name.endswith('Settings'):
            yield node, [part for part in node.body if isinstance(part, ast.AnnAssign)]


@functools.cache
def names_read(path):
    """Returns the attribute names that a file reads, outside of validation."""
    tree = ast.parse(path.read_text())
    checks = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == '__post_init__']
    skipped = {part for check in checks for part in ast.walk(check)}
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node not in skipped
    }


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_field_is_read_and_written_once(path):
    read = set().union(*map(names_read, SOURCES))
    for node, fields in settings_classes(path):
        names = [field.target.id for field in fields]
        assert len(names) == len(set(names)), f'{node.name} has a field twice'
        assert set(names) <= read, f'{path.stem}.{node.name}: nothing reads {set(names) - read}'


def test_a_name_has_one_type_everywhere():
    types = collections.defaultdict(set)
    for path in EXPERIMENTS:
        for _, fields in settings_classes(path):
            for field in fields:
                types[field.target.id].add(ast.unparse(field.annotation).removesuffix(' | None'))
    types.pop('table')  # the file that scaling_fit fits, the kind of curves that compare replays: both asked for so
    assert not {name: found for name, found in types.items() if len(found) > 1}


@pytest.mark.parametrize('path', EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_says_its_command_and_answers_help(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert f'launch/local.sh {path.stem}' in docstring, 'the docstring gives the command'
    assert docstring.splitlines()[0].endswith(('.', '?')), 'the first line is one sentence: it is listed'
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, '-m', f'experiments.{path.stem}', '--help'], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, '') and docstring.splitlines()[0] in done.stdout
    assert time.perf_counter() - start < HELP_SECONDS
