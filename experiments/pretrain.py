"""Pretrain a small Phi-3 on the text of the synthetic world: the base model that finetuning starts from.

    launch/local.sh pretrain --workdir=runs/pretrain
    launch/local.sh pretrain --workdir=runs/bases/3.5m --size=3.5m --checkpoints=4     # and 0.2m, 0.9m

Trains the tokenizer, then the model, and leaves both in `WORKDIR/model` as a Hugging Face directory, with the settings
and the curve in `pretraining.json`. The shipped base (`metaft/assets/phi3_tiny`) is what the defaults give. Expect five
minutes on two free cores; 15 for --size=0.9m and 45 for 3.5m. Exact match of reading a context rises from the first
million tokens, of repeating words from two, of recalled facts from five; at the end about .97 of the facts are known,
.92 read from a context of one sentence. Yes/no and lettered questions stay at chance. Run again, it resumes from its
last checkpoint.

--size names the bases of the meta-dataset, which read the same documents in the same order: it sets what SIZES says and
leaves `WORKDIR/phi3_SIZE`. --checkpoints=N leaves N models on the way beside it, in `...-TOKENS`. For scaling studies,
--hidden_size and its like make other sizes, and --transduction_share mixes in the source language of the translation
task.

Training begins on short rows, where little stands between a question and its answer, and ends on packed rows of the
full length; the first block on long rows costs .1 of exact match, which the next two win back.
"""

import dataclasses
import functools
import itertools
import json
import random
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments import program
from experiments.program import setting
from metaft.errors import InputError

