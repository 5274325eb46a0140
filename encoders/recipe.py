"""How a model's folder wants to be read: pooling, prefix, length, architecture.

Knows the files that Hugging Face and sentence-transformers write, and nothing of tensors. What a folder asks for and this
package cannot do is an error, never left out in silence.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from encoders import EncoderError

Pooling = Literal["mean", "cls", "last"]
_POOLING: dict[str, Pooling] = {
    "mean_tokens": "mean",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean",  # the same direction, of another length
    "cls_token": "cls",
    "cls": "cls",
    "lasttoken": "last",
}
_KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")
_SANE_LENGTH = 1_000_000  # tokenizers without a limit write 1e30
_ALIKE = ("STS", "sts", "sts_query")  # prompts for comparing texts with their like: of EmbeddingGemma, of e5-mistral
_DOCUMENTS = ("document", "passage", "corpus")
_E5 = re.compile(r"(^|[-_])e5-(small|base|large)", re.IGNORECASE)


@dataclass(frozen=True)
class Recipe:
    """What the folder says. `limit`: the most tokens the model can read; `lower`: whether texts are put in lower case."""

    model_type: str
    pooling: Pooling
    prefix: str
    limit: int
    config: dict[str, Any]
    lower: bool = False


def read(folder: Path, name: str, *, can_encode: bool = True) -> Recipe:
    """Return the recipe of a model's folder; `name` tells an E5 model that does not say its prefix. Raises EncoderError.

    can_encode: whether its vectors are wanted, which a cross-encoder does not have.
    """
    config = _json(folder / "config.json")
    if not config:
        raise EncoderError(
            f"encoder {name!r}: {folder} has no config.json: give the folder of a model that transformers can load"
        )
    if config.get("is_encoder_decoder"):
        raise EncoderError(
            f"encoder {name!r} is an encoder-decoder ({config.get('model_type')}): choose an encoder or a decoder"
        )
    if can_encode and any(str(each).endswith("ForSequenceClassification") for each in config.get("architectures") or ()):
        raise EncoderError(
            f"encoder {name!r} is a cross-encoder, which reads pairs: use it with `headrace rerank --model {folder}`"
        )
    for module in _json(folder / "modules.json") or ():
        if module["type"].rpartition(".")[2] not in _KNOWN_MODULES:
            raise EncoderError(
                f"encoder {name!r} has a {module['type']} module, which is not built in: choose a model without one"
            )
    model_type, prefix = str(config.get("model_type", "")), _prefix(folder, name)
    lower = bool(_json(folder / "sentence_bert_config.json").get("do_lower_case"))
    return Recipe(model_type, _pooling(folder, name, model_type, prefix), prefix, _limit(folder, config), config, lower)


def _json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def _pooling(folder: Path, name: str, model_type: str, prefix: str) -> Pooling:
    said = _json(folder / "1_Pooling/config.json")
    if not said:
        return "last" if _is_decoder(model_type) else "mean"
    modes = _modes(said)
    if len(modes) != 1 or modes[0] not in _POOLING:
        raise EncoderError(
            f"encoder {name!r} pools by {', '.join(modes)}, but mean, cls or last token alone is built in: choose another"
        )
    pooling = _POOLING[modes[0]]
    if prefix and pooling == "mean" and said.get("include_prompt") is False:
        raise EncoderError(
            f"encoder {name!r} leaves its prefix {prefix!r} out of the mean (include_prompt in 1_Pooling/config.json), "
            "which is not built in: choose another"
        )
    return pooling


def _modes(said: dict[str, Any]) -> list[str]:
    """Return the poolings that are asked for: one name or a list of them, or, in older files, a switch for each."""
    if named := said.get("pooling_mode"):
        return [named] if isinstance(named, str) else [str(each) for each in named]
    return [key.removeprefix("pooling_mode_") for key, on in said.items() if key.startswith("pooling_mode_") and on is True]


def _is_decoder(model_type: str) -> bool:
    """Say whether a model reads from left to right: transformers gives such a type a causal head and no masked one."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _prefix(folder: Path, name: str) -> str:
    """Return what goes before each text. Raises EncoderError for a default that is not among the prompts.

    One for all: a user's vector is a sum of vectors of words and of items, and is compared with items', so all must lie where
    texts are compared with their like. In this order: the prompt that the model takes by default; one for comparing texts with
    their like; none where it is how the model reads documents, as Qwen3-Embedding, whose instruction only searches get; the
    queries', as E5, whose cards ask for `query: ` on both sides of such comparisons.
    """
    said = _json(folder / "config_sentence_transformers.json")
    prompts = {str(key): str(prompt) for key, prompt in (said.get("prompts") or {}).items()}
    if default := said.get("default_prompt_name"):
        if default not in prompts:
            raise EncoderError(
                f"encoder {name!r} takes the prompt {default!r} by default, but has {', '.join(prompts) or 'none'}: "
                "name one of them in config_sentence_transformers.json"
            )
        return prompts[default]
    if alike := next((prompts[key] for key in _ALIKE if key in prompts), ""):
        return alike
    if not any(prompts.values()):  # sentence-transformers writes empty ones where a model says nothing
        return "query: " if _E5.search(name) and "instruct" not in name.lower() else ""
    if any(prompts.get(key) == "" for key in _DOCUMENTS):
        return ""
    return prompts.get("query", "")


def _limit(folder: Path, config: dict[str, Any]) -> int:
    said = (
        _json(folder / "sentence_bert_config.json").get("max_seq_length"),
        _json(folder / "tokenizer_config.json").get("model_max_length"),
        config.get("max_position_embeddings"),
        config.get("n_positions"),
    )
    return min((int(limit) for limit in said if limit and limit < _SANE_LENGTH), default=_SANE_LENGTH)


def fingerprint(folder: Path, name: str) -> str:
    """Return eight hexadecimal digits that name the weights and the tokenizer of a folder. Raises EncoderError."""
    files = [*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("tokenizer.json"))]
    if not any(file.suffix == ".safetensors" for file in files):
        raise EncoderError(f"encoder {name!r}: {folder} has no *.safetensors: save the model with save_pretrained first")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:8]
