"""I have a dataset, a model and a budget: which finetuning configuration, at what cost, with what result? The main job.

    launch/local.sh tune                                          # the embedded demonstration
    launch/local.sh tune --train=qa_train.jsonl --validation=qa_val.jsonl --test=qa_test.jsonl --budget_seconds=300 \\
        --workdir=runs/mine
    launch/local.sh tune --budget_money=5 --price_per_hour=2.4          # or --budget_flops=1e15, or --budget_tokens=1e7

Ranks configurations by what a surrogate learned on other tasks, spends the budget on freeze-thaw search over real
runs, tests the best measured checkpoint, and leaves settings, measurements, ranking, results, the adapter (with
--export=merged a whole model), a picture and a report in --workdir. Interrupted, the same command goes on. Cost: the
budget, and about a minute around it.
"""

import dataclasses
import hashlib
import json
import math
import shlex
import time
import typing
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from experiments import program, scaling_advise
from experiments.program import setting
from metaft.errors import BudgetError, ConfigurationError, InputError, WorkdirError

if typing.TYPE_CHECKING:  # flags are read before anything heavy is imported
    import pandas as pd

    from metaft.executors.local import LocalExecutor
    from metaft.finetune.search_space import Configuration
    from metaft.report.terminal import Terminal
    from metaft.search.observations import Searcher
    from metaft.tasks.dataset import Dataset
    from metaft.tasks.tokenizer import Tokenizer
    from metaft.tuning.problem import Problem

ASSETS = Path(__file__).resolve().parent.parent / 'metaft' / 'assets'
DEMONSTRATION_METHODS = ('lora',)
IDENTITY = ('train', 'validation', 'test', 'model', 'surrogate', 'max_examples', 'metric', 'methods', 'restrict',
            'num_configurations', 'search', 'dtype', 'quantize', 'seed')  # fmt: skip
DEFAULT_SECONDS = 120.0
BUDGETS = ('budget_seconds', 'budget_flops', 'budget_tokens', 'budget_money')
STOPPED = {
    'patience': 'what can still be gained is not worth its cost (--patience)',
    'exhausted': 'every run is at its end, or none is expected to improve on the best',
}


