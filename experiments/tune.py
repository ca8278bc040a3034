"""I have a dataset, a model and a budget: which finetuning configuration, at what cost, with what result? The main job.

    launch/local.sh tune                                          # the embedded demonstration
    launch/local.sh tune --train=qa_train.jsonl --validation=qa_val.jsonl --test=qa_test.jsonl --budget_seconds=300 \\
        --workdir=runs/mine

Ranks configurations by what a surrogate learned on other tasks, spends the budget on freeze-thaw search over real runs, tests
the best measured checkpoint, and leaves settings, measurements, ranking, results, the adapter, a picture and a report in
--workdir. Interrupted, the same command goes on. Cost: the budget, and about a minute around it.
"""

import dataclasses
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

from experiments import program
from experiments.program import setting
from metaft.errors import BudgetError, ConfigurationError, InputError, ModelError

ASSETS = Path(__file__).resolve().parent.parent / 'metaft' / 'assets'
DEMONSTRATION_METHODS = ('lora',)
IDENTITY = ('train', 'validation', 'test', 'model', 'surrogate', 'max_examples', 'metric', 'methods', 'restrict',
            'num_configurations', 'search', 'seed')  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
    train: Path | None = setting(None, 'JSON lines with question and answer; the embedded demonstration if empty')
    validation: Path | None = setting(None, 'like --train; a tenth of the training file if empty')
    test: Path | None = setting(None, 'like --train; a tenth of the training file if empty')
    model: str = setting(str(ASSETS / 'phi3_tiny'), 'directory or Hugging Face id of a Phi-3')
    surrogate: Path = setting(ASSETS / 'surrogate', 'directory of the surrogate (experiments.train_surrogate makes one)')
    workdir: Path = setting(Path('runs/tune'), 'where results go; an interrupted job goes on there')
    budget_seconds: float = setting(120.0, 'wall time of the search, compilation and evaluation included', unit='seconds')
    max_examples: int = setting(4096, 'training examples of a full run, repeats included')
    metric: str = setting('loss', 'what the search improves', choices=('loss', 'exact_match'))
    methods: tuple[str, ...] = setting((), 'of lora, full, prompt; all if empty (the demonstration: lora)')
    restrict: str = setting('', 'JSON object that narrows the search space, e.g. {"rank": [4, 8]}')
    num_configurations: int = setting(512, 'candidates; the default configuration is one of them')
    compare: bool | None = setting(None, 'also run the default configuration; by default only in the demonstration')
    search: str = setting('freeze_thaw', 'who decides', choices=('freeze_thaw', 'random'))
    width: int | None = setting(None, 'runs trained together; 1 on a CPU and 8 on an accelerator if empty')
    allow_overlap: bool = setting(False, 'accept training questions that are asked again in validation or test')
    seed: int = setting(0, 'of split, candidates and runs')

    def __post_init__(self):
        if not (math.isfinite(self.budget_seconds) and self.budget_seconds > 0):
            raise BudgetError(f'--budget_seconds is {self.budget_seconds}; it must be a positive number of seconds')
        for name in ('max_examples', 'num_configurations'):
            if getattr(self, name) < 1:
                raise BudgetError(f'--{name} is {getattr(self, name)}; it must be at least 1')
        if self.width is not None and self.width < 1:
            raise InputError(f'--width is {self.width}; it must be at least 1')
        if self.train is None and (self.validation or self.test):
            raise InputError('--validation and --test need --train; the demonstration brings its own splits')
        self.parsed_restrict()

    @property
    def is_demonstration(self) -> bool:
        return self.train is None

    def parsed_restrict(self) -> dict:
        """Return --restrict as a dict; raises ConfigurationError where it is no JSON object."""
        try:
            parsed = json.loads(self.restrict or '{}')
        except ValueError as error:
            raise ConfigurationError(f'--restrict is not JSON ({error}); write for example {{"rank": [4, 8]}}') from None
        if not isinstance(parsed, dict):
            raise ConfigurationError(f'--restrict is a JSON {type(parsed).__name__}; write an object such as {{"rank": [4, 8]}}')
        return parsed


def main(settings: Settings) -> None:
    """Run the job from data to report."""
    from metaft.report import terminal

    console = terminal.Terminal()
    job = prepare(settings, console)
    ranking = rank(job, console)
    search(job, ranking, console)
    results = finish(job, console)
    write_report(job, ranking, results)
    console.results(results, settings.workdir)


