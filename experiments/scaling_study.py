"""How does finetuning scale here: with examples, model size, pretraining and adapter size, by method and task?

    launch/local.sh scaling_study --plan                                       # what it would run, and its cost
    launch/local.sh scaling_study --workdir=runs/study                         # resumable; one process
    launch/local.sh scaling_study --workdir=runs/study --shard=0/2             # and 1/2 beside it
    launch/local.sh scaling_fit --table=runs/study/study.csv --group_column=group --workdir=runs/study_laws \\
        --factor_columns=model_size,pretraining_tokens,adapter_size --unshared_factors=adapter_size --heldout_largest=1

The design of arXiv 2402.17193 at a scale that two cores reach, with the same data sizes for all methods: a translation
and a summary (metaft.tasks.transduction); full tuning, LoRA, prompt; one factor varied at a time. Stages, each on disk
before the next: base models of every size with checkpoints on the way, shipped (--bases) or by `pretrain`; a learning
rate for every task and method at the middle size, and at every size with --rates=each_size; the runs; `study.csv` with
the test loss of the checkpoint that validates best, `study.md` with means. Measured too: losses on what the base could
do before (`other_tasks`), without and with demonstrations.
"""

import dataclasses
import functools
import json
import math
import shutil
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments import pretrain, program
from experiments.program import setting
from metaft import journal
from metaft.errors import InputError, WorkdirError

if typing.TYPE_CHECKING:
    from metaft.tasks.dataset import Example
    from metaft.tuning.study import Axes, Run
    from metaft.tuning.subset import Splits

