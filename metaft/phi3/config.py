"""The shape of a Phi-3 and its reading from, and writing to, Hugging Face's `config.json`.

Reading is strict: an attribute that could change the computation and that `Phi3` does not implement is an error, for a
model that runs with an ignored attribute gives wrong logits without a word. Tensors are in `weights.py`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from metaft.errors import ModelError

# Bookkeeping that transformers 4 and 5 write and that does not change a forward pass.
_HARMLESS = frozenset(
    """
    _attn_implementation _name_or_path architectures attn_implementation auto_map bad_words_ids
    begin_suppress_tokens decoder_start_token_id diversity_penalty do_sample dtype early_stopping
    encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task forced_bos_token_id
    forced_eos_token_id id2label label2id length_penalty max_length min_length model_type
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions
    output_hidden_states output_scores prefix problem_type remove_invalid_values repetition_penalty
    return_dict return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature
    tf_legacy_loss tokenizer_class top_k top_p torch_dtype torchscript transformers_version typical_p
    use_bfloat16 use_cache
    """.split()
)

# Attributes that other models of the family use; Phi-3 is what comes out at these values only. None counts as absent.
_ONLY_VALUE = {
    'hidden_act': 'silu',
    'attention_bias': False,
    'mlp_bias': False,
    'lm_head_bias': False,
    'resid_pdrop': 0.0,
    'embd_pdrop': 0.0,
    'attention_dropout': 0.0,
    'chunk_size_feed_forward': 0,
    'full_attn_mod': 1,
    'interpolate_factor': 1,
    'is_decoder': False,
    'is_encoder_decoder': False,
    'add_cross_attention': False,
    'cross_attention_hidden_size': None,
    'tie_encoder_decoder': False,
    'pruned_heads': {},
}

_ROPE_KEYS = ('rope_theta', 'rope_scaling', 'rope_parameters', 'partial_rotary_factor')
_REQUIRED = ('vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads')
# What transformers takes where config.json is silent and `Phi3Config` has another default.
_HF_DEFAULTS = {'bos_token_id': 1, 'eos_token_id': 32000, 'pad_token_id': 32000}


@dataclasses.dataclass(frozen=True)
class LongRope:
    """Per-frequency factors of longrope, `rotary size / 2` numbers each; empty where a preset does not know them.

    Reference: Ding et al., LongRoPE (arXiv 2402.13753).
    """

    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    attention_factor: float | None = None  # None: sqrt(1 + ln(max / original) / ln(original))


@dataclasses.dataclass(frozen=True)
class Phi3Config:
    """Hyperparameters of a Phi-3, with Hugging Face's names.

    Raises:
      ModelError: if the sizes contradict each other; the message lists every contradiction.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None  # None: as many as query heads
    max_position_embeddings: int = 4096
    original_max_position_embeddings: int = 4096  # longrope switches factors beyond this length
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: LongRope | None = None
    partial_rotary_factor: float = 1.0  # share of the head size that is rotated
    sliding_window: int | None = None  # a query sees keys at distance < sliding_window; None: all before it
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        if self.num_key_value_heads is None:
            object.__setattr__(self, 'num_key_value_heads', self.num_attention_heads)
        problems = _contradictions(self)
        if problems:
            raise ModelError('this Phi-3 configuration contradicts itself: ' + '; '.join(problems) + '.')

    @property
    def head_dim(self) -> int:
        """Size H of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def rotary_dim(self) -> int:
        """How many of the H entries of a head are rotated."""
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def kv_heads(self) -> int:
        """Number K of key and value heads."""
        assert self.num_key_value_heads is not None  # set in __post_init__
        return self.num_key_value_heads

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> 'Phi3Config':
        """Reads the contents of a `config.json`, as published or as transformers 4 or 5 write it.

        Raises:
          ModelError: another model type, a missing size, or attributes that would change the computation (all listed).
        """
        model_type = values.get('model_type')
        architectures = ' '.join(values.get('architectures') or ())
        if model_type == 'phi3small' or 'Phi3Small' in architectures:
            raise ModelError(
                'the model is Phi-3-small, another architecture (block-sparse attention, LayerNorm); metaft runs Phi-3 '
                'mini and medium, Phi-3.5-mini, Phi-4 and Phi-4-mini.'
            )
        if model_type != 'phi3':
            raise ModelError(f"config.json has model_type {model_type!r}; metaft runs 'phi3' only.")
        missing = [name for name in _REQUIRED if name not in values]
        if missing:
            raise ModelError(f'config.json lacks {", ".join(missing)}.')
        fields = {field.name for field in dataclasses.fields(cls)}
        known = {**_HF_DEFAULTS, **{k: v for k, v in values.items() if k in fields and k not in _ROPE_KEYS}}
        if isinstance(known['eos_token_id'], list):
            known['eos_token_id'] = tuple(known['eos_token_id'])
        rope, unknown = _read_rope(values)
        known.update(rope)
        unknown += _unknown_attributes(values, fields)
        if unknown:
            raise ModelError(
                f'config.json has attributes that would change the computation and that metaft does not implement: '
                f'{", ".join(sorted(unknown))}.'
            )
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Returns the contents of a `config.json` that transformers 4 and 5 and `from_dict` read."""
        values = {'architectures': ['Phi3ForCausalLM'], 'model_type': 'phi3', **dataclasses.asdict(self)}
        if self.rope_scaling is not None:
            scaling: dict[str, Any] = {
                'type': 'longrope',
                'short_factor': list(self.rope_scaling.short_factor),
                'long_factor': list(self.rope_scaling.long_factor),
            }
            if self.rope_scaling.attention_factor is not None:
                scaling['attention_factor'] = self.rope_scaling.attention_factor
            values['rope_scaling'] = scaling
        if isinstance(self.eos_token_id, tuple):
            values['eos_token_id'] = list(self.eos_token_id)
        return {**values, 'hidden_act': 'silu', 'attention_dropout': 0.0, 'embd_pdrop': 0.0, 'resid_pdrop': 0.0}


