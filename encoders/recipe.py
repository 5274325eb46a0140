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
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
_KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")
_SANE_LENGTH = 1_000_000  # tokenizers without a limit write 1e30
_E5 = re.compile(r"(^|[-_])e5-(small|base|large)", re.IGNORECASE)


@dataclass(frozen=True)
class Recipe:
    """What the folder says. `limit`: the most tokens the model can read."""

    model_type: str
    pooling: Pooling
    prefix: str
    limit: int
    config: dict[str, Any]


def read(folder: Path, name: str) -> Recipe:
    """Return the recipe of a model's folder; `name` tells an E5 model that does not say its prefix. Raises EncoderError."""
    config = _json(folder / "config.json")
    if not config:
        raise EncoderError(
            f"encoder {name!r}: {folder} has no config.json: give the folder of a model that transformers can load"
        )
    if config.get("is_encoder_decoder"):
        raise EncoderError(
            f"encoder {name!r} is an encoder-decoder ({config.get('model_type')}): choose an encoder or a decoder"
        )
    for module in _json(folder / "modules.json") or ():
        if module["type"].rpartition(".")[2] not in _KNOWN_MODULES:
            raise EncoderError(
                f"encoder {name!r} has a {module['type']} module, which is not built in: choose a model without one"
            )
    model_type = str(config.get("model_type", ""))
    return Recipe(model_type, _pooling(folder, name, model_type), _prefix(folder, name), _limit(folder, config), config)


def _json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def _pooling(folder: Path, name: str, model_type: str) -> Pooling:
    said = _json(folder / "1_Pooling/config.json")
    if not said:
        return "last" if _is_decoder(model_type) else "mean"
    modes = [mode for mode, on in said.items() if mode.startswith("pooling_mode") and on is True]
    modes = modes or [f"pooling_mode_{said.get('pooling_mode')}"]
    if len(modes) != 1 or modes[0] not in _POOLING:
        raise EncoderError(
            f"encoder {name!r} pools by {', '.join(modes)}, but mean, cls or last token alone is built in: choose another"
        )
    return _POOLING[modes[0]]


def _is_decoder(model_type: str) -> bool:
    """Say whether a model reads from left to right: transformers gives such a type a causal head and no masked one."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _prefix(folder: Path, name: str) -> str:
    """Return what goes before each text. Texts of users and of items are compared with each other, so both get the same one."""
    said = _json(folder / "config_sentence_transformers.json")
    prompts = said.get("prompts") or {}
    chosen = said.get("default_prompt_name") or "query"
    if chosen in prompts:
        return str(prompts[chosen])
    return "query: " if _E5.search(name) and "instruct" not in name.lower() else ""


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