@dataclasses.dataclass(frozen=True)
class Settings:
    train: Path | None = setting(
        None,
        'JSON lines with question and answer, a saved `datasets` directory, or a hub id; the demonstration if empty',
    )
    validation: Path | None = setting(None, "like --train; if empty, --train's own split or a tenth of it")
    test: Path | None = setting(None, "like --train; if empty, --train's own split or a tenth of it")
    model: str = setting(str(ASSETS / 'phi3_tiny'), 'directory or Hugging Face id of a Phi-3')
    export: str = setting(
        'adapter',
        "what is written at the end: PEFT's format, or a whole model in the base's dtype",
        choices=('adapter', 'merged'),
    )
    surrogate: Path = setting(
        ASSETS / 'surrogate', 'directory of the surrogate (experiments.train_surrogate makes one)'
    )
    workdir: Path = setting(Path('runs/tune'), 'where results go; an interrupted job goes on there')
    budget_seconds: float | None = setting(
        None,
        f'wall time of the search, compilation and evaluation included; {DEFAULT_SECONDS:g} without another budget',
        unit='seconds',
    )
    budget_flops: float | None = setting(None, 'of training, instead of --budget_seconds', unit='FLOPs')
    budget_tokens: float | None = setting(None, 'trained on, padding left out, instead of --budget_seconds')
    budget_money: float | None = setting(None, 'instead of --budget_seconds, which it becomes at --price_per_hour')
    price_per_hour: float | None = setting(None, 'of this machine, in the currency of --budget_money')
    max_examples: int = setting(4096, 'training examples of a full run, repeats included')
    metric: str = setting('loss', 'what the search improves', choices=('loss', 'exact_match'))
    methods: tuple[str, ...] = setting((), 'of lora, full, prompt; all if empty (the demonstration: lora)')
    restrict: str = setting('', 'JSON object that narrows the search space, e.g. {"rank": [4, 8]}')
    num_configurations: int = setting(512, 'candidates; the default configuration is one of them')
    compare: bool | None = setting(None, 'also run the default configuration; by default only in the demonstration')
    search: str = setting(
        'freeze_thaw',
        'who decides: the surrogate with feedback, full runs in the order of its zero-shot portfolio, or chance',
        choices=('freeze_thaw', 'transfer', 'random'),
    )
    portfolio: int = setting(5, 'how many configurations to name whose best is expected to be best; 0: none')
    patience: float = setting(
        0.0,
        'freeze_thaw stops where nothing is expected to improve the metric this fast; 0: it spends the budget',
        unit='nats (or shares of exact matches) per second, FLOP or token of the budget',
    )
    width: int | None = setting(None, 'runs trained together; 1 on a CPU and 8 on an accelerator if empty')
    scaling_fit: Path = setting(
        ASSETS / 'scaling',
        'workdir of scaling_fit, by which the report says what more data or a larger model would bring',
    )
    dtype: str | None = setting(
        None,
        'of the frozen base; float32 on a CPU and bfloat16 on an accelerator if empty',
        choices=('float32', 'bfloat16'),
    )
    quantize: str | None = setting(None, 'store the base in 8 bits (not for full tuning)', choices=('int8',))
    remat: str = setting(
        'none', 'what is computed again in the backward pass to save memory', choices=('none', 'dots', 'layer')
    )
    mesh: str = setting('', 'devices to divide base and batches over, e.g. data:2,fsdp:4,tensor:1; one if empty')
    tensorboard: bool = setting(False, 'also write the measurements for TensorBoard (needs tensorboardX)')
    allow_overlap: bool = setting(False, 'accept training questions that are asked again in validation or test')
    seed: int = setting(0, 'of split, candidates and runs')

    def __post_init__(self):
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        for name in (*given, *(['price_per_hour'] if self.price_per_hour is not None else [])):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise BudgetError(f'--{name} is {getattr(self, name)}; it must be a positive number')
        if len(given) > 1:
            raise BudgetError(f'{" and ".join(f"--{name}" for name in given)} were given; a search has one budget')
        if (self.budget_money is None) != (self.price_per_hour is None):
            raise BudgetError('--budget_money and --price_per_hour need one another')
        for name in ('max_examples', 'num_configurations'):
            if getattr(self, name) < 1:
                raise BudgetError(f'--{name} is {getattr(self, name)}; it must be at least 1')
        if self.portfolio < 0:
            raise InputError(f'--portfolio is {self.portfolio}; it must be at least 0')
        if not (math.isfinite(self.patience) and self.patience >= 0):
            raise InputError(f'--patience is {self.patience}; it must be a number of at least 0')
        if self.patience > 0 and self.search != 'freeze_thaw':
            raise InputError(f'--patience needs predictions as runs go on; --search={self.search} asks for none')
        if self.width is not None and self.width < 1:
            raise InputError(f'--width is {self.width}; it must be at least 1')
        if self.train is None and (self.validation or self.test):
            raise InputError('--validation and --test need --train; the demonstration brings its own splits')
        self.parsed_restrict()
        self.parsed_mesh()

    @property
    def budget(self) -> tuple[float, str]:
        """The budget and the unit that the search reckons in: 'seconds', 'flops' or 'tokens'."""
        if self.budget_flops is not None:
            return self.budget_flops, 'flops'
        if self.budget_tokens is not None:
            return self.budget_tokens, 'tokens'
        if self.budget_money is not None:
            return 3600.0 * self.budget_money / self.price_per_hour, 'seconds'
        return (DEFAULT_SECONDS if self.budget_seconds is None else self.budget_seconds), 'seconds'

    def doubled(self) -> 'Settings':
        """Return the settings with twice the budget."""
        name = next((name for name in BUDGETS if getattr(self, name) is not None), 'budget_seconds')
        twice: dict[str, typing.Any] = {name: 2.0 * (getattr(self, name) or DEFAULT_SECONDS)}
        return dataclasses.replace(self, **twice)

    @property
    def is_demonstration(self) -> bool:
        return self.train is None

    def parsed_mesh(self) -> dict[str, int]:
        """Return --mesh as sizes by axis; raises InputError where it is not written so."""
        parts = [part.partition(':') for part in self.mesh.split(',') if part]
        if not all(size.isdecimal() for _, _, size in parts):
            raise InputError(f'--mesh is {self.mesh!r}; write axes with their sizes, for example data:2,fsdp:4')
        return {name.strip(): int(size) for name, _, size in parts}

    def parsed_restrict(self) -> dict:
        """Return --restrict as a dict; raises ConfigurationError where it is no JSON object."""
        try:
            parsed = json.loads(self.restrict or '{}')
        except ValueError as error:
            raise ConfigurationError(
                f'--restrict is not JSON ({error}); write for example {{"rank": [4, 8]}}'
            ) from None
        if not isinstance(parsed, dict):
            raise ConfigurationError(
                f'--restrict is a JSON {type(parsed).__name__}; write an object such as {{"rank": [4, 8]}}'
            )
        return parsed