def _read_rope(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Joins transformers 4's three attributes and 5's `rope_parameters`; returns fields and unknown names."""
    scaling = {**(values.get('rope_scaling') or {}), **(values.get('rope_parameters') or {})}
    found = {
        name: scaling.pop(name, values.get(name, default))
        for name, default in (('rope_theta', 10000.0), ('partial_rotary_factor', 1.0))
    }
    kind = scaling.pop('rope_type', scaling.get('type', 'default'))
    scaling.pop('type', None)
    # transformers lets the attribute of the same name at the top level win; this copy says nothing new.
    original = scaling.pop('original_max_position_embeddings', None)
    if original is not None and 'original_max_position_embeddings' not in values:
        found['original_max_position_embeddings'] = original
    if kind in ('longrope', 'su'):
        factors = {name: tuple(scaling.pop(name, None) or ()) for name in ('short_factor', 'long_factor')}
        if not all(factors.values()):
            raise ModelError('config.json asks for longrope without short_factor and long_factor.')
        found['rope_scaling'] = LongRope(**factors, attention_factor=scaling.pop('attention_factor', None))
        lengths = {**values, **found}
        if scaling.get('factor') == lengths.get('max_position_embeddings', 4096) / lengths.get(
            'original_max_position_embeddings', 4096
        ):
            del scaling['factor']  # says again what the two lengths say
    elif kind != 'default':
        scaling['rope_type'] = kind
    return found, [f'rope_parameters.{name}={value!r}' for name, value in scaling.items()]


def _unknown_attributes(values: Mapping[str, Any], fields: set[str]) -> list[str]:
    unknown = []
    for name, value in values.items():
        if name in fields or name in _HARMLESS or name in _ROPE_KEYS or value is None:
            continue
        if name == 'head_dim':
            if value * values['num_attention_heads'] != values['hidden_size']:
                unknown.append(f'head_dim={value!r}')
        elif name not in _ONLY_VALUE or value != _ONLY_VALUE[name]:
            unknown.append(f'{name}={value!r}')
    return unknown


def _contradictions(config: Phi3Config) -> list[str]:
    sizes = ('vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads')
    sizes += ('num_key_value_heads', 'max_position_embeddings', 'original_max_position_embeddings', 'sliding_window')
    problems = []
    for name in sizes:
        value = getattr(config, name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            problems.append(f'{name} is {value!r} and must be a positive integer')
    if problems:
        return problems
    heads, kv_heads = config.num_attention_heads, config.kv_heads
    if config.hidden_size % heads:
        problems.append(f'hidden_size {config.hidden_size} is no multiple of {heads} attention heads')
    if heads % kv_heads:
        problems.append(f'{heads} attention heads are no multiple of {kv_heads} key-value heads')
    if not 0 < config.rotary_dim <= config.head_dim or config.rotary_dim % 2:
        problems.append(f'{config.rotary_dim} of {config.head_dim} head entries are rotated; an even number is needed')
    for name in ('short_factor', 'long_factor'):
        factors = getattr(config.rope_scaling, name, ())
        if factors and len(factors) != config.rotary_dim // 2:
            problems.append(f'{name} has {len(factors)} numbers where {config.rotary_dim // 2} are needed')
    ids = config.eos_token_id if isinstance(config.eos_token_id, tuple) else (config.eos_token_id,)
    for token in (config.bos_token_id, config.pad_token_id, *ids):
        if token is not None and not 0 <= token < config.vocab_size:
            problems.append(f'token id {token} lies outside of the vocabulary of {config.vocab_size}')
    return problems
