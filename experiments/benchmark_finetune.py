"""How fast is a LoRA run, and a sweep of them, against transformers + PEFT + torch on the same weights and rows?

    launch/local.sh benchmark_finetune --workdir=runs/finetune          # once requirements-parity.txt is in .venv

(a) run: optimizer steps of one LoRA run, both sides warm, interleaved in one process; the median over repeats of
tokens a second (padding not counted) and of the ratio metaft / PEFT within a repeat. On an accelerator also the
utilisation, which counts the FLOPs that a LoRA needs (`finetune.costs`) against the device's published dense bfloat16
peak, and the peak of the device's memory, of each side in a process of its own.
(b) sweep: --num_configurations runs of --sweep_steps steps each, one process a side and repeat, from its start to its
last validation loss: imports, loading and compiling count. `cold` has an empty compilation cache, `warm` that of the
repeat before; PEFT has no such cache and loads its base once.
Weights, rows a step, rank, dropout, clipping and AdamW are the same. PEFT's other settings are its best: sdpa, fused
AdamW, each batch padded to its own longest row, the faster of one and of all torch threads, and on an accelerator the
fastest of 1, 2 and 4 times the batch in (a). Both sides use float32 on a CPU, bfloat16 bases on a GPU. Writes
benchmark.csv and benchmark.md, where shapes that need an accelerator are "not measured" without one. About ten minutes
on two cores.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from experiments import program
from experiments.program import setting
from metaft.errors import InputError, WorkdirError

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / 'metaft' / 'assets' / 'phi3_tiny'
RANK, ALPHA_RATIO, TARGET_MODULES = 16, 2.0, ('qkv_proj', 'o_proj', 'gate_up_proj', 'down_proj')


@dataclasses.dataclass(frozen=True)
class Shape:
    """A base model and a batch.

    Attributes:
      batch: rows an optimizer step.
      length: tokens a row; None takes the demonstration's questions as they are.
      accelerator: not for a CPU.
      remat: of metaft's backward pass.
      run, sweep: what is measured.
    """

    batch: int
    length: int | None
    accelerator: bool = False
    remat: str = 'none'
    run: bool = True
    sweep: bool = True


SHAPES = {
    'shipped': Shape(16, None),
    '25m_8x128': Shape(8, 128, sweep=False),  # three quarters of an hour a repeat on two cores
    '25m_8x64': Shape(8, 64),
    'mini_4x512': Shape(4, 512, accelerator=True, remat='dots', sweep=False),
    'mini_8x2048': Shape(8, 2048, accelerator=True, remat='dots', sweep=False),
    'mini_1x512': Shape(1, 512, accelerator=True, remat='dots', run=False),
}
SIDES = ('metaft', 'peft')
CHILDREN = tuple(f'{side}_{job}' for side in SIDES for job in ('sweep', 'memory'))
# Dense bfloat16, FLOP/s, from the makers' data sheets; the longest name found in the device's kind counts.
PEAK_FLOPS = {'H200': 989e12, 'H100': 989e12, 'A100': 312e12, 'TPU v4': 275e12, 'TPU v5 lite': 197e12,
              'TPU v6 lite': 918e12}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
    workdir: Path = setting(Path('runs/benchmark_finetune'), 'where bases and results go')
    shapes: tuple[str, ...] = setting(tuple(SHAPES), f'of {", ".join(SHAPES)}')
    steps: int = setting(0, 'optimizer steps of a timing; about four seconds of them if 0')
    repeats: int = setting(5, 'timings of (a)')
    sweep_repeats: int = setting(3, 'timings of (b); 0 leaves it out')
    num_configurations: int = setting(0, 'runs of a sweep; 16 on a CPU and 8 on an accelerator if 0')
    sweep_steps: int = setting(100, 'optimizer steps of a run of the sweep')
    seed: int = setting(0, 'of random bases, rows and configurations')
    child: str = setting('', 'internal: be one side, in a process of its own', choices=('', *CHILDREN))
    threads: int = setting(0, 'internal: torch threads of a child')

    def __post_init__(self):
        for name in self.shapes:
            if name not in SHAPES:
                raise InputError(f'--shapes names {name!r}; allowed: {", ".join(SHAPES)}')
        if min(self.repeats, self.sweep_steps) < 1:
            raise InputError('--repeats and --sweep_steps must be positive')
        if min(self.steps, self.sweep_repeats, self.num_configurations) < 0:
            raise InputError('--steps, --sweep_repeats and --num_configurations must not be negative')


def main(settings: Settings) -> None:
    """Time both sides of every shape and write the table."""
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # torch shares the device with JAX
    if settings.child:
        side, _, job = settings.child.partition('_')
        (sweep if job == 'sweep' else tell_peak_memory)(settings, settings.shapes[0], side)
        return
    import jax
    import pandas as pd

    try:
        import peft
        import torch
        import transformers
    except ImportError as error:
        raise InputError(f'{error.name} is missing; install requirements-parity.txt as its head says') from None

    settings.workdir.mkdir(parents=True, exist_ok=True)
    on_cpu = jax.default_backend() == 'cpu'
    settings = dataclasses.replace(settings, num_configurations=settings.num_configurations or (16 if on_cpu else 8))
    device = jax.devices()[0].device_kind
    rows, left_out = [], []
    for name in settings.shapes:
        if SHAPES[name].accelerator and on_cpu:
            left_out.append(name)
            continue
        threads = best_threads(settings, name)
        if SHAPES[name].run:
            rows += time_runs(settings, name, threads, device)
        if SHAPES[name].sweep:
            rows += time_sweeps(settings, name, threads)
    frame = pd.DataFrame(rows)
    program.write_text(settings.workdir / 'benchmark.csv', frame.to_csv(index=False))
    versions = f'jax {jax.__version__}, torch {torch.__version__}, transformers {transformers.__version__}, '
    versions += f'peft {peft.__version__}; {platform.machine()}, {os.cpu_count()} cores, {device}'
    flags = (
        f'--repeats={settings.repeats} --sweep_repeats={settings.sweep_repeats} --sweep_steps={settings.sweep_steps}'
    )
    flags += f' --num_configurations={settings.num_configurations} --seed={settings.seed}'
    head = f'    launch/local.sh benchmark_finetune {flags}\n\n{datetime.date.today()}; {versions}.'
    text = f'{head}\n\n{summary(frame, left_out)}'
    program.write_text(settings.workdir / 'benchmark.md', text)
    print(text)


# ---------------------------------------------------------------- the same weights and rows for both


def base_directory(settings: Settings, name: str) -> Path:
    """Return the base's directory, made on the first call where it has random weights."""
    if name == 'shipped':
        return SHIPPED
    import jax.numpy as jnp
    from flax import nnx

    from metaft.phi3 import PRESETS, Phi3, Phi3Config, save_pretrained

    directory = settings.workdir / f'base_{name.partition("_")[0]}'
    if not (directory / 'config.json').exists():
        if name.startswith('25m'):
            config = Phi3Config(
                vocab_size=8192, hidden_size=384, intermediate_size=1024, num_hidden_layers=10, num_attention_heads=6
            )
            model = Phi3(config, rngs=nnx.Rngs(settings.seed))
        else:
            model = Phi3(PRESETS['phi-3-mini-4k'], rngs=nnx.Rngs(settings.seed), dtype=jnp.bfloat16)
        save_pretrained(model, directory)
    return directory