def main(settings: Settings, decided_by: Callable[[Settings, 'Problem'], 'Searcher'] | None = None) -> None:
    """Run the job from data to report; `decided_by` makes another searcher than --search, for comparisons."""
    from metaft.report.terminal import Terminal

    console = Terminal()
    problem = prepare(settings, console)
    ranking, portfolio = rank(settings, problem, console)
    stopped_by = search(settings, problem, ranking, console, (decided_by or make_searcher)(settings, problem))
    results = finish(settings, problem, stopped_by, console)
    report(settings, problem, ranking, portfolio, results, console)


def prepare(settings: Settings, console: 'Terminal') -> 'Problem':
    """Load everything, refuse what cannot work, evaluate the base model and compute the meta-features."""
    from metaft.executors.task_record import task_record
    from metaft.metadataset import store
    from metaft.phi3.hub import model_directory
    from metaft.surrogate.surrogate import Surrogate
    from metaft.tasks.tokenizer import load_tokenizer
    from metaft.tuning import problem as problems

    scaling_advise.read_laws(settings.scaling_fit)  # laws that cannot be read are told before the budget is spent
    dataset, surrogate = load_data(settings), Surrogate.load(settings.surrogate)
    candidates = problems.draw_candidates(
        settings.methods or (DEMONSTRATION_METHODS if settings.is_demonstration else ()),
        settings.parsed_restrict(),
        num=settings.num_configurations,
        max_examples=settings.max_examples,
        seed=settings.seed,
        proven=() if settings.search == 'random' else surrogate.proven,  # chance knows of no other task
    )
    directory = model_directory(settings.model)
    tokenizer = load_tokenizer(directory)
    executor = load_executor(settings, dataset, directory, tokenizer, candidates)
    task = executor.task
    candidates, warnings = problems.without_unaffordable(candidates, executor, asked=bool(settings.methods))
    workdir = program.prepare_workdir(settings.workdir, settings, IDENTITY, fingerprints(settings))
    sizes = ', '.join(f'{len(getattr(dataset, split)):,} {split}' for split in ('train', 'validation', 'test'))
    console.say(f'{dataset.name}: {sizes} examples; base model {directory.name}')

    described = workdir / 'meta_features.json'
    known = store.read_task(described) if described.exists() else None
    if known is not None and known.task != task.name:  # another default dtype, on another machine
        raise WorkdirError(
            f'{workdir} is a workdir of {known.task} and this is {task.name}: give --dtype as it was, or another '
            '--workdir'
        )
    start = time.perf_counter()
    zero_shot = executor.zero_shot()
    evaluation_compile_seconds = time.perf_counter() - start
    if known is not None:  # the numbers of the session before, also those that are measured times
        record, seconds = known, 0.0
    else:
        record = task_record(dataset, task, zero_shot[0], directory, settings.seed)
        seconds = record.meta_features_seconds or 0.0
        store.write_task(described, record)
    console.meta_features(record.meta_features, seconds)
    coverage = surrogate.coverage(record.meta_features, [c.identity() for c in candidates])
    warnings += [f'Outside of what the surrogate has seen: {sentence}.' for sentence in coverage.sentences()]
    return problems.Problem(
        dataset=dataset,
        tokenizer=tokenizer,
        executor=executor,
        record=record,
        zero_shot=zero_shot,
        candidates=candidates,
        surrogate=surrogate,
        metric=settings.metric,
        workdir=workdir,
        seed=settings.seed,
        evaluation_compile_seconds=evaluation_compile_seconds,
        warnings=warnings,
    )