METHODS = ('full', 'lora', 'prompt')
RATES = ('one_size', 'each_size')
TASKS = ('translation', 'summary')
_TABLE = 'study.csv'
_RECORD = 'pretraining.json'  # of a base model, written last: one that has it is whole
SHIPPED = Path(__file__).resolve().parent.parent / 'metaft' / 'assets' / 'scaling' / 'bases'


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options of `scaling_study`."""

    workdir: Path = setting(Path('runs/scaling_study'), 'where base models, runs and the table go')
    bases: Path | None = setting(
        SHIPPED, 'base models, base-WIDTH/model-TOKENS, taken over where they are as asked; empty: none'
    )
    runs: Path | None = setting(
        None, 'records of runs from the same bases, not to be done again; metaft/assets/scaling/runs.jsonl has ours'
    )
    tasks: tuple[str, ...] = setting(TASKS, 'of translation, summary')
    methods: tuple[str, ...] = setting(METHODS, 'of full, lora, prompt')
    widths: tuple[int, ...] = setting((32, 48, 64, 128), 'hidden sizes of the base models, multiples of 16')
    width: int = setting(64, 'hidden size at which checkpoints and adapters are varied and learning rates are tuned')
    checkpoints: int = setting(4, 'base models along a pretraining, at token counts even in their logarithm')
    ranks: tuple[int, ...] = setting((1, 2, 4, 8, 16), 'ranks of LoRA')
    prompt_lengths: tuple[int, ...] = setting((2, 4, 8, 16, 32), 'lengths of the soft prompt')
    adapter_size: int = setting(8, 'rank and length while something else is varied')
    data_sizes: tuple[int, ...] = setting((64, 128, 256, 512, 1024, 2048, 4096), 'finetuning examples')
    seeds: int = setting(3, 'runs of each point, with other examples, initialisation and order')
    epochs: int = setting(8, 'passes over the examples, within the two bounds below; more change nothing here')
    min_examples: int = setting(2048, 'examples that a run sees at least, repeats included')
    max_examples: int = setting(16384, 'examples that a run sees at most; a soft prompt, slow to learn, always does')
    rates: str = setting('one_size', 'where learning rates are tuned', choices=RATES)
    pretraining_blocks: int = setting(26, 'blocks of the pretraining, see pretrain')
    pretraining_block_steps: int = setting(1024, 'updates a block')
    transduction_share: float = setting(0.3, 'share of the pretraining documents in the source language')
    flops_per_second: float = setting(4.0e10, 'of one core, for the estimate; measured in docs/scaling.md')
    plan: bool = setting(False, 'only print what would be run, and its cost')
    shard: str = setting('0/1', 'I/N: this process does every N-th base, and every N-th cell of the design')

    def __post_init__(self):
        index, _, num = self.shard.partition('/')
        if not (index.isdigit() and num.isdigit() and int(index) < int(num)):
            raise InputError(f'--shard is {self.shard!r}; write I/N with I below N, for example 0/2')
        for name, allowed in (('tasks', TASKS), ('methods', METHODS)):
            unknown = [value for value in getattr(self, name) if value not in allowed]
            if unknown or not getattr(self, name):
                raise InputError(f'--{name} is {",".join(getattr(self, name))!r}; allowed are {", ".join(allowed)}')
        if self.width not in self.widths or any(width % 16 or width < 16 for width in self.widths):
            raise InputError(f'--widths is {self.widths}; give multiples of 16, --width={self.width} among them')
        if min(self.data_sizes) < 1 or list(self.data_sizes) != sorted(set(self.data_sizes)):
            raise InputError(f'--data_sizes is {self.data_sizes}; give numbers of examples, each once, increasing')
        if not 1 <= self.checkpoints <= self.pretraining_blocks or self.seeds < 1:
            raise InputError('--checkpoints must lie in 1 to --pretraining_blocks, and --seeds be at least 1')
        if not 16 <= self.min_examples <= self.max_examples:
            raise InputError('--min_examples must be at least a batch, 16, and at most --max_examples')

    def base(self, width: int) -> pretrain.Settings:
        """Returns the pretraining of one base model."""
        return pretrain.Settings(
            workdir=self.workdir / f'base-{width}',
            hidden_size=width,
            num_heads=width // 16,
            intermediate_size=8 * round(2.75 * width / 8),
            num_blocks=self.pretraining_blocks,
            block_steps=self.pretraining_block_steps,
            transduction_share=self.transduction_share,
            checkpoints=self.checkpoints,
        )

    def begun_from(self, width: int) -> list[Path]:
        """Returns the base models of one size that runs begin at, relative to the workdir."""
        base = self.base(width)
        blocks = base.checkpoint_blocks()[0 if width == self.width else -1 :]
        return [Path(base.workdir.name, f'{base.name}-{base.tokens_after(block)}') for block in blocks]

    def axes(self) -> 'Axes':
        """Returns the values of every factor."""
        from metaft.tuning.study import Axes

        base = self.base(self.width)
        return Axes(
            tasks=self.tasks,
            methods=self.methods,
            widths=self.widths,
            tokens=[base.tokens_after(block) for block in base.checkpoint_blocks()],
            adapter_sizes={'lora': self.ranks, 'prompt': self.prompt_lengths},
            data_sizes=self.data_sizes,
            seeds=self.seeds,
            width=self.width,
            adapter_size=self.adapter_size,
        )

    def budget(self, run: 'Run') -> int:
        """Returns how many examples a run sees."""
        from metaft.tuning.study import budget_examples

        least = self.max_examples if run.method == 'prompt' else self.min_examples
        return budget_examples(run.data_size, self.epochs, least, self.max_examples)


def main(settings: Settings) -> None:
    """Prints the plan, then does what is not done yet, stage by stage."""
    print_plan(settings)
    if settings.plan:
        return
    identity = [f.name for f in dataclasses.fields(Settings) if f.name not in
                ('workdir', 'bases', 'runs', 'plan', 'shard', 'flops_per_second', 'rates')]  # fmt: skip
    program.prepare_workdir(settings.workdir, settings, identity)
    if settings.bases is not None:
        take_over(settings, settings.bases)
    if settings.runs is not None:
        take_over_runs(settings, settings.runs)
    index, num = map(int, settings.shard.split('/'))
    for width in settings.widths[index::num]:
        if not all(is_done(settings, base) for base in settings.begun_from(width)):
            pretrain.main(settings.base(width))
    unfinished = [w for w in settings.widths if not all(is_done(settings, base) for base in settings.begun_from(w))]
    if unfinished:
        raise WorkdirError(f'base-{unfinished[0]} is of another shard and not there yet; run this again when it is')

    jobs = list(tuning_jobs(settings))
    carry_out(settings, jobs, 'rates')
    done = read(settings.workdir)
    missing = sum(key(*job) not in done for job in jobs)
    if missing:
        raise WorkdirError(f'{missing} runs that tune learning rates are of other shards; run this again after them')
    carry_out(settings, list(design_jobs(settings, done)), 'runs')
    write_table(settings)


# ---------------------------------------------------------------- base models


def is_done(settings: Settings, base: Path) -> bool:
    """Says whether a base model is in the workdir."""
    return (settings.workdir / base / _RECORD).exists()


def take_over(settings: Settings, directory: Path) -> None:
    """Copies base models from another directory, where all of them are there and pretrained as these settings ask.

    All or none: two pretrainings with one seed are not the same to the bit, and those of one study should be alike.

    Raises:
      WorkdirError: a directory was given that is not there.
    """
    bases = [(width, base) for width in settings.widths for base in settings.begun_from(width)]
    if all(is_done(settings, base) for _, base in bases):
        return
    if directory != SHIPPED and not directory.is_dir():
        raise WorkdirError(
            f'--bases is {directory}, which is no directory; give one with base-WIDTH/model-TOKENS, or leave it empty'
        )
    for width, base in bases:
        record = directory / base / _RECORD
        made = json.loads(record.read_text())['settings'] if record.exists() else None
        wanted = dataclasses.asdict(settings.base(width)) | {'workdir': None}
        if made is None or made | {'workdir': None} != wanted:
            print(f'{directory} has no {base} as asked: base models are pretrained here', flush=True)
            return
    for _, base in bases:
        no_record = shutil.ignore_patterns(_RECORD)
        shutil.copytree(directory / base, settings.workdir / base, ignore=no_record, dirs_exist_ok=True)
        program.write_text(settings.workdir / base / _RECORD, (directory / base / _RECORD).read_text())
    print(f'{len(bases)} base models taken over from {directory}', flush=True)


def take_over_runs(settings: Settings, path: Path) -> None:
    """Copies those records that these settings would make: of as many examples seen.

    Raises:
      WorkdirError: they are not there, or no records.
    """
    from metaft.tuning.study import Run

    if not path.exists():
        raise WorkdirError(f'--runs is {path}, which does not exist; give a file of runs that scaling_study wrote')
    try:
        records = program.read_records(path)
        runs = [Run(**{field.name: record[field.name] for field in dataclasses.fields(Run)}) for record in records]
        alike = [r for r, run in zip(records, runs, strict=True) if r['examples'] == settings.budget(run)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkdirError(f'--runs is {path}, which holds no records of scaling_study: {error!r}') from None
    if not records:
        raise WorkdirError(f'--runs is {path}, which holds no records of scaling_study')
    lines = ''.join(f'{json.dumps(record)}\n' for record in alike)
    program.write_text(settings.workdir / 'runs-taken-over.jsonl', lines)
    print(f'{len(alike)} of {len(records)} runs taken over from {path}', flush=True)


# ---------------------------------------------------------------- what is to be run


def tuning_jobs(settings: Settings) -> Iterator[tuple['Run', float]]:
    """Yields (run, learning rate) of the tuning."""
    from metaft.tuning import study

    widths = settings.widths if settings.rates == 'each_size' else (settings.width,)
    for run in study.tuning(settings.axes(), widths):
        for rate in study.LEARNING_RATES[run.method]:
            yield run, rate


def best_rates(settings: Settings, records: dict[str, dict[str, Any]]) -> dict[tuple[str, str, int], float]:
    """Returns (task, method, width) -> the learning rate with the best validation loss."""
    found: dict[tuple[str, str, int], tuple[float, float]] = {}
    for run, rate in tuning_jobs(settings):
        loss = records[key(run, rate)]['validation_loss']
        place = (run.task, run.method, run.width)
        if loss is not None and (place not in found or loss < found[place][0]):
            found[place] = (loss, rate)
    return {place: rate for place, (_, rate) in found.items()}


def design_jobs(settings: Settings, records: dict[str, dict[str, Any]]) -> Iterator[tuple['Run', float]]:
    """Yields (run, learning rate) of the study, each once."""
    yield from dict.fromkeys((run, rate) for _, run, rate in grouped_jobs(settings, records))


def grouped_jobs(settings: Settings, records: dict[str, dict[str, Any]]) -> Iterator[tuple[str, 'Run', float]]:
    """Yields (group, run, learning rate): a group a task and method, and one more with rates of each size's own."""
    from metaft.tuning import study

    rates = best_rates(settings, records)
    last = settings.axes().tokens[-1]
    for run in study.design(settings.axes()):
        group, usual = f'{run.task}/{run.method}', 1 if run.method == 'full' else settings.adapter_size
        if (run.task, run.method, settings.width) in rates:
            yield group, run, rates[run.task, run.method, settings.width]
        own = rates.get((run.task, run.method, run.width))
        if settings.rates == 'each_size' and own and run.tokens == last and run.adapter_size == usual:
            yield f'{group}/each_size', run, own


