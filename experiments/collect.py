"""Which runs does the surrogate learn from? Datasets x configurations x seeds, each to its full budget.

    launch/local.sh collect --workdir=runs/collect                 # everything, resumable; one process
    launch/local.sh collect --workdir=runs/collect --shard=0/2     # and 1/2 beside it: as many processes as cores
    launch/local.sh collect --workdir=runs/collect --executor=ray  # the cores of a Ray cluster (pip install ray)
    launch/local.sh collect --workdir=runs/collect --merge         # measurements.parquet and tasks.parquet
    launch/local.sh collect --workdir=runs/all --merge --sources=runs/collect,runs/wide,metaft/assets/metadataset
    launch/local.sh collect --check=20                             # re-run 20 recorded runs, compare the losses

A common design of configurations runs on every dataset, the rest is random by dataset, and some runs are repeated with
another seed so that noise is known. One base model (--model) a workdir; on larger bases (`pretrain --size`) a few of
the common configurations are enough to learn how they differ:

    launch/local.sh collect --workdir=runs/3.5m --model=runs/bases/3.5m/phi3_3.5m --datasets=across_bases \\
        --num_common=40 --first_common=15 --num_random=0

Cost on the shipped base: about 2.5 CPU-seconds a run; 3 and 10 times that with 0.9 M and 3.5 M parameters. Every
measurement is on disk before the next run starts; a killed collection goes on with the same command.
"""

import dataclasses
import functools
import random
import tempfile
import time
import typing
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments import program
from experiments.program import setting
from metaft.errors import InputError, WorkdirError

if typing.TYPE_CHECKING:
    from metaft.finetune.search_space import Configuration
    from metaft.metadataset.records import TaskRecord

ASSETS = Path(__file__).resolve().parent.parent / 'metaft' / 'assets'


EXECUTORS = ('local', 'ray')
CLOCKS: dict[str, Callable[[], float]] = {'wall': time.perf_counter, 'cpu': time.process_time}


@dataclasses.dataclass(frozen=True)
class Settings:
    workdir: Path = setting(Path('runs/collect'), 'where measurements go')
    model: str = setting(str(ASSETS / 'phi3_tiny'), 'directory of the base model')
    datasets: tuple[str, ...] = setting((), 'names of the catalogue, or across_bases; all of COLLECTED if empty')
    num_common: int = setting(14, 'configurations that run on every dataset, the default one first')
    first_common: int = setting(0, 'only the first so many of them; all if 0')
    num_random: int = setting(14, 'further configurations of each dataset')
    wide: bool = setting(False, 'draw from every axis of the search space, not from those of the first editions only')
    repeat_share: float = setting(0.1, 'share of runs that are repeated with another seed')
    method_shares: tuple[float, ...] = setting((0.7, 0.2, 0.1), 'shares of lora, full and prompt among configurations')
    max_examples: int = setting(4096, 'training examples of a full run, repeats included')
    seed: int = setting(0, 'of the design')
    shard: str = setting('0/1', 'I/N: this process collects every N-th dataset, beginning with I')
    clock: str = setting(
        'wall', 'of a run: wall, or the CPU seconds of a process pinned to a core', choices=tuple(CLOCKS)
    )
    executor: str = setting('local', 'where runs run: in this process, or spread over a Ray cluster', choices=EXECUTORS)
    ray_address: str = setting('', 'of a running cluster (auto: of this machine); one is started here if empty')
    gpus_per_run: float = setting(0.0, 'share of a GPU that a run on Ray needs; one CPU core if 0')
    merge: bool = setting(False, 'only merge what was collected into Parquet files')
    sources: tuple[str, ...] = setting((), 'workdirs, or directories of merged files, to merge into the workdir')
    check: int = setting(0, 'only re-run this many recorded runs of --metadataset and compare')
    metadataset: Path = setting(ASSETS / 'metadataset', 'directory of the Parquet files that --check reads')

    def __post_init__(self):
        index, _, num = self.shard.partition('/')
        if not (index.isdigit() and num.isdigit() and int(index) < int(num)):
            raise InputError(f'--shard is {self.shard!r}; write I/N with I below N, for example 0/2')
        if len(self.method_shares) != 3 or min(self.method_shares) < 0 or sum(self.method_shares) <= 0:
            raise InputError(f'--method_shares is {self.method_shares}; give three shares, of lora, full and prompt')
        for name in ('num_common', 'first_common', 'num_random', 'check'):
            if getattr(self, name) < 0:
                raise InputError(f'--{name} is {getattr(self, name)}; it must be at least 0')


def main(settings: Settings) -> None:
    """Collect, merge or check, as the flags say."""
    if settings.check:
        check(settings)
    elif settings.merge:
        merge(settings)
    else:
        identity = (
            'model',
            'num_common',
            'first_common',
            'num_random',
            'wide',
            'repeat_share',
            'method_shares',
            'max_examples',
            'seed',
            'clock',
        )
        program.prepare_workdir(settings.workdir, settings, identity)
        collect(settings)