def load_executor(
    settings: Settings,
    dataset: 'Dataset',
    directory: Path,
    tokenizer: 'Tokenizer',
    candidates: 'Sequence[Configuration]',
) -> 'LocalExecutor':
    """Load the base model, encode the dataset for it with room for the longest prompt, and make what runs them."""
    from metaft.executors.local import LocalExecutor
    from metaft.finetune.memory import loading
    from metaft.finetune.methods import padded
    from metaft.finetune.task import prepare as prepare_task
    from metaft.phi3 import load_pretrained
    from metaft.phi3.casting import base_dtype
    from metaft.phi3.sharding import make_mesh
    from metaft.tuning.problem import default_width

    mesh = make_mesh(settings.parsed_mesh()) if settings.mesh else None
    dtype, num_devices = base_dtype(settings.dtype), 1 if mesh is None else mesh.size
    with loading(directory, dtype=dtype, quantize=settings.quantize, num_devices=num_devices):
        model = load_pretrained(directory, dtype, mesh=mesh, quantize=settings.quantize)
    model.remat = settings.remat
    task = prepare_task(
        dataset,
        model,
        tokenizer,
        base_model=base_name(directory, dtype.name, settings.quantize),
        max_examples=settings.max_examples,
        max_prompt_length=max((padded(c) for c in candidates if c.method == 'prompt'), default=0),
    )
    width, frozen = settings.width or default_width(), settings.workdir / 'frozen'
    return LocalExecutor(task, width=width, directory=frozen, versions=program.versions(), mesh=mesh)


def base_name(directory: Path, dtype: str, quantize: str | None) -> str:
    """Return the name of a base in records; another dtype is another base."""
    return '-'.join([directory.name, *([dtype] if dtype != 'float32' else []), *([quantize] if quantize else [])])


def load_data(settings: Settings) -> 'Dataset':
    """Return the user's dataset, or the demonstration."""
    from metaft.tasks import catalogue
    from metaft.tasks.dataset import load_dataset

    if settings.is_demonstration:
        return catalogue.make(catalogue.DEMONSTRATION)
    dataset = load_dataset(
        settings.train, settings.validation, settings.test, seed=settings.seed, allow_overlap=settings.allow_overlap
    )
    # Two files named train.jsonl are two datasets: what was measured on them meets again in the surrogate's training.
    content = hashlib.sha256(repr((dataset.train, dataset.validation)).encode()).hexdigest()[:8]
    return dataclasses.replace(dataset, name=f'{dataset.name}-{content}')


def fingerprints(settings: Settings) -> dict[str, str]:
    """Return a hash of each data file, so that a workdir is not continued with other data."""
    from metaft.tasks.dataset import fingerprint

    files = {name: getattr(settings, name) for name in ('train', 'validation', 'test')}
    return {name: fingerprint(path) for name, path in files.items() if path is not None}


def rank(settings: Settings, problem: 'Problem', console: 'Terminal') -> tuple['pd.DataFrame', 'pd.DataFrame | None']:
    """Rank all candidates by transfer alone and choose a portfolio; print both, write ranking.csv and portfolio.csv."""
    from metaft.search import portfolio as portfolios
    from metaft.search import ranking

    start = time.perf_counter()
    configurations = [c.to_dict() for c in problem.candidates]
    prediction = problem.predictor()(problem.nothing_observed)
    table = ranking.rank(configurations, prediction)
    console.ranking(table, problem.metric)
    console.say(f'ranked by transfer alone in {time.perf_counter() - start:.1f} s')
    program.write_text(problem.workdir / 'ranking.csv', table.to_csv(index=False))
    chosen = None
    if settings.portfolio:
        chosen = portfolios.portfolio(
            configurations, prediction, problem.mixture(prediction), problem.reference_value, settings.portfolio
        )
        console.portfolio(chosen, problem.metric)
        program.write_text(problem.workdir / 'portfolio.csv', chosen.to_csv(index=False))
    for warning in problem.warnings:
        console.warn(warning)
    return table, chosen


def search(
    settings: Settings, problem: 'Problem', ranking: 'pd.DataFrame', console: 'Terminal', searcher: 'Searcher'
) -> str:
    """Spend the budget, showing who is advanced and who leads; return why it is over."""
    from metaft.report.tensorboard import TensorboardWriter

    live = problem.live_search()
    if not live.ledger.measurements:
        refuse_too_small(settings, problem, ranking)
    budget, unit = settings.budget
    configurations = [c.to_dict() for c in problem.candidates]
    board = TensorboardWriter(problem.workdir / 'tensorboard') if settings.tensorboard else None
    with console.search(budget, configurations, live.observations, unit) as view, board or nullcontext():

        def on_change(advancing) -> None:
            view.update(live.observations, live.ledger.spent(unit), advancing)
            if board is not None:
                board.write(live.ledger.measurements)

        stopped_by = live.run(searcher, budget, unit, width=problem.executor.width, on_change=on_change)
    if stopped_by != 'budget':
        console.say(f'the search stopped before its budget was spent: {STOPPED[stopped_by]}')
    return stopped_by