def key(run: 'Run', learning_rate: float) -> str:
    """Returns the name of a run, the same in every process."""
    return '-'.join(map(str, (*dataclasses.astuple(run), f'{learning_rate:g}')))


def read(workdir: Path) -> dict[str, dict[str, Any]]:
    """Returns name -> record of every run that any shard has done."""
    paths = sorted(workdir.glob('runs-*.jsonl'))
    return {record['key']: record for path in paths for record in program.read_records(path)}


# ---------------------------------------------------------------- running


def carry_out(settings: Settings, jobs: list[tuple['Run', float]], what: str) -> None:
    """Does this shard's part of the jobs that no shard has done, cell by cell."""
    index, num = map(int, settings.shard.split('/'))
    done = read(settings.workdir)
    cells = list(dict.fromkeys(run.cell for run, _ in jobs))
    for number, cell in enumerate(cells[index::num], start=1):
        mine = [(run, rate) for run, rate in jobs if run.cell == cell and key(run, rate) not in done]
        if mine:
            print(f'{what}: cell {number} of {len(cells[index::num])}, {cell}: {len(mine)} runs', flush=True)
            run_cell(settings, mine)


def run_cell(settings: Settings, jobs: list[tuple['Run', float]]) -> None:
    """Does runs of one task, method and base; each is on disk before the next."""
    import jax
    from flax import nnx

    from metaft.phi3 import load_pretrained
    from metaft.tasks.tokenizer import load_tokenizer
    from metaft.tuning import study
    from metaft.tuning.subset import Trainer

    first = jobs[0][0]
    directory = settings.base(first.width).workdir / f'model-{first.tokens}'
    model, tokenizer = load_pretrained(directory), load_tokenizer(directory)
    data = functools.cache(lambda seed: make_splits(first.task, seed, max(settings.data_sizes), tokenizer))
    trainer = Trainer(model, first.method, data(jobs[0][0].seed))
    size = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    index, num = settings.shard.split('/')
    for run, rate in jobs:
        splits, configuration = data(run.seed), study.configuration(run, rate)
        trained = trainer.run(splits, configuration, run.data_size, run.seed, settings.budget(run))
        record = {'key': key(run, rate), **dataclasses.asdict(run), 'learning_rate': rate, 'model_size': size}
        measured = dataclasses.asdict(trained)
        measured |= {f'{name}_loss': loss for name, loss in measured.pop('other_losses').items()}
        if run.method != 'prompt':  # untrained, these two are the base itself
            before, others = trainer.untrained(splits, configuration)
            measured |= {'untrained_loss': before.loss}
            measured |= {f'untrained_{name}_loss': loss for name, loss in others.items()}
        record |= {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in measured.items()}
        journal.append(settings.workdir / f'runs-{index}-of-{num}.jsonl', record)


