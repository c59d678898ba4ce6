"""The tokenizer of a student: what stands in a text is text, padding always exists, and it fits the model.

Texts may spell a special token of the model (``</s>``, ``[SEP]``, ``<|endoftext|>``), as scraped chats and texts about
language models do. The model's own parts read special tokens as the ends of texts, so none may come from a text.
"""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import normalizers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from s3ray.config.job import StudentConfig
from s3ray.errors import InputError
from s3ray.models import make_tokenizer_portable
from s3ray.tasks import Task

_NUM_READ_APART = 2
"""Models read at most a pair of texts; further ones are joined to the second with the separator, a special token."""


def load_tokenizer(folder: str | Path, config: StudentConfig, task: Task) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model; special tokens within texts are read as text, also by whoever loads it saved.

    With more than two texts a row the separator between them must be read as the special token that it is: then
    ``encode`` takes care of the texts.

    Raises:
        InputError: it is not a fast one.
    """
    splits = len(task.fields) <= _NUM_READ_APART
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=config.trust_remote_code, split_special_tokens=splits
    )
    if not tokenizer.is_fast:
        hint = "Choose a model that comes with tokenizer.json."
        raise InputError("has no fast tokenizer", field="student.model", value=config.model, hint=hint)
    tokenizer.padding_side = "right"
    tokenizer.model_max_length = config.max_length  # saved with it: whoever uses the student cuts texts as training did
    return tokenizer


def fit_to_model(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, name: str) -> None:
    """Give the tokenizer a padding token, and keep from the model what it cannot read; ``name`` is the model's.

    Raises:
        InputError: the tokenizer has tokens that the model does not know.
    """
    num_known = _num_known(model)
    _choose_padding(tokenizer, num_known)
    unknown = sorted(_tokens_beyond(tokenizer, num_known))
    if unknown:
        raise InputError(
            f"reads {num_known} tokens, and its tokenizer has others beyond them ({', '.join(unknown[:3])})",
            field="student.model",
            value=name,
            hint="Use the tokenizer that belongs to the model, or call `model.resize_token_embeddings(len(tokenizer))` "
            "and save both.",
        )
    model.config.get_text_config().pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id
    if tokenizer.split_special_tokens:
        _hide_special_tokens(tokenizer)
    takes = inspect.signature(model.forward).parameters
    if "token_type_ids" not in takes or getattr(model.config, "type_vocab_size", None) == 1:
        names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
        if names != tokenizer.model_input_names:
            tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names


def text_only(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The text with a blank within whatever the tokenizer would take for a special token."""
    for token in _special_tokens(tokenizer):
        text = text.replace(token, _broken(token))
    return text


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save it so that every version of transformers reads texts as this one does."""
    tokenizer.save_pretrained(folder)
    make_tokenizer_portable(folder)
    normalizer = json.loads(tokenizer.backend_tokenizer.to_str())["normalizer"] or {}
    contents = {each.get("content") for each in normalizer.get("normalizers", [])}
    if contents & {_broken(token) for token in _special_tokens(tokenizer)}:
        # Classes of single models make their normalizer anew; this one takes what is in tokenizer.json.
        path = folder / "tokenizer_config.json"
        names = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": tokenizer.model_input_names}
        settings = json.loads(path.read_text(encoding="utf-8")) | names
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")


def _num_known(model: PreTrainedModel) -> int:
    """How many tokens the model has an embedding for."""
    try:
        weight = model.get_input_embeddings().weight
    except (AttributeError, NotImplementedError):
        weight = None
    # Some models embed tokens in another way than by a table.
    return len(weight) if isinstance(weight, Tensor) else int(model.config.get_text_config().vocab_size)


def _choose_padding(tokenizer: PreTrainedTokenizerBase, num_known: int) -> None:
    """Any token will do, since padding is masked; one that no text contains is best."""
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id < num_known:
        return
    candidates = (tokenizer.eos_token_id, *tokenizer.all_special_ids, min(num_known, len(tokenizer)) - 1)
    chosen = next(place for place in candidates if place is not None and place < num_known)
    tokenizer.pad_token = str(tokenizer.convert_ids_to_tokens(chosen))


def _tokens_beyond(tokenizer: PreTrainedTokenizerBase, num_known: int) -> Iterator[str]:
    """The tokens that some input could contain and the model has no embedding for."""
    special = {place for place, token in tokenizer.added_tokens_decoder.items() if token.special}
    never = special - set(tokenizer("a", "a")["input_ids"]) - {tokenizer.pad_token_id}
    for token, place in tokenizer.get_vocab().items():
        if place >= num_known and place not in never:
            yield token


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """The special tokens whose ids no text may produce; the unknown token means nothing else."""
    for token in tokenizer.all_special_tokens:
        if token != tokenizer.unk_token and len(token) > 1:
            yield token


def _broken(token: str) -> str:
    return f"{token[0]} {token[1:]}"


def _hide_special_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Break up the special tokens that are in the vocabulary of texts, too, as those of SentencePiece models are.

    ``split_special_tokens`` alone only leaves them to that vocabulary.
    """
    seen = [token for token in _special_tokens(tokenizer) if _is_read(tokenizer, token)]
    if seen:
        backend = tokenizer.backend_tokenizer
        breaks = [normalizers.Replace(token, _broken(token)) for token in seen]
        earlier = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([*earlier, *breaks])


def _is_read(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    ids = tokenizer(f"a {token} a{token}a", add_special_tokens=False)["input_ids"]
    return tokenizer.convert_tokens_to_ids(token) in ids