def make_searcher(settings: Settings, problem: 'Problem') -> 'Searcher':
    """Return who decides."""
    from metaft.search.baselines import random_search, transfer
    from metaft.search.freeze_thaw import FreezeThaw, FreezeThawSettings
    from metaft.search.units import InUnit

    predict = problem.predictor()
    zero_shot = predict(problem.nothing_observed)
    mixture = problem.mixture(zero_shot)
    makers: dict[str, Callable[[], Searcher]] = {
        'freeze_thaw': lambda: FreezeThaw(predict, FreezeThawSettings(patience=settings.patience), mixture),
        'transfer': lambda: transfer(zero_shot, mixture),
        'random': lambda: random_search(len(problem.candidates), settings.seed),
    }
    searcher, unit = makers[settings.search](), settings.budget[1]
    return searcher if unit == 'seconds' else InUnit(searcher, problem.costs(unit))


def refuse_too_small(settings: Settings, problem: 'Problem', ranking: 'pd.DataFrame') -> None:
    """Raise BudgetError when not even the cheapest first measurement fits into the budget."""
    from metaft.finetune.budget import fractions
    from metaft.report.wording import amount

    budget, unit = settings.budget
    if unit == 'seconds':
        full_run = float(ranking['predicted_seconds'].min())
        first = full_run * float(fractions()[0])
    else:
        first, full_run = problem.costs(unit)[:, [0, -1]].min(axis=0)
    if first > budget:
        raise BudgetError(
            f'a budget of {amount(budget, unit)} is too small for one step: the first measurement of the cheapest '
            f'configuration takes about {amount(first, unit)} here, a full run {amount(full_run, unit)}'
        )


def finish(settings: Settings, problem: 'Problem', stopped_by: str, console: 'Terminal') -> dict:
    """Test the incumbent and what it is compared with, export the adapter, write results.json."""
    from metaft.phi3 import stored_dtype
    from metaft.phi3.hub import model_directory
    from metaft.tuning import outcome

    ledger, (budget, unit) = problem.live_search().ledger, settings.budget
    found = outcome.incumbent(problem, ledger)
    results = {
        'incumbent': found and found[0],
        'zero_shot': outcome.untrained(problem),
        'spent_seconds': ledger.spent_seconds,
        'budget_seconds': budget if unit == 'seconds' else None,
        'budget': {'unit': unit, 'given': budget, 'spent': ledger.spent(unit)},
        'spent_money': settings.price_per_hour and settings.price_per_hour * ledger.spent_seconds / 3600.0,
        'stopped_by': stopped_by,
        'metric': settings.metric,
        'num_runs_started': len({m.run_id for m in ledger.measurements}),
        'num_runs_diverged': len({m.run_id for m in ledger.measurements if m.status == 'diverged'}),
        'num_measurements': len(ledger.measurements),
        'task': problem.record.task,
        'max_examples': settings.max_examples,
        'dtype': problem.executor.task.model.embed_tokens[...].dtype.name,
        'warnings': list(problem.warnings),
        'versions': program.versions(),
        'seed': settings.seed,
    }
    if found is None:
        why = 'every run diverged' if ledger.measurements else 'the budget ended before the first measurement'
        console.warn(f'{why}, so there is no adapter; give a larger budget or other --restrict bounds')
    else:
        entry, configuration, adapter = found
        if entry['budget_steps'] == 0:
            console.warn('no measured checkpoint is better than the base model: the adapter written changes nothing')
        if settings.export == 'merged' and configuration.method != 'prompt':
            dtype = stored_dtype(model_directory(settings.model))
            path, change = outcome.export_merged(problem, configuration, adapter, dtype)
            results['casting_logit_change'] = change
            console.say(f'wrote {path}, merged in float32; casting to {dtype} changed a logit by at most {change:.2g}')
        else:
            if settings.export == 'merged':
                console.warn('the best run is a soft prompt, which is no change of weights: the adapter is written')
            console.say(f'wrote {outcome.export(problem, configuration, adapter, settings.model)}')
    if settings.compare or (settings.compare is None and settings.is_demonstration):
        console.say('running the default configuration, given the same budget of its own ...')
        results['default'] = outcome.default(problem, budget, unit)
    program.write_json(settings.workdir / 'results.json', results)
    return results