def make_splits(task: str, seed: int, num_examples: int, tokenizer: Any) -> 'Splits':
    """Returns the task's rows with one padding, and those of the other tasks with another."""
    from metaft.finetune.data import bucketed
    from metaft.tasks import transduction
    from metaft.tasks.prompts import encode
    from metaft.tuning.subset import Splits

    dataset = transduction.make_dataset(transduction.TransductionSettings(task, num_examples), seed)
    padded = lambda *parts: bucketed(*(encode(part, tokenizer, max_length=256, source=task) for part in parts))
    others = other_tasks()
    other = dict(zip(others, padded(*others.values()), strict=True))
    train, validation, test = padded(dataset.train, dataset.validation, dataset.test)
    return Splits(train, validation, test, other)


def other_tasks() -> dict[str, Sequence['Example']]:
    """Returns name -> 64 examples of what no run trains on: facts that the base knows, asked as in its pretraining;
    facts told in a context; known facts to be answered in brackets, which the base never saw, without and with four
    demonstrations in the context.
    """
    from metaft.tasks.synthetic import SyntheticSettings, make_dataset

    asked = ('job', 'town')
    known = make_dataset(SyntheticSettings('known', 8, asked, num_test=64), 0)
    reading = make_dataset(SyntheticSettings('reading', 8, asked, num_distractors=1, num_test=64), 0)
    brackets = make_dataset(SyntheticSettings('known', 8, asked, answer_format='bracket', num_test=64), 0)
    shown = '\n'.join(f'{example.question} {example.answer}' for example in brackets.train[:4])
    few_shot = [dataclasses.replace(example, context=shown) for example in brackets.test]
    return {'known': known.test, 'reading': reading.test, 'brackets': brackets.test, 'few_shot': few_shot}