@dataclasses.dataclass
class Job:
    """Everything the stages share, filled once by `prepare`."""

    settings: Settings
    dataset: 'Dataset'  # noqa: F821
    tokenizer: 'Tokenizer'  # noqa: F821
    executor: 'LocalExecutor'  # noqa: F821
    record: 'TaskRecord'  # noqa: F821
    zero_shot: tuple['Evaluation', 'Evaluation']  # noqa: F821
    candidates: list['Configuration']  # noqa: F821
    surrogate: 'Surrogate'  # noqa: F821
    meta_feature_seconds: float
    evaluation_compile_seconds: float
    warnings: list[str]

    @property
    def reference_value(self) -> float:
        """The metric before finetuning, lower is better."""
        validation = self.zero_shot[0]
        return validation.loss if self.settings.metric == 'loss' else 1.0 - validation.exact_match


# ---------------------------------------------------------------- stages


def prepare(settings: Settings, console: 'Terminal') -> Job:  # noqa: F821
    """Load everything, refuse what cannot work, and compute the meta-features."""
    from metaft.executors.local import LocalExecutor
    from metaft.finetune.search_space import PROMPT_LENGTHS
    from metaft.finetune.task import prepare as prepare_task
    from metaft.metadataset import store
    from metaft.metadataset.records import TaskRecord
    from metaft.phi3 import load_pretrained
    from metaft.phi3.hub import model_directory
    from metaft.surrogate.surrogate import Surrogate
    from metaft.tasks.meta_features import meta_features
    from metaft.tasks.tokenizer import load_tokenizer

    dataset = load_data(settings)
    methods = settings.methods or (DEMONSTRATION_METHODS if settings.is_demonstration else ())
    candidates = draw_candidates(settings, methods)
    directory = model_directory(settings.model)
    tokenizer = load_tokenizer(directory)
    surrogate = Surrogate.load(settings.surrogate)
    workdir = program.prepare_workdir(settings.workdir, settings, IDENTITY, fingerprints(settings))
    model = load_pretrained(directory)
    candidates, warnings = without_unaffordable(candidates, model, asked=bool(settings.methods))
    longest_prompt = max(PROMPT_LENGTHS) if any(c.method == 'prompt' for c in candidates) else 0
    task = prepare_task(
        dataset,
        model,
        tokenizer,
        base_model=directory.name,
        max_examples=settings.max_examples,
        max_prompt_length=longest_prompt,
    )
    width = settings.width or default_width()
    executor = LocalExecutor(task, width=width, directory=workdir / 'frozen', versions=program.versions())
    console.task(task, settings)

    start = time.perf_counter()
    zero_shot = executor.zero_shot()
    evaluation_compile_seconds = time.perf_counter() - start
    path = workdir / 'task.json'
    if path.exists():  # the same numbers as in the session before, also those that are measured times
        record = store.read_task(path)
        seconds = 0.0
    else:
        features = meta_features(dataset, task.encoded_train, model, seed=settings.seed)
        seconds = features.seconds
        record = TaskRecord(
            task=task.name,
            dataset=task.dataset,
            base_model=task.base_model,
            max_examples=task.max_examples,
            reference_loss=zero_shot[0].loss,
            reference_exact_match=zero_shot[0].exact_match,
            reference_seconds=features.values['calibration_seconds_per_example'],
            meta_features=features.values,
        )
        store.write_task(path, record)
    console.meta_features(record.meta_features, seconds)
    coverage = surrogate.coverage(record.meta_features, [c.to_dict() for c in candidates])
    warnings += [f'Outside of what the surrogate has seen: {sentence}.' for sentence in coverage.sentences()]
    return Job(
        settings=settings,
        dataset=dataset,
        tokenizer=tokenizer,
        executor=executor,
        record=record,
        zero_shot=zero_shot,
        candidates=candidates,
        surrogate=surrogate,
        meta_feature_seconds=seconds,
        evaluation_compile_seconds=evaluation_compile_seconds,
        warnings=warnings,
    )


def load_data(settings: Settings) -> 'Dataset':  # noqa: F821
    """Return the user's dataset, or the demonstration."""
    from metaft.tasks import catalogue
    from metaft.tasks.dataset import load_dataset

    if settings.is_demonstration:
        return catalogue.make(catalogue.DEMONSTRATION)
    return load_dataset(
        settings.train, settings.validation, settings.test, seed=settings.seed, allow_overlap=settings.allow_overlap
    )


def fingerprints(settings: Settings) -> dict[str, str]:
    """Return a hash of each data file, so that a workdir is not continued with other data."""
    import hashlib

    files = {name: getattr(settings, name) for name in ('train', 'validation', 'test')}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for name, path in files.items() if path is not None}


def draw_candidates(settings: Settings, methods: Sequence[str]) -> list['Configuration']:  # noqa: F821
    """Return the default configuration (where the space holds it) and random ones, all with room for one update."""
    from metaft.finetune.search_space import METHODS, contains, default_configuration, sample, search_space

    methods, restrict = tuple(methods) or METHODS, settings.parsed_restrict()
    space = search_space(methods, restrict)
    defaults = [default_configuration(m) for m in methods]
    drawn = [c for c in defaults if contains(space, c)] + sample(space, settings.num_configurations, settings.seed)
    fitting = [c for c in dict.fromkeys(drawn) if c.batch_size <= settings.max_examples][: settings.num_configurations]
    if not fitting:
        raise BudgetError(
            f'no batch size of the search space fits --max_examples={settings.max_examples}: raise it to at least '
            f'{min(c.batch_size for c in drawn)}'
        )
    return fitting


