"""Write a model that has learnt as a folder: Hugging Face's layout, and sentence-transformers' files of pooling and prefix.

Knows nothing of how it learnt. The tokenizer's files are those of the folder that the model came from, byte for byte; what is
written is read again by `recipe.read` with the same pooling, prefix and length.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from encoders import EncoderError, padded
from encoders.recipe import Recipe

REPORT = "report.json"
_KEPT = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model", "sentencepiece*")
_MODULES = (("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2_Normalize", "Normalize"))
_MODES = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken"}


def refuse(folder: Path) -> None:
    """Raise EncoderError when something is there already."""
    if folder.exists():
        raise EncoderError(f"{folder} is there already: give another --out, or take it away")


def write(model: Any, source: Path, how: Recipe, folder: Path, report: Mapping[str, object], *, is_encoder: bool) -> None:
    """Write a plain model; is_encoder: with what sentence-transformers reads. The folder is whole or not there.

    Raises EncoderError when it is there already.
    """
    refuse(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, rate in _rates(how.config).items():
            setattr(model.config, name, rate)
        with padded.quiet():
            model.save_pretrained(scratch)
        for pattern in _KEPT:
            for path in source.glob(pattern):
                shutil.copyfile(path, scratch / path.name)
        if is_encoder:
            _sentence_transformers(scratch, how, int(model.config.get_text_config().hidden_size))
        _json(scratch / REPORT, report)
        scratch.chmod(0o755)  # mkdtemp makes it 0700, and safetensors its file 0600: workers may be of another user
        for path in scratch.glob("*.safetensors"):
            path.chmod(0o644)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _rates(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the dropout that the model came with: it was off while it learnt."""
    return {name: value for name, value in config.items() if "drop" in name and isinstance(value, float)}


def _sentence_transformers(folder: Path, how: Recipe, dim: int) -> None:
    modules = [
        {"idx": int(number), "name": number, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, path, kind in _MODULES
    ]
    _json(folder / "modules.json", modules)
    _json(folder / "sentence_bert_config.json", {"max_seq_length": how.limit, "do_lower_case": how.lower})
    _json(folder / "config_sentence_transformers.json", {"prompts": {"query": how.prefix}, "default_prompt_name": "query"})
    modes = {mode: name == how.pooling for name, mode in _MODES.items()}
    _json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": dim, **modes})
    (folder / "2_Normalize").mkdir()


def _json(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