# ---------------------------------------------------------------- plan and table


def print_plan(settings: Settings) -> None:
    """Prints how many runs there are, and what they cost."""
    from metaft.tuning import study

    jobs = [run for run, _ in tuning_jobs(settings)]
    runs = study.design(settings.axes())
    if settings.rates == 'each_size':  # at most: where the best rate is another one, the runs over sizes again
        runs = runs + [r for r in runs if r.tokens == settings.axes().tokens[-1] and r.width != settings.width]
    config = {w: pretrain.model_config(settings.base(w), settings.base(w).vocabulary_size) for w in settings.widths}
    flops_of = lambda run: study.run_flops(config[run.width], run, settings.budget(run))
    tokens = settings.axes().tokens[-1]
    hours = {
        f'{len(settings.widths)} pretrainings, where base models are not taken over': sum(
            study.pretraining_flops(c, tokens) for c in config.values()
        ),
        f'{len(jobs)} runs to tune learning rates': sum(map(flops_of, jobs)),
        f'{len(runs)} runs': sum(map(flops_of, runs)),
    }
    total = 0.0
    for what, flops in hours.items():
        total += flops / settings.flops_per_second / 3600
        print(f'{what}: {flops:.2g} FLOPs, {flops / settings.flops_per_second / 3600:.2f} CPU hours')
    print(f'in all {total:.1f} CPU hours at {settings.flops_per_second:.2g} FLOPs a second', flush=True)


def write_table(settings: Settings) -> None:
    """Writes study.csv and study.md where every run is done; says what is missing where not."""
    from metaft.report import study_text
    from metaft.tuning import study

    records = read(settings.workdir)
    jobs = list(grouped_jobs(settings, records))
    missing = [1 for _, run, rate in jobs if key(run, rate) not in records]
    if missing:
        print(f'{len(missing)} runs are left to other shards; the same command then writes {_TABLE}')
        return
    rows = [{'group': group, **records[key(run, rate)]} for group, run, rate in jobs]
    table, left_out = study_text.table(rows)
    program.write_text(settings.workdir / _TABLE, table.to_csv(index=False))
    rates = {'/'.join(map(str, place)): rate for place, rate in best_rates(settings, records).items()}
    text = study_text.markdown(table, rates, left_out, study.at_the_edge(rates))
    program.write_text(settings.workdir / 'study.md', text)
    print(text)
    print(f'written: {settings.workdir / _TABLE}, study.md')


if __name__ == '__main__':
    program.run(main, Settings)