def design(settings: Settings, dataset: str) -> list[tuple['Configuration', int]]:
    """Return the (configuration, seed) pairs of one dataset: the common ones, its own random ones, repeats."""
    from metaft.finetune.search_space import default_configuration

    common = [default_configuration()] + _draw(settings, settings.num_common - 1, settings.seed)
    common = common[: min(settings.first_common or settings.num_common, settings.num_common)]
    # A string seed: Python's own hash of strings differs from process to process.
    generator = random.Random(f'{settings.seed} {dataset}')
    own = _draw(settings, settings.num_random, generator.randrange(2**31))
    pairs = [(c, 0) for c in common + own]
    repeats = generator.sample(pairs, round(settings.repeat_share * len(pairs)))
    return pairs + [(c, 1) for c, _ in repeats]


def _draw(settings: Settings, num: int, seed: int) -> list['Configuration']:
    from metaft.finetune.search_space import METHODS, sample, search_space

    if num < 1:
        return []
    share = np.array(settings.method_shares) / sum(settings.method_shares)
    counts = np.diff(np.round(np.cumsum([0.0, *share]) * num).astype(int))
    drawn = [
        c
        for m, n in zip(METHODS, counts, strict=True)
        if n
        for c in sample(search_space([m], wide=settings.wide), int(n), seed)
    ]
    random.Random(seed).shuffle(drawn)
    return drawn


def collect(settings: Settings) -> None:
    """Run this shard's part of the design, leaving out what is on disk already."""
    from metaft.metadataset import store
    from metaft.phi3 import load_pretrained
    from metaft.tasks import catalogue
    from metaft.tasks.tokenizer import load_tokenizer

    index, num = map(int, settings.shard.split('/'))
    names = list(settings.datasets or catalogue.COLLECTED)
    names = list(catalogue.ACROSS_BASES) if names == ['across_bases'] else names
    unknown = [n for n in names if n not in catalogue.COLLECTED]
    if unknown:
        raise InputError(f'--datasets names {unknown[0]!r}; allowed: {", ".join(catalogue.COLLECTED)}')
    mine = names[index::num]
    path = settings.workdir / f'measurements-{index}-of-{num}.jsonl'
    done = {m.run_id for p in settings.workdir.glob('measurements-*.jsonl') for m in store.read(p).measurements
            if m.status != 'running'}  # fmt: skip
    plan = [(name, c, s) for name in mine for c, s in design(settings, name)]
    base = Path(settings.model).name
    todo = [(n, c, s) for n, c, s in plan if run_id(f'{n}@{base}', c, s) not in done]
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task(f'shard {settings.shard}', total=len(plan), completed=len(plan) - len(todo))
        if settings.executor == 'ray':
            collect_on_ray(settings, todo, path, lambda: progress.advance(bar))
            return
        model, tokenizer = load_pretrained(settings.model), load_tokenizer(settings.model)
        for name in mine:
            jobs = [(c, s) for n, c, s in todo if n == name]
            if jobs:
                executor = make_executor(settings, name, model, tokenizer)
                for configuration, seed in sorted(jobs, key=lambda job: job[0].method):
                    run(executor, configuration, seed, path)
                    progress.advance(bar)


def collect_on_ray(settings: Settings, todo: list, path: Path, on_run: Callable[[], None]) -> None:
    """Run a plan on a cluster; this process alone writes, a run at a time and whole."""
    from experiments import collect  # by name, so that a worker keeps what it has prepared also if this is __main__
    from metaft.executors.ray import map_runs
    from metaft.metadataset import store

    named = collect.Settings(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)})
    work = functools.partial(collect.run_remotely, named)
    ended = map_runs(work, todo, address=settings.ray_address or None, gpus_per_run=settings.gpus_per_run)
    for (name, _, _), (measurements, task) in ended:
        record = settings.workdir / f'task-{name}.json'
        if not record.exists():
            store.write_task(record, task)
        for measurement in measurements:
            store.append(path, measurement)
        on_run()


def run_remotely(settings: Settings, job: tuple[str, 'Configuration', int]) -> tuple[list, 'TaskRecord']:
    """Train one run in a worker of a cluster; return its measurements and what is known of its task."""
    name, configuration, seed = job
    executor, task = _prepare_remotely(settings, name)
    return run(executor, configuration, seed, None), task


@functools.lru_cache(maxsize=1)  # a plan goes through its datasets one after another
def _prepare_remotely(settings: Settings, name: str) -> tuple:
    from metaft.metadataset import store
    from metaft.phi3 import load_pretrained
    from metaft.tasks.tokenizer import load_tokenizer

    with tempfile.TemporaryDirectory() as directory:  # a worker's disk is not that of the workdir
        here = dataclasses.replace(settings, workdir=Path(directory))
        program.use_compilation_cache()
        executor = make_executor(here, name, load_pretrained(here.model), load_tokenizer(here.model))
        return executor, store.read_task(here.workdir / f'task-{name}.json')


