"""experiments/program.py: flags from settings, exit codes, interrupts, working directories."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import program
from metaft.errors import DataError, InputError, WorkdirError

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Settings:
    workdir: Path = program.setting(Path('runs/x'), 'where results go')
    budget_seconds: float = program.setting(120.0, 'time to spend', unit='seconds')
    seed: int = program.setting(0, 'seed')
    metric: str = program.setting('loss', 'what improves', choices=('loss', 'exact_match'))
    methods: tuple[str, ...] = program.setting(('lora',), 'methods')
    sizes: tuple[int, ...] | None = program.setting(None, 'sizes')
    compare: bool | None = program.setting(None, 'compare with the default')
    train: Path | None = program.setting(None, 'training file')

    def __post_init__(self):
        if self.budget_seconds <= 0:
            raise DataError(f'budget_seconds is {self.budget_seconds}, it must be positive')


def test_flags_become_settings_of_their_types():
    assert program.read_flags(Settings, []) == Settings()
    argv = ['--workdir=a b', '--budget_seconds=3', '--seed', '7', '--methods=lora, full', '--sizes=1,2', '--nocompare']
    found = program.read_flags(Settings, [*argv, '--train=x.jsonl', '--metric=exact_match'])
    wanted = Settings(
        workdir=Path('a b'), budget_seconds=3.0, seed=7, methods=('lora', 'full'), sizes=(1, 2), compare=False,
        train=Path('x.jsonl'), metric='exact_match',
    )  # fmt: skip
    assert found == wanted
    assert program.read_flags(Settings, ['--sizes=', '--train=']) == Settings()


@pytest.mark.parametrize(
    ('argv', 'sentence'),
    [
        (['--budget_second=3'], 'unknown flag --budget_second; did you mean budget_seconds?'),
        (['--zzz=3'], 'unknown flag --zzz; allowed are workdir, budget_seconds'),
        (['--seed=x'], 'a whole number is expected'),
        (['--budget_seconds=x'], 'a number is expected'),
        (['--metric=los'], 'did you mean loss?'),
        (['--compare=perhaps'], 'flag --compare=perhaps'),
        (['--seed'], 'flag --seed'),
        (['tune'], "found 'tune' where a flag was expected"),
        (['--budget_seconds=-1'], 'it must be positive'),
    ],
)
def test_a_mistake_is_one_sentence_on_stderr_and_code_2(argv, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        program.run(lambda settings: pytest.fail('main was called'), Settings, argv)
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert not out and err.count('\n') == 1 and err.startswith('error: ') and sentence in err


def test_a_required_flag_is_asked_for():
    @dataclasses.dataclass(frozen=True)
    class Needs:
        table: Path = program.setting(program.REQUIRED, 'the table to read')

    with pytest.raises(InputError, match='--table is required: the table to read'):
        program.read_flags(Needs, [])
    assert program.read_flags(Needs, ['--table=t.csv']) == Needs(table=Path('t.csv'))


def test_input_error_of_main_is_code_2_and_a_defect_keeps_its_traceback(capsys):
    def unlucky(settings):
        raise DataError('row 3 is broken')

    def defect(settings):
        raise RuntimeError('ours')

    with pytest.raises(SystemExit) as stop:
        program.run(unlucky, Settings, [])
    assert stop.value.code == 2 and capsys.readouterr().err == 'error: row 3 is broken\n'
    with pytest.raises(RuntimeError, match='ours'):
        program.run(defect, Settings, [])


def test_help_names_every_flag_with_unit_and_default(capsys):
    def main(settings):
        pytest.fail('main was called')

    with pytest.raises(SystemExit) as stop:
        program.run(main, Settings, ['--help'])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and __doc__.strip() in text
    assert all(f'--{field.name}\n' in text for field in dataclasses.fields(Settings))
    assert 'time to spend (in seconds; default 120.0)' in text and '(one of loss, exact_match; default loss)' in text


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupts_let_main_save_and_say_how_to_go_on(number, code, tmp_path):
    script = tmp_path / 'waits.py'
    script.write_text(
        'import dataclasses, time\n'
        'from experiments import program\n'
        '@dataclasses.dataclass\n'
        'class Settings: pass\n'
        'def main(settings):\n'
        '    try:\n'
        '        print("ready", flush=True)\n'
        '        time.sleep(60)\n'
        '    finally: print("saved", flush=True)\n'
        'program.run(main, Settings)\n'
    )
    environment = os.environ | {'PYTHONPATH': str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout.readline() == 'ready\n'
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (code, 'saved\n', 'interrupted; run the same command to go on\n')


def test_a_workdir_resumes_its_own_job_only(tmp_path):
    workdir = tmp_path / 'a' / 'b'
    prepare = lambda **changes: program.prepare_workdir(
        workdir, dataclasses.replace(Settings(), **changes), ('seed', 'methods'), fingerprints={'train': 'abc'}
    )
    prepare()
    prepare(budget_seconds=500.0)
    written = (workdir / 'settings.json').read_text()
    assert json.loads(written)['budget_seconds'] == 500.0
    with pytest.raises(WorkdirError, match='another task: its seed is 0, asked is 1'):
        prepare(seed=1)
    with pytest.raises(WorkdirError, match='its fingerprints'):
        program.prepare_workdir(workdir, Settings(), ('seed',), fingerprints={'train': 'abd'})
    assert (workdir / 'settings.json').read_text() == written
    assert [path.name for path in workdir.iterdir()] == ['settings.json']


def test_an_unusable_workdir_is_told(tmp_path):
    (tmp_path / 'file').write_text('x')
    with pytest.raises(WorkdirError, match='cannot be used'):
        program.prepare_workdir(tmp_path / 'file' / 'x', Settings(), ())
    (tmp_path / 'settings.json').write_text('{')
    with pytest.raises(WorkdirError, match='not JSON'):
        program.prepare_workdir(tmp_path, Settings(), ())


def test_written_json_is_strict(tmp_path):
    program.write_json(tmp_path / 'r.json', {'a': float('nan'), 'b': [float('inf'), 1.5], 'c': Path('x')})
    assert json.loads((tmp_path / 'r.json').read_text()) == {'a': None, 'b': [None, 1.5], 'c': 'x'}


def test_the_cache_directory_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv('METAFT_CACHE', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert program.cache_directory() == tmp_path / 'metaft'
    monkeypatch.setenv('METAFT_CACHE', str(tmp_path / 'mine'))
    assert program.cache_directory() == tmp_path / 'mine'


def test_flags_are_read_without_importing_anything_heavy():
    code = 'import sys; from experiments import program; print({"jax", "numpy", "pandas", "flax"} & set(sys.modules))'
    out = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out == 'set()\n'


def test_versions_name_what_numbers_depend_on():
    assert {'python', 'metaft', 'jax', 'numpy', 'scipy'} <= set(program.versions())


COMPILES = """
import dataclasses
from experiments import program

@dataclasses.dataclass(frozen=True)
class Settings:
    pass

def main(settings):
    import jax, jax.numpy as jnp
    events = []
    jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
    jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((64, 64))).block_until_ready()
    print([events.count(f'/jax/compilation_cache/cache_{what}') > 0 for what in ('hits', 'misses')])

program.run(main, Settings, [])
"""


def test_a_second_start_finds_the_programs_of_the_first(tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith('JAX_')}
    environment = kept | {'METAFT_CACHE': str(tmp_path), 'JAX_PLATFORMS': 'cpu'}
    start = lambda: (
        subprocess.run(
            [sys.executable, '-c', COMPILES], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        ).stdout
    )
    assert start() == '[False, True]\n' and any((tmp_path / 'jax').iterdir())
    assert start() == '[True, False]\n'