def report(
    settings: Settings,
    problem: 'Problem',
    ranking: 'pd.DataFrame',
    portfolio: 'pd.DataFrame | None',
    results: dict,
    console: 'Terminal',
) -> None:
    """Write learning_curves.png and report.html, and print what was found."""
    from metaft.report import html, plots
    from metaft.report.data import Forecast, Outcome, ReportData

    predict, seen = problem.predictor(), problem.live_search().observations
    budget, unit = settings.budget
    again = make_searcher(settings, problem).suggest(seen, budget)
    fields = {field.name for field in dataclasses.fields(Outcome)}
    outcomes = {
        name: results.get(name) and Outcome(**{k: v for k, v in results[name].items() if k in fields})
        for name in ('zero_shot', 'default', 'incumbent')
    }
    data = ReportData(
        task=problem.record.task,
        metric=settings.metric,
        asked=asked(settings, problem),
        budget=budget,
        spent=results['budget']['spent'],
        unit=unit,
        max_examples=settings.max_examples,
        configurations=[c.to_dict() for c in problem.candidates],
        observations=seen,
        zero_shot_forecast=Forecast.of(predict(problem.nothing_observed)),
        final_forecast=Forecast.of(predict(seen)),
        ranking=ranking,
        portfolio=portfolio,
        next_suggestion=again[0] if again else None,
        next_command=command(settings.doubled()),
        scaling=scaling_sentences(settings, problem, results),
        warnings=problem.warnings,
        versions=results['versions'],
        seed=settings.seed,
        **outcomes,
    )
    plots.learning_curves(settings.workdir / 'learning_curves.png', data)
    html.write(settings.workdir / 'report.html', data)
    console.results(
        {'no finetuning': data.zero_shot, 'default configuration': data.default, 'incumbent': data.incumbent}
    )
    for sentence in data.scaling:
        console.say(sentence)
    console.say(f'report: {settings.workdir / "report.html"}')


def scaling_sentences(settings: Settings, problem: 'Problem', results: dict) -> list[str]:
    """Say what more data or a larger model would bring: by the user's own laws, and by factors carried over."""
    if results['incumbent'] is None:
        return []
    source = 'the scaling study shipped with metaft (a translation and a summary; small bases)'
    said = []
    if settings.scaling_fit != ASSETS / 'scaling':
        source = str(settings.scaling_fit)
        said = scaling_advise.sentences(settings.scaling_fit, len(problem.dataset.train))
    return said + scaling_advise.carried(
        settings.scaling_fit,
        method=results['incumbent']['configuration']['method'],
        examples=len(problem.dataset.train),
        size=math.exp(problem.record.meta_features['log_num_parameters']),
        loss=results['incumbent']['test_loss'],
        source=source,
    )


def asked(settings: Settings, problem: 'Problem') -> dict[str, str]:
    """Return what was asked, for the report's table."""
    from metaft.report.wording import amount

    dataset, methods = problem.dataset, sorted({c.method for c in problem.candidates})
    sizes = ', '.join(f'{len(getattr(dataset, split)):,} {split}' for split in ('train', 'validation', 'test'))
    return {
        'Base model': settings.model
        if Path(settings.model).parent != ASSETS
        else f'{Path(settings.model).name} (embedded)',
        'Data': f'{dataset.name}: {sizes}',
        'Source': dataset.source,
        'Budget': amount(*settings.budget),
        'Full run': f'{settings.max_examples:,} training examples',
        'Metric': settings.metric,
        'Candidates': f'{len(problem.candidates):,} configurations of {", ".join(methods)}',
        'Command': command(settings),
    }


def command(settings: Settings) -> str:
    """Return the command line that gives these settings, defaults left out."""
    parts = ['launch/local.sh tune']
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value != field.default:
            text = (
                ','.join(map(str, value))
                if isinstance(value, tuple)
                else f'{value:g}'
                if isinstance(value, float)
                else str(value)
            )
            parts.append(f'--{field.name}={shlex.quote(text)}')
    return ' '.join(parts)


if __name__ == '__main__':
    program.run(main, Settings)