def without_unaffordable(candidates: list, model, *, asked: bool) -> tuple[list, list[str]]:
    """Leave full tuning out where weights, gradients and Adam's moments (16 bytes a weight, twice) pass half of the memory."""
    import jax

    num = sum(leaf.size for leaf in jax.tree.leaves(model_state(model)))
    needed = 32 * num
    device = jax.local_devices()[0].memory_stats() or {}
    available = device.get('bytes_limit') or os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    if needed <= available / 2 or all(c.method != 'full' for c in candidates):
        return candidates, []
    sentence = f'full tuning of {num:,} weights needs about {needed / 2**30:.0f} GiB of {available / 2**30:.0f} GiB'
    kept = [c for c in candidates if c.method != 'full']
    if asked or not kept:
        raise ModelError(f'{sentence}; leave full out of --methods')
    return kept, [f'Full tuning was left out: {sentence}.']


def model_state(model):
    """Return the model's weights as a pytree."""
    from flax import nnx

    return nnx.state(model, nnx.Param)


def default_width() -> int:
    """Return the population's width: folding members costs more than it saves on a CPU, and fills an accelerator."""
    import jax

    return 1 if jax.default_backend() == 'cpu' else 8


def predictor(job: Job):
    """Return the function from observations to the surrogate's prediction of all candidates."""
    from metaft.finetune.budget import fractions

    encoded = job.surrogate.encode([c.to_dict() for c in job.candidates])

    def predict(observations):
        return job.surrogate.predict(
            job.record.meta_features,
            encoded,
            observations.values_CT,
            observations.costs_CT,
            metric=job.settings.metric,
            reference_value=job.reference_value,
            reference_seconds=job.record.reference_seconds,
            fractions_T=fractions(),
            max_examples=job.record.max_examples,
        )

    return predict


def live_search(job: Job):
    """Return the search as its ledger left it."""
    from metaft.tuning.ledger import Ledger
    from metaft.tuning.live import LiveSearch

    return LiveSearch(
        candidates=job.candidates,
        executor=job.executor,
        ledger=Ledger(job.settings.workdir, job.settings.metric),
        seed=job.settings.seed,
        evaluation_compile_seconds=job.evaluation_compile_seconds,
        reference_value=job.reference_value,
    )


def rank(job: Job, console: 'Terminal') -> 'pd.DataFrame':  # noqa: F821
    """Rank all candidates by transfer alone; print the best and write ranking.csv."""
    from metaft.finetune.budget import fractions
    from metaft.search.observations import Observations
    from metaft.search.ranking import rank as rank_configurations

    start = time.perf_counter()
    nothing = Observations.empty(len(job.candidates), fractions(), job.reference_value)
    prediction = predictor(job)(nothing)
    table = rank_configurations([c.to_dict() for c in job.candidates], prediction)
    seconds = time.perf_counter() - start
    write_atomically(job.settings.workdir / 'ranking.csv', table.to_csv(index=False))
    console.ranking(table, seconds, job.settings.metric, job.warnings)
    return table


def search(job: Job, ranking: 'pd.DataFrame', console: 'Terminal') -> None:  # noqa: F821
    """Spend the budget."""
    from metaft.search.baselines import random_search
    from metaft.search.freeze_thaw import FreezeThaw

    live = live_search(job)
    budget, remaining = job.settings.budget_seconds, job.settings.budget_seconds - live.ledger.spent_seconds
    if not live.ledger.measurements:
        refuse_too_small(job, ranking, remaining)
    if job.settings.search == 'random':
        searcher = random_search(len(job.candidates), job.settings.seed)
    else:
        searcher = FreezeThaw(predictor(job))
    with console.search(live, budget) as view:
        live.run(searcher, budget, width=job.executor.width, on_suggestions=view.suggestions, on_step=view.step)


def refuse_too_small(job: Job, ranking: 'pd.DataFrame', remaining: float) -> None:  # noqa: F821
    """Raise BudgetError when not even the cheapest first measurement fits into the budget."""
    from metaft.finetune.budget import fractions

    cheapest = float(ranking['predicted_seconds'].min()) * float(fractions()[0])
    if cheapest > remaining:
        raise BudgetError(
            f'--budget_seconds={job.settings.budget_seconds:g} is too small for one step: the first measurement of the cheapest '
            f'configuration takes about {cheapest:.2g} s here, a full run {cheapest / float(fractions()[0]):.2g} s'
        )