def make_executor(settings: Settings, name: str, model, tokenizer):
    """Prepare a dataset, record its meta-features once, and return the executor of its runs."""
    from metaft.executors.local import LocalExecutor
    from metaft.executors.task_record import task_record
    from metaft.finetune.task import prepare
    from metaft.metadataset import store
    from metaft.tasks import catalogue

    dataset = catalogue.make(name)
    task = prepare(dataset, model, tokenizer, base_model=Path(settings.model).name, max_examples=settings.max_examples)
    clock = CLOCKS[settings.clock]
    executor = LocalExecutor(task, measure_test=True, versions=program.versions(), clock=clock)
    path = settings.workdir / f'task-{name}.json'
    if not path.exists():
        record = task_record(dataset, task, executor.zero_shot()[0], settings.model)
        store.write_task(path, record)
    return executor


def run_id(task: str, configuration, seed: int) -> str:
    """Return a name that is the same for the same run in every process."""
    import hashlib

    text = repr((task, sorted(configuration.identity().items(), key=str), seed))
    return f'{task}-{hashlib.sha256(text.encode()).hexdigest()[:12]}-{seed}'


def run(executor, configuration, seed: int, path: Path | None) -> list:
    """Train one run to its full budget, measured at every grid point; measurements are appended as they come."""
    from metaft.executors.local import Job
    from metaft.metadataset import store

    last = len(executor.grid(configuration).steps_T) - 1
    job = Job(run_id(executor.task.name, configuration, seed), configuration, seed, last, tuple(range(last + 1)))
    on_measurement = None if path is None else lambda measurement, adapter: store.append(path, measurement)
    found = executor.advance([job], on_measurement=on_measurement)
    executor.forget(job.run_id)
    return found


def merge(settings: Settings) -> None:
    """Write measurements.parquet and tasks.parquet, of the workdir's JSON lines or of --sources."""
    from metaft.metadataset import store
    from metaft.metadataset.records import TaskRecord

    logs: list[Path] = []
    tasks: list[TaskRecord] = []
    for place in [Path(source) for source in settings.sources] or [settings.workdir]:
        raw, table = sorted(place.glob('measurements-*.jsonl')), place / 'measurements.parquet'
        if raw:
            tasks += [store.read_task(path) for path in sorted(place.glob('task-*.json'))]
        elif settings.sources and table.exists():
            tasks += store.read_records(place / 'tasks.parquet', TaskRecord)
        else:
            raise WorkdirError(f'{place} holds no measurements-*.jsonl; collect first')
        logs += raw or [table]
    settings.workdir.mkdir(parents=True, exist_ok=True)
    torn = store.merge_to_parquet(logs, settings.workdir / 'measurements.parquet')
    store.write_parquet(store.merge_tasks(tasks), settings.workdir / 'tasks.parquet')
    frame = store.read_parquet(settings.workdir / 'measurements.parquet')
    complete = frame[frame['status'] != 'running']
    print(f'{len(frame)} measurements of {frame["run_id"].nunique()} runs ({len(complete)} complete) on '
          f'{frame["task"].nunique()} tasks; {torn} torn lines dropped')  # fmt: skip


def check(settings: Settings) -> None:
    """Re-run recorded runs drawn at random and compare their final validation losses."""
    import pandas as pd

    from metaft.finetune.search_space import Configuration
    from metaft.metadataset import store
    from metaft.phi3 import load_pretrained
    from metaft.tasks.tokenizer import load_tokenizer

    frame = store.read_parquet(settings.metadataset / 'measurements.parquet')
    base = Path(settings.model).name
    ends = frame[(frame['status'] == 'finished') & (frame['base_model'] == base)]
    if len(ends) < settings.check:
        raise InputError(f'{settings.metadataset} has {len(ends)} finished runs of {base}; --check={settings.check}')
    ends = ends.sample(settings.check, random_state=settings.seed)
    model, tokenizer = load_pretrained(settings.model), load_tokenizer(settings.model)
    program.prepare_workdir(settings.workdir, settings, ())
    worst = 0.0
    for row in ends.to_dict('records'):
        prefix = 'configuration.'
        present = {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix) and not pd.isna(v)}
        executor = make_executor(settings, row['dataset'], model, tokenizer)
        start = time.perf_counter()
        (*_, last) = run(executor, Configuration.from_dict(present), int(row['seed']), None)
        difference = abs(last.validation_loss - row['validation_loss'])
        worst = max(worst, difference)
        print(f'{row["run_id"]}: recorded {row["validation_loss"]:.6f}, now {last.validation_loss:.6f} nats '
              f'({time.perf_counter() - start:.1f} s)')  # fmt: skip
    print(f'largest difference over {len(ends)} runs: {worst:.2e} nats a token')


if __name__ == '__main__':
    program.run(main, Settings)