def make_rows(settings: Settings, name: str, num: int, seed: int):
    """Return `num` encoded examples: the demonstration's, or random tokens whose last quarter is the answer."""
    from metaft.finetune.data import Rows, bucketed
    from metaft.phi3 import load_config
    from metaft.tasks import catalogue
    from metaft.tasks.prompts import encode
    from metaft.tasks.tokenizer import load_tokenizer

    generator, length = np.random.default_rng((settings.seed, seed)), SHAPES[name].length
    if length is None:
        examples = catalogue.make(catalogue.DEMONSTRATION).train
        (rows,) = bucketed(encode(examples, load_tokenizer(SHIPPED), max_length=256, source='demonstration'))
        return rows.take(generator.integers(0, len(rows.length_N), num))
    vocabulary = load_config(base_directory(settings, name)).vocab_size
    tokens = generator.integers(4, vocabulary, (num, length)).astype(np.int32)
    return Rows(tokens, np.full(num, length * 3 // 4, np.int32), np.full(num, length, np.int32), length // 4)


def configurations(settings: Settings, batch: int) -> list:
    """Return the sweep: learning rates over two decades, ranks 4 to 32, three schedules."""
    from metaft.finetune.search_space import default_configuration

    rates = np.geomspace(1e-4, 1e-2, settings.num_configurations)
    return [
        dataclasses.replace(
            default_configuration('lora'),
            learning_rate=float(rate),
            rank=(4, 8, 16, 32)[i % 4],
            schedule=('constant', 'linear', 'cosine')[i % 3],
            batch_size=batch,
        )
        for i, rate in enumerate(rates)
    ]


# ---------------------------------------------------------------- (a) steps of one run


def time_runs(settings: Settings, name: str, threads: int, device: str) -> list[dict]:
    """Return one row a (repeat, side): seconds and tokens of about four seconds of steps, the sides in turn."""
    rows = make_rows(settings, name, 512, 0)
    batch = best_batch(settings, name, rows, threads)
    sides = {'metaft': metaft_steps(settings, name, rows), 'peft': peft_steps(settings, name, rows, threads, batch)}
    rates = {side: rate(step) for side, step in sides.items()}
    flops_a_token = needed_flops_a_token(settings, name, rows)
    peak_flops = next((PEAK_FLOPS[k] for k in sorted(PEAK_FLOPS, key=len, reverse=True) if k in device), float('nan'))
    peaks = {side: peak_memory(settings, name, side, threads) for side in SIDES} if SHAPES[name].accelerator else {}
    out = []
    for repeat in range(settings.repeats):
        for side in SIDES if repeat % 2 else SIDES[::-1]:
            steps = settings.steps or max(3, round(4.0 * rates[side]))
            start = time.perf_counter()
            tokens = sides[side](steps)
            seconds = time.perf_counter() - start
            utilisation = flops_a_token * tokens / seconds / peak_flops
            peak = peaks.get(side, float('nan'))
            more = {'steps': steps, 'utilisation': utilisation, 'peak_bytes': peak}
            out.append(_row(name, 'run', side, repeat, seconds, tokens=tokens, **more))
            print(f'{name} run {repeat} {side}: {tokens / seconds:,.0f} tokens/s', flush=True)
    return out


def needed_flops_a_token(settings: Settings, name: str, rows) -> float:
    """Return the FLOPs that a LoRA's training needs: forward, and backward through activations and adapters."""
    from metaft.finetune.costs import mean_training_cost
    from metaft.finetune.search_space import default_configuration
    from metaft.phi3 import load_config

    configuration = dataclasses.replace(default_configuration('lora'), rank=RANK, batch_size=SHAPES[name].batch)
    flops, tokens = mean_training_cost(load_config(base_directory(settings, name)), configuration, rows)
    return flops / tokens


def peak_memory(settings: Settings, name: str, side: str, threads: int) -> float:
    """Return the peak of the device's memory while one side takes a few steps alone, in bytes."""
    return float(json.loads(child(settings, name, f'{side}_memory', threads).stdout.strip().splitlines()[-1]))


def tell_peak_memory(settings: Settings, name: str, side: str) -> None:
    """Be one side: take a few steps of a run; print the peak of the device's memory in bytes."""
    rows = make_rows(settings, name, 512, 0)
    with contextlib.redirect_stdout(sys.stderr):
        if side == 'metaft':
            import jax

            metaft_steps(settings, name, rows)(3)
            peak = jax.local_devices()[0].memory_stats()['peak_bytes_in_use']
        else:
            import torch

            peft_steps(settings, name, rows, settings.threads or 1, SHAPES[name].batch)(3)
            peak = torch.cuda.max_memory_allocated()
    print(json.dumps(peak))


def rate(step: Callable[[int], int]) -> float:
    """Return steps a second after a warm-up."""
    step(3)
    start = time.perf_counter()
    step(5)
    return 5 / (time.perf_counter() - start)


def metaft_steps(settings: Settings, name: str, rows) -> Callable[[int], int]:
    """Return a function that takes steps of one LoRA run and returns the tokens seen."""
    import jax.numpy as jnp

    from metaft.finetune.population import MICRO_BATCH, Population
    from metaft.finetune.search_space import default_configuration
    from metaft.phi3 import load_pretrained

    shape = SHAPES[name]
    model = load_pretrained(base_directory(settings, name), jnp.bfloat16 if shape.accelerator else jnp.float32)
    model.remat = shape.remat
    configuration = dataclasses.replace(default_configuration('lora'), rank=RANK, batch_size=shape.batch)
    population = Population(model, 'lora', rows, micro_batch=min(shape.batch, MICRO_BATCH))
    member = population.new_member(configuration, settings.seed)
    population.put(0, member, configuration, seed=settings.seed, total_steps=1_000_000)

    def steps(num: int) -> int:
        done = int(population.steps()[0])
        population.advance([done + num])
        return int(rows.length_N.mean() * num * configuration.batch_size)

    return steps


def peft_steps(settings: Settings, name: str, rows, threads: int, batch: int) -> Callable[[int], int]:
    """Return the same for PEFT, `batch` rows a step."""
    import torch

    torch.set_num_threads(threads)
    shape = SHAPES[name]
    model = peft_model(torch_base(base_directory(settings, name), shape.accelerator), RANK)
    optimizer = torch.optim.AdamW(trainable(model), lr=1e-3, weight_decay=0.0, fused=True)
    generator = np.random.default_rng(settings.seed)

    def steps(num: int) -> int:
        for _ in range(num):
            peft_step(model, optimizer, rows.take(generator.integers(0, len(rows.length_N), batch)))
        if shape.accelerator:
            torch.cuda.synchronize()
        return int(rows.length_N.mean() * num * batch)

    return steps


def torch_base(directory: Path, on_gpu: bool):
    """Load the base as transformers does, with sdpa attention."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if on_gpu else torch.float32
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation='sdpa')
    return model.to('cuda') if on_gpu else model


def peft_model(base, rank: int):
    """Put a LoRA on every linear layer of the blocks."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=ALPHA_RATIO * rank,
        lora_dropout=0.05,
        target_modules=list(TARGET_MODULES),
        task_type='CAUSAL_LM',
    )
    return get_peft_model(base, config).train()


def trainable(model) -> list:
    """Return the parameters that have a gradient."""
    return [p for p in model.parameters() if p.requires_grad]


def torch_batch(model, rows) -> dict:
    """Return a batch on the model's device, padded to its longest row; only answer tokens have labels."""
    import torch

    longest = -(-int(rows.length_N.max()) // 8) * 8  # a multiple that matmuls like
    tokens = torch.from_numpy(rows.tokens_NL[:, :longest].astype(np.int64))
    at = torch.arange(tokens.shape[1])[None, :]
    start, end = (torch.from_numpy(x.astype(np.int64))[:, None] for x in (rows.answer_start_N, rows.length_N))
    labels = torch.where((at >= start) & (at < end), tokens, -100)
    batch = {'input_ids': tokens, 'attention_mask': (at < end).long(), 'labels': labels}
    return {key: value.to(model.device) for key, value in batch.items()}


def peft_step(model, optimizer, rows) -> None:
    """Take one step, gradients clipped at norm 1 as metaft does."""
    import torch

    model(**torch_batch(model, rows)).loss.backward()
    torch.nn.utils.clip_grad_norm_(trainable(model), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def best_threads(settings: Settings, name: str) -> int:
    """Return the number of torch threads with the most steps a second: one, or all cores."""
    rows = make_rows(settings, name, 64, 0)
    batch = SHAPES[name].batch
    rates = {n: rate(peft_steps(settings, name, rows, n, batch)) for n in sorted({1, os.cpu_count() or 1})}
    print(f'{name}: PEFT steps a second by threads: ' + ', '.join(f'{n}: {r:.2f}' for n, r in rates.items()))
    return max(rates, key=rates.__getitem__)


def best_batch(settings: Settings, name: str, rows, threads: int) -> int:
    """Return PEFT's rows a step with the most tokens a second; on a CPU those of the shape."""
    import torch

    batch = SHAPES[name].batch
    if not SHAPES[name].accelerator:
        return batch
    rates = {}
    for times in (1, 2, 4):
        try:
            rates[times * batch] = times * batch * rate(peft_steps(settings, name, rows, threads, times * batch))
        except torch.cuda.OutOfMemoryError:
            break
        finally:
            torch.cuda.empty_cache()
    print(f'{name}: PEFT rows a second by batch: ' + ', '.join(f'{n}: {r:.2f}' for n, r in rates.items()))
    return max(rates, key=rates.__getitem__)


# ---------------------------------------------------------------- (b) a sweep, from start to metrics


def time_sweeps(settings: Settings, name: str, threads: int) -> list[dict]:
    """Return one row a (repeat, side, cache): wall seconds of a process that makes the whole sweep."""
    out = []
    for repeat in range(settings.sweep_repeats):
        with tempfile.TemporaryDirectory() as cache:
            for side, state in (('metaft', 'cold'), ('peft', ''), ('metaft', 'warm')):
                start = time.perf_counter()
                done = child(settings, name, f'{side}_sweep', threads, cache)
                seconds = time.perf_counter() - start
                losses = json.loads(done.stdout.strip().splitlines()[-1])
                tokens = int(settings.sweep_steps * settings.num_configurations * _tokens_a_step(settings, name))
                kind = f'sweep {state}'.strip()
                out.append(_row(name, kind, side, repeat, seconds, tokens=tokens, best_loss=min(losses)))
                print(f'{name} {kind} {repeat} {side}: {seconds:.1f} s, best loss {min(losses):.3f}', flush=True)
    return out


def child(settings: Settings, name: str, job: str, threads: int, cache: str | None = None):
    """Run one side in a process of its own, with a compilation cache of its own if one is given; return it ended.

    Raises:
      WorkdirError: it failed.
    """
    command = [sys.executable, '-m', 'experiments.benchmark_finetune', f'--child={job}', f'--shapes={name}']
    for flag in ('workdir', 'num_configurations', 'sweep_steps', 'seed'):
        command.append(f'--{flag}={getattr(settings, flag)}')
    own = {} if cache is None else {'METAFT_CACHE': cache, 'JAX_COMPILATION_CACHE_DIR': f'{cache}/jax'}
    done = subprocess.run(
        [*command, f'--threads={threads}'], cwd=ROOT, env=os.environ | own, capture_output=True, text=True
    )
    if done.returncode:
        raise WorkdirError(f'{job} of {name} failed: {done.stderr[-1000:]}')
    return done


def sweep(settings: Settings, name: str, side: str) -> None:
    """Be one side: train and evaluate every configuration; print the validation losses as JSON."""
    train, validation = make_rows(settings, name, 512, 0), make_rows(settings, name, 128, 1)
    with contextlib.redirect_stdout(sys.stderr):
        losses = (metaft_sweep if side == 'metaft' else peft_sweep)(settings, name, train, validation)
    print(json.dumps(losses))


def metaft_sweep(settings: Settings, name: str, train, validation) -> list[float]:
    """Return the final validation losses by metaft: one program for all configurations."""
    import jax
    import jax.numpy as jnp

    from metaft.finetune.population import MICRO_BATCH, Population
    from metaft.phi3 import load_pretrained

    on_cpu, shape = jax.default_backend() == 'cpu', SHAPES[name]
    model = load_pretrained(base_directory(settings, name), jnp.float32 if on_cpu else jnp.bfloat16)
    model.remat = shape.remat
    width = 1 if on_cpu else 8
    population = Population(model, 'lora', train, width=width, micro_batch=min(shape.batch, MICRO_BATCH))
    losses, todo = [], configurations(settings, shape.batch)
    for first in range(0, len(todo), width):
        group = todo[first : first + width]
        for slot, configuration in enumerate(group):
            member = population.new_member(configuration, settings.seed)
            population.put(slot, member, configuration, seed=settings.seed, total_steps=settings.sweep_steps)
        population.advance([settings.sweep_steps] * len(group) + [None] * (width - len(group)))
        losses += [evaluation.loss for evaluation in population.evaluate(validation)[: len(group)]]
    return losses


def peft_sweep(settings: Settings, name: str, train, validation) -> list[float]:
    """Return the final validation losses by PEFT: the base loaded once, an adapter a configuration."""
    import torch
    from transformers import get_scheduler

    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    base, losses = torch_base(base_directory(settings, name), SHAPES[name].accelerator), []
    for configuration in configurations(settings, SHAPES[name].batch):
        torch.manual_seed(settings.seed)
        model = peft_model(base, configuration.rank)
        optimizer = torch.optim.AdamW(trainable(model), lr=configuration.learning_rate, weight_decay=0.0, fused=True)
        warmup = round(configuration.warmup_fraction * settings.sweep_steps)
        schedule = 'constant_with_warmup' if configuration.schedule == 'constant' else configuration.schedule
        scheduler = get_scheduler(schedule, optimizer, warmup, settings.sweep_steps)
        generator = np.random.default_rng(settings.seed)
        for _ in range(settings.sweep_steps):
            peft_step(
                model, optimizer, train.take(generator.integers(0, len(train.length_N), configuration.batch_size))
            )
            scheduler.step()
        losses.append(peft_loss(model.eval(), validation))
        base = model.unload()
    return losses


def peft_loss(model, rows, batch: int = 64) -> float:
    """Return nats per answer token on all rows."""
    import torch

    nats = tokens = 0.0
    with torch.no_grad():
        for start in range(0, len(rows.length_N), batch):
            part = torch_batch(model, rows.take(np.arange(start, min(start + batch, len(rows.length_N)))))
            count = int((part['labels'][:, 1:] != -100).sum())
            nats, tokens = nats + model(**part).loss.item() * count, tokens + count
    return nats / tokens


# ---------------------------------------------------------------- the table


def _tokens_a_step(settings: Settings, name: str) -> float:
    return float(make_rows(settings, name, 512, 0).length_N.mean()) * SHAPES[name].batch


def _row(name: str, kind: str, side: str, repeat: int, seconds: float, **more) -> dict:
    return {'shape': name, 'kind': kind, 'side': side, 'repeat': repeat, 'seconds': seconds, **more}


def summary(frame, left_out: Sequence[str] = ()) -> str:
    """Return medians and the ratio metaft / PEFT with its range over repeats, in Markdown.

    Args:
      frame: rows of `time_runs` and `time_sweeps`; may be empty.
      left_out: shapes that need an accelerator, where there is none.
    """
    lines = ['| shape | what | metaft | PEFT | ratio [lowest, highest] |', '|---|---|---|---|---|']
    if len(frame):
        lines += measured(frame.assign(rate=frame['tokens'] / frame['seconds']))
    for name in left_out:
        kinds = [kind for kind in ('run', 'sweep') if getattr(SHAPES[name], kind)]
        lines.append(f'| {name} | {", ".join(kinds)} | not measured: needs an accelerator | not measured | |')
    return '\n'.join(lines) + '\n'


def measured(frame) -> list[str]:
    """Return the table's rows of what was measured."""
    lines = []
    for (name, kind), ours in frame[frame['side'] == 'metaft'].groupby(['shape', 'kind'], sort=False):
        peers = frame[(frame['shape'] == name) & (frame['side'] == 'peft')]
        theirs = peers[peers['kind'] == kind.split()[0]].set_index('repeat')
        ours = ours.set_index('repeat')
        ratio = ours['rate'] / theirs['rate']
        unit = 'rate' if kind == 'run' else 'seconds'
        show = lambda part, unit=unit: (
            f'{part["rate"].median():,.0f} tokens/s{on_accelerator(part)}'
            if unit == 'rate'
            else f'{part["seconds"].median():.1f} s'
        )
        lines.append(
            f'| {name} | {kind} | {show(ours)} | {show(theirs)} | '
            f'{ratio.median():.2f} [{ratio.min():.2f}, {ratio.max():.2f}] |'
        )
    return lines


def on_accelerator(part) -> str:
    """Return what is told of an accelerator beside the speed: utilisation and peak memory; nothing on a CPU."""
    if part['peak_bytes'].isna().all():
        return ''
    return f', {part["utilisation"].median():.0%} of peak FLOP/s, {part["peak_bytes"].max() / 2**30:.1f} GiB'


if __name__ == '__main__':
    program.run(main, Settings)