def finish(job: Job, console: 'Terminal') -> dict:  # noqa: F821
    """Test the incumbent, the base model and, if wanted, the default configuration; export the adapter; write results.json."""
    live = live_search(job)
    ledger = live.ledger
    validation, test = job.zero_shot
    best = ledger.incumbent()
    results = {
        'incumbent': None,
        'zero_shot': outcome(None, 0, validation, test),
        'spent_seconds': ledger.spent_seconds,
        'budget_seconds': job.settings.budget_seconds,
        'metric': job.settings.metric,
        'num_runs_started': len({m.run_id for m in ledger.measurements}),
        'num_runs_diverged': len({m.run_id for m in ledger.measurements if m.status == 'diverged'}),
        'num_measurements': len(ledger.measurements),
        'task': job.record.task,
        'max_examples': job.settings.max_examples,
        'warnings': job.warnings,
        'versions': program.versions(),
        'seed': job.settings.seed,
    }
    if best is not None:
        configuration, adapter = ledger.incumbent_adapter()
        results['incumbent'] = measured(best, job.executor.test(configuration, adapter))
        export(job, configuration, adapter)
    if job.settings.compare or (job.settings.compare is None and job.settings.is_demonstration):
        with console.waiting('the default configuration, given the same budget of its own'):
            results['default'] = run_default(job)
    program.write_json(job.settings.workdir / 'results.json', results)
    return results


def outcome(configuration: dict | None, budget_steps: int, validation, test) -> dict:
    """Return one column of the comparison."""
    return {
        'configuration': configuration,
        'budget_steps': budget_steps,
        'validation_loss': validation.loss,
        'validation_exact_match': validation.exact_match,
        'test_loss': test.loss,
        'test_exact_match': test.exact_match,
    }


def measured(measurement, test) -> dict:
    """Return the column of a measured checkpoint."""
    return {
        'configuration': dict(measurement.configuration),
        'budget_steps': measurement.budget_steps,
        'budget_examples': measurement.budget_examples,
        'validation_loss': measurement.validation_loss,
        'validation_exact_match': measurement.validation_exact_match,
        'test_loss': test.loss,
        'test_exact_match': test.exact_match,
        'cost_seconds': measurement.cost_seconds,
        'run_id': measurement.run_id,
    }


def run_default(job: Job) -> dict | None:
    """Run the default configuration to its full budget, or as far as --budget_seconds reaches; None if it diverged at once."""
    from metaft.executors.local import Job as Run
    from metaft.finetune.search_space import default_configuration
    from metaft.tuning.ledger import Ledger

    configuration = default_configuration()
    workdir = job.settings.workdir / 'default'
    workdir.mkdir(exist_ok=True)
    ledger = Ledger(workdir, job.settings.metric)
    last = len(job.executor.grid(configuration).steps_T) - 1
    done = {m.budget_steps for m in ledger.measurements}
    points = [t for t, steps in enumerate(job.executor.grid(configuration).steps_T) if steps not in done]
    ledger.start_clock()
    try:
        if points and ledger.spent_seconds < job.settings.budget_seconds:
            run = Run('default', configuration, job.settings.seed, last, tuple(points))
            stop = lambda: ledger.spent_seconds > job.settings.budget_seconds  # noqa: E731
            job.executor.advance([run], on_measurement=ledger.record, should_stop=stop)
    finally:
        ledger.stop_clock()
    best = ledger.incumbent()
    if best is None:
        return None
    configuration, adapter = ledger.incumbent_adapter()
    return measured(best, job.executor.test(configuration, adapter)) | {'spent_seconds': ledger.spent_seconds}


def export(job: Job, configuration, adapter: dict) -> None:
    """Write what the incumbent trained: adapter/ in PEFT's format, or model/ as a Hugging Face directory for full tuning."""
    from metaft.adapters import full, peft
    from metaft.phi3 import save_pretrained

    workdir, model = job.settings.workdir, job.executor.task.model
    if configuration.method == 'full':
        save_pretrained(full.adapt(model, adapter), workdir / 'model')
        job.tokenizer.save_pretrained(workdir / 'model')
    elif configuration.method == 'lora':
        peft.save_lora(
            workdir / 'adapter',
            adapter,
            rank=configuration.rank,
            alpha=configuration.alpha_ratio * configuration.rank,
            dropout=configuration.dropout,
            targets=configuration.targets,
            base_model=job.settings.model,
        )
    else:
        peft.save_prompt(workdir / 'adapter', adapter, length=configuration.prompt_length, base_model=job.settings.model)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one."""
    from metaft.errors import WorkdirError

    partial = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        partial.write_text(text)
        os.replace(partial, path)
    except OSError as error:
        raise WorkdirError(f'{path} cannot be written ({error.strerror}); free some space, then run the same command') from None


if __name__ == '__main__':
    program.run(main, Settings)