SHIPPED = Path(__file__).resolve().parent.parent / 'metaft' / 'assets' / 'phi3_tiny'
SIZES: dict[str, dict[str, Any]] = {  # by millions of parameters; the best learning rate falls with the width
    '0.2m': {},
    '0.9m': {'hidden_size': 128, 'num_layers': 4, 'num_heads': 4, 'intermediate_size': 352, 'learning_rate': 2.5e-3},
    '3.5m': {'hidden_size': 256, 'num_layers': 4, 'num_heads': 4, 'intermediate_size': 704, 'learning_rate': 1.5e-3},
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options; sizes and learning rate are those of docs/prototype findings, which learned on one core in minutes."""

    workdir: Path = setting(Path('runs/pretrain'), 'where checkpoints, curve and model go')
    size: str = setting('', 'sets shape, learning rate and name together', choices=('', *SIZES))
    name: str = setting('model', 'directory of the model in the workdir')
    hidden_size: int = setting(64, 'width of the model')
    num_layers: int = setting(3, 'decoder layers')
    num_heads: int = setting(4, 'attention heads')
    intermediate_size: int = setting(176, 'width of the MLP')
    vocabulary_size: int = setting(512, 'tokens of the byte-pair vocabulary, 261 at least')
    window: int = setting(512, 'positions the model declares', unit='tokens')
    num_blocks: int = setting(26, 'blocks of training, each with fresh documents, then an evaluation and a checkpoint')
    block_steps: int = setting(1024, 'updates a block')
    step_tokens: int = setting(512, 'tokens an update, padding included', unit='tokens')
    row_length: int = setting(256, 'length of the packed rows that training ends on', unit='tokens')
    short_row_length: int = setting(64, 'length of the rows that training begins with', unit='tokens')
    short_share: float = setting(0.7, 'share of the blocks that are trained on short rows')
    learning_rate: float = setting(4e-3, 'peak of the cosine schedule')
    warmup_share: float = setting(0.02, 'share of the updates in which the learning rate rises')
    weight_decay: float = setting(0.01, 'of AdamW')
    answer_weight: float = setting(8.0, 'loss weight of answer tokens, where the knowledge is')
    transduction_share: float = setting(0.0, 'share of documents in the source language of metaft.tasks.transduction')
    checkpoints: int = setting(
        0, 'models to write on the way, at token counts even in their logarithm; the last is whole'
    )
    seed: int = setting(0, 'of initialisation and documents')

    def __post_init__(self):
        for name, value in ({'name': f'phi3_{self.size}', **SIZES[self.size]} if self.size else {}).items():
            object.__setattr__(self, name, value)
        if not 0 <= self.transduction_share <= 1:
            raise InputError(f'--transduction_share is {self.transduction_share:g}; it must lie in 0 to 1')
        if not 0 <= self.checkpoints <= self.num_blocks:
            raise InputError(f'--checkpoints is {self.checkpoints}; it must lie in 0 to --num_blocks={self.num_blocks}')

    def checkpoint_blocks(self) -> tuple[int, ...]:
        """Returns after how many blocks a model is written, the last block included."""
        if self.checkpoints < 2:
            return (self.num_blocks,) * self.checkpoints
        wanted = [round(self.num_blocks ** (i / (self.checkpoints - 1))) for i in range(self.checkpoints)]
        for i in range(1, len(wanted)):  # early ones are less than a block apart
            wanted[i] = max(wanted[i], wanted[i - 1] + 1)
        return tuple(wanted)

    def tokens_after(self, blocks: int) -> int:
        """Returns the tokens trained on after so many blocks, padding included."""
        return blocks * self.block_steps * self.step_tokens


def main(settings: Settings) -> None:
    import jax
    import optax
    from flax import nnx

    from metaft.phi3 import Phi3
    from metaft.tasks import tokenizer as tokenizers

    program.prepare_workdir(
        settings.workdir, settings, [f.name for f in dataclasses.fields(settings) if f.name != 'workdir']
    )
    if (settings.workdir / settings.name / 'pretraining.json').exists():
        print(f'{settings.workdir / settings.name} is done')
        return
    tokenizer = make_tokenizer(settings)
    special = dict(zip(tokenizers.SPECIAL_TOKENS, tokenizer.convert_tokens_to_ids(list(tokenizers.SPECIAL_TOKENS))))
    end_of_text = special[tokenizers.END_OF_TEXT]
    model = Phi3(model_config(settings, len(tokenizer), end_of_text), rngs=nnx.Rngs(settings.seed))
    total = settings.num_blocks * settings.block_steps
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, settings.learning_rate, int(settings.warmup_share * total), total
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=settings.weight_decay)
    )
    graph, params = nnx.split(model)
    state = {'params': params, 'optimizer': optimizer.init(params)}
    print(
        f'{sum(p.size for p in jax.tree.leaves(params)):,} parameters, {total * settings.step_tokens:,} tokens',
        flush=True,
    )

    update = make_update(graph, optimizer)
    evaluate = Evaluation(graph, tokenizer)
    state, curve = restore(settings.workdir, state)
    for block in range(len(curve), settings.num_blocks):
        start, losses = time.perf_counter(), []
        for tokens_BL, weights_BL in block_batches(settings, tokenizer, block):
            state, loss = update(state, tokens_BL, weights_BL)
            losses.append(loss)
        train_loss = float(sum(losses)) / len(losses)
        seconds = time.perf_counter() - start
        curve.append({'tokens': (block + 1) * settings.block_steps * settings.step_tokens, 'train_loss': train_loss})
        curve[-1] |= {'seconds': seconds} | evaluate(state['params'])
        if block + 1 in settings.checkpoint_blocks():
            directory = settings.workdir / f'{settings.name}-{curve[-1]["tokens"]}'
            write_model(settings, nnx.merge(graph, state['params']), tokenizer, curve, directory)
        save(settings.workdir, state, curve)
        left = seconds * (settings.num_blocks - block - 1)
        print(f'block {block + 1}/{settings.num_blocks}, {left:.0f} s left: {_line(curve[-1])}', flush=True)
    finish(settings, nnx.merge(graph, state['params']), tokenizer, curve)


def model_config(settings: Settings, vocabulary_size: int, end_of_text: int = 0) -> Any:
    """Returns the configuration of the model, with the id of the token that ends and pads."""
    from metaft.phi3 import Phi3Config

    return Phi3Config(
        vocab_size=vocabulary_size,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        max_position_embeddings=settings.window,
        original_max_position_embeddings=settings.window,
        eos_token_id=end_of_text,
        pad_token_id=end_of_text,
    )


def make_tokenizer(settings: Settings) -> Any:
    from metaft.tasks import pretraining, tokenizer, transduction

    texts = pretraining.tokenizer_texts(random.Random(f'tokenizer {settings.seed}'), 20_000)
    if settings.transduction_share:
        own = transduction.documents(random.Random(f'tokenizer of two languages {settings.seed}'))
        texts = itertools.chain(texts, itertools.islice(own, round(20_000 * settings.transduction_share)))
    return tokenizer.train_tokenizer(texts, settings.vocabulary_size, settings.window)


def make_update(graph: Any, optimizer: Any) -> Any:
    """Returns the jitted `(state, tokens_BL, weights_BL) -> (state, loss)`; the state is donated."""
    import jax
    import optax
    from flax import nnx

    def loss_of(params, tokens_BL, weights_BL):
        logits_BLV = nnx.merge(graph, params)(tokens_BL[:, :-1])
        nll_BL = optax.softmax_cross_entropy_with_integer_labels(logits_BLV, tokens_BL[:, 1:])
        return (nll_BL * weights_BL[:, 1:]).sum() / weights_BL[:, 1:].sum()

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state, tokens_BL, weights_BL):
        loss, gradient = jax.value_and_grad(loss_of)(state['params'], tokens_BL, weights_BL)
        with jax.numpy_dtype_promotion('standard'):  # optax computes b ** count, a float to an int
            updates, moments = optimizer.update(gradient, state['optimizer'], state['params'])
        return {'params': optax.apply_updates(state['params'], updates), 'optimizer': moments}, loss

    return update


def block_batches(settings: Settings, tokenizer: Any, block: int) -> Any:
    """Yields the batches of one block; fixed by the seed and the block, so that a resumed run is the same."""
    from metaft.tasks import pretraining, transduction

    is_short = block < round(settings.short_share * settings.num_blocks)
    length = settings.short_row_length if is_short else settings.row_length
    batch = settings.step_tokens // length
    generator = random.Random(f'pretraining {settings.seed} {block}')
    source = transduction.mixed_documents(generator, settings.transduction_share)
    rows = pretraining.packed_rows(tokenizer, source, batch * settings.block_steps, length, settings.answer_weight)
    for step in range(settings.block_steps):
        yield tuple(array[step * batch : (step + 1) * batch] for array in rows)


class Evaluation:
    """Exact match of the answers to fresh documents, by kind, under teacher forcing."""

    def __init__(self, graph: Any, tokenizer: Any, num: int = 128) -> None:
        import jax
        import jax.numpy as jnp
        import numpy as np
        from flax import nnx

        from metaft.tasks import pretraining
        from metaft.tasks.tokenizer import ASSISTANT

        self.sets = {}
        assistant = tokenizer.convert_tokens_to_ids(ASSISTANT)
        probes = pretraining.probes(random.Random('pretraining probes'), num)
        encoded_probes = {
            kind: tokenizer(texts, add_special_tokens=False)['input_ids'] for kind, texts in probes.items()
        }
        shape = (num, max(len(ids) for encoded in encoded_probes.values() for ids in encoded))  # one compiled program
        for kind, encoded in encoded_probes.items():
            tokens_NL, answer_NL = np.zeros(shape, np.int32), np.zeros(shape, bool)
            for row, ids in enumerate(encoded):
                tokens_NL[row, : len(ids)] = ids
                answer_NL[row, ids.index(assistant) + 1 : len(ids)] = True
            self.sets[kind] = (tokens_NL, answer_NL)

        @jax.jit
        def exact_match(params, tokens_NL, answer_NL):
            found_NL = jnp.argmax(nnx.merge(graph, params)(tokens_NL[:, :-1]), axis=-1)
            return ((found_NL == tokens_NL[:, 1:]) | ~answer_NL[:, 1:]).all(axis=1).mean()

        self.exact_match = exact_match

    def __call__(self, params: Any) -> dict[str, float]:
        return {kind: float(self.exact_match(params, *arrays)) for kind, arrays in self.sets.items()}


def _line(point: dict[str, float]) -> str:
    return ' '.join(f'{name} {value:.3g}' for name, value in point.items())


def save(workdir: Path, state: Any, curve: list[dict[str, float]]) -> None:
    """Writes the curve and the state after a block; the previous block's state goes when the new one stands."""
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(
        workdir.absolute() / 'checkpoints', options=ocp.CheckpointManagerOptions(max_to_keep=1)
    ) as m:
        m.save(len(curve), args=ocp.args.StandardSave(state))
    (workdir / 'curve.jsonl').write_text(''.join(json.dumps(point) + '\n' for point in curve))


def restore(workdir: Path, state: Any) -> tuple[Any, list[dict[str, float]]]:
    """Returns state and curve as `save` left them, or the given state and no curve."""
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(workdir.absolute() / 'checkpoints') as manager:
        block = manager.latest_step()
        if block is None:
            return state, []
        state = manager.restore(block, args=ocp.args.StandardRestore(state))
    curve = [json.loads(line) for line in (workdir / 'curve.jsonl').read_text().splitlines()]
    return state, curve[:block]


def finish(settings: Settings, model: Any, tokenizer: Any, curve: list[dict[str, float]]) -> None:
    """Writes the model, and says where."""
    directory = settings.workdir / settings.name
    write_model(settings, model, tokenizer, curve, directory)
    print(f'{directory}: {_line(curve[-1])}')


def write_model(settings: Settings, model: Any, tokenizer: Any, curve: list[dict[str, float]], directory: Path) -> None:
    """Writes the Hugging Face directory with tokenizer and record."""
    from metaft import phi3

    phi3.save_pretrained(model, directory)
    tokenizer.save_pretrained(directory)
    implied = ('workdir', *(('name', *SIZES[settings.size]) if settings.size else ()))
    given = [f'--{f.name}={getattr(settings, f.name)}' for f in dataclasses.fields(settings)
             if f.name not in implied and getattr(settings, f.name) != f.default]  # fmt: skip
    record = {
        'command': ' '.join(['python -m experiments.pretrain', *given]),
        'date': datetime.now(UTC).date().isoformat(),
        'settings': {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings) if f.name != 'workdir'},
        'versions': program.versions(),
        'curve': [{name: round(value, 4) for name, value in point.items()} for point in curve],
    }
    program.write_json(directory / 'pretraining.json', record)


if __name__ == '__main__':
    program.run(main, Settings)
