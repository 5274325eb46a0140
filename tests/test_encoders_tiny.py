"""The transformer path over tiny models with random weights, made on the spot: BERT-style by mean or first token, GPT-style."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract import EncoderContract
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.overrides import TorchFunctionMode

import encoders
from encoders import Encoder, EncoderError, centring, compact, graphs, padded, recipe, transformer
from encoders.transformer import TransformerEncoder

WORDS = [
    "<s>",
    "<pad>",
    "</s>",
    "<unk>",
    "the",
    "cat",
    "sat",
    "on",
    "mat",
    "coffee",
    "tea",
    "beans",
    "news",
    "sport",
    "jazz",
    *"咖啡茶豆新闻体育",
]
COMMON = {"vocab_size": len(WORDS), "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "initializer_range": 0.4}
BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
}
# Tokens around a text, of those models that have them. Embedding models of the GPT kind read the end token that they add.
BOTH = "<s> $A </s>"
ENDS = {"bert": BOTH, "bert-cls": BOTH, "xlm-roberta": BOTH, "qwen3": "$A </s>", "mistral": BOTH}
HOW = {
    "bert": "mean",
    "bert-cls": "cls",
    "xlm-roberta": "mean",
    "gpt2": "last",
    "llama": "last",
    "qwen3": "last",
    "mistral": "last",
}
TEXTS = [
    "coffee beans",
    "",
    "the cat sat on the mat",
    "咖 啡",
    "jazz " * 500,
    "the",
    "unknown words here",
    "tea news sport " * 9,
]


def make_folder(folder: Path, kind: str, seed: int = 0, **changes: object) -> Path:
    """Save a model of random weights with a tokenizer of a few words."""
    import transformers

    torch.manual_seed(seed)
    configs: dict[str, Callable[..., Any]] = {
        "bert": lambda **given: transformers.BertConfig(**BERT, **given),
        "xlm-roberta": lambda **given: transformers.XLMRobertaConfig(**BERT, type_vocab_size=1, **given),
        "gpt2": lambda **given: transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **given),
        "llama": lambda **given: transformers.LlamaConfig(**BERT, **given),
        "qwen3": lambda **given: transformers.Qwen3Config(**BERT, num_key_value_heads=2, head_dim=8, **given),
        "mistral": lambda **given: transformers.MistralConfig(**BERT, num_key_value_heads=2, **given),
        "t5": lambda **given: transformers.T5Config(d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8, **given),
    }
    transformers.AutoModel.from_config(configs[kind.removesuffix("-cls")](**COMMON, **changes)).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if kind in ENDS:
        tokenizer.post_processor = processors.TemplateProcessing(single=ENDS[kind], special_tokens=[("<s>", 0), ("</s>", 2)])
    if kind == "bert-cls":
        pool_by(folder, pooling_mode_cls_token=True)
    elif kind in ("qwen3", "mistral"):
        pool_by(folder, pooling_mode_lasttoken=True, pooling_mode_mean_tokens=False)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder per kind of model."""
    at = tmp_path_factory.mktemp("tiny")
    return {kind: make_folder(at / f"tiny-{kind}", kind) for kind in HOW}


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Encoder]:
    """One encoder per kind of model, centred, and the one without weights."""
    cache = tmp_path_factory.mktemp("cache")
    return {kind: load(folder, cache) for kind, folder in folders.items()} | {"hashing": encoders.load("hashing", cache=cache)}


@pytest.fixture(params=[*HOW, "hashing"])
def encoder(request: pytest.FixtureRequest, loaded: dict[str, Encoder]) -> Encoder:
    """Each of them, one after the other."""
    return loaded[request.param]


class TestEveryFamily(EncoderContract):
    """The contract, for every kind of model behind the one Protocol."""

    def test_a_copied_folder_is_the_same_encoder(
        self, encoder: Encoder, loaded: dict[str, Encoder], folders: dict[str, Path], tmp_path: Path
    ) -> None:
        """The id names the content, not the place: the same weights elsewhere give the same id and the same vectors."""
        kind = next(kind for kind, each in loaded.items() if each is encoder)
        if kind == "hashing":
            again = encoders.load("hashing", cache=tmp_path)
        else:
            again = load(shutil.copytree(folders[kind], tmp_path / folders[kind].name), tmp_path)
        assert again.id == encoder.id
        np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))

    def test_a_changed_weight_changes_the_id(
        self, encoder: Encoder, loaded: dict[str, Encoder], folders: dict[str, Path]
    ) -> None:
        """One number in one tensor is another encoder; so is another width of the one without weights."""
        kind = next(kind for kind, each in loaded.items() if each is encoder)
        if kind == "hashing":
            assert encoders.load("hashing:257", cache=folders["bert"]).id != encoder.id
            return
        digest = recipe.fingerprint(folders[kind], kind)
        assert digest in encoder.id
        weights = folders[kind] / "model.safetensors"
        whole = weights.read_bytes()
        try:
            weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
            assert recipe.fingerprint(folders[kind], kind) != digest
        finally:
            weights.write_bytes(whole)


def load(folder: Path, cache: Path, **given: Any) -> TransformerEncoder:
    """Load a folder in float32."""
    encoder = encoders.load(str(folder), cache=cache, **({"dtype": "float32", "max_tokens": 40} | given))
    assert isinstance(encoder, TransformerEncoder)
    return encoder


def by_transformers(folder: Path, texts: list[str], how: str) -> np.ndarray:
    """Return the vectors that transformers gives for one text at a time, nothing padded: what every other way must equal."""
    import transformers

    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=40)["input_ids"] or [0]
        with torch.inference_mode():
            states = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        row = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[how]
        rows.append((row / row.norm()).numpy())
    return np.stack(rows)


@pytest.mark.parametrize(("kind", "how"), HOW.items())
def test_a_batch_equals_transformers_one_text_at_a_time(folders: dict[str, Path], kind: str, how: str, tmp_path: Path) -> None:
    """Sorting, sharing rows, padding and pooling change no vector and no order, for empty and too long texts too."""
    ours = load(folders[kind], tmp_path, centre=False).encode(TEXTS)
    np.testing.assert_allclose(ours, by_transformers(folders[kind], TEXTS, how), atol=2e-5)


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("mode", ["mean", "cls"])
def test_the_compact_forward_equals_transformers(
    folders: dict[str, Path], kind: str, packing: bool, mode: str, tmp_path: Path
) -> None:
    """Both of its linear layers and both poolings give transformers' numbers."""
    folder = shutil.copytree(folders[kind], tmp_path / "copy")
    pool_by(folder, pooling_mode_mean_tokens=mode == "mean", pooling_mode_cls_token=mode == "cls")
    how = recipe.read(folder, kind)
    tensors = dict(compact._tensors(folder))
    engine = compact.Compact(tensors, how, torch.float32, packing=packing)
    encoder = TransformerEncoder(engine, Tokenizer.from_file(str(folder / "tokenizer.json")), "", 40)
    np.testing.assert_allclose(encoder.encode(TEXTS), by_transformers(folder, TEXTS, mode), atol=2e-5)


@pytest.mark.parametrize(("kind", "engine"), [("bert", compact.Compact), ("llama", padded.Padded)])
def test_the_engine_follows_from_the_architecture(folders: dict[str, Path], kind: str, engine: type, tmp_path: Path) -> None:
    """BERT takes the compact forward pass, any other model transformers' own."""
    assert isinstance(load(folders[kind], tmp_path)._engine, engine)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("kind", "beside"), [("bert", True), ("llama", False)])
def test_calls_of_a_batch_run_beside_each_other(
    folders: dict[str, Path], kind: str, beside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two threads the compact pass takes calls in threads of one each, without gradients; the vectors are those of one."""
    encoder, alone = (load(folders[kind], tmp_path, threads=threads) for threads in (2, 1))
    made = encoder._engine.vectors
    seen: list[tuple[str, int, bool]] = []

    def vectors(arranged: Any) -> torch.Tensor:
        pooled = made(arranged)
        seen.append((threading.current_thread().name.split("_")[0], torch.get_num_threads(), pooled.is_inference()))
        return pooled

    monkeypatch.setattr(encoder._engine, "vectors", vectors)
    np.testing.assert_allclose(encoder.encode(TEXTS * 5), alone.encode(TEXTS * 5), atol=1e-6)
    assert set(seen) == {("encode", 1, True) if beside else ("MainThread", 2, True)}
    assert (len(seen) > 1) == beside


@pytest.mark.parametrize("change", [{"hidden_act": "relu"}, {"is_decoder": True}])
def test_a_bert_with_other_parts_goes_through_transformers(change: dict[str, object], tmp_path: Path) -> None:
    """What the compact pass does not compute is left to transformers, with the same numbers."""
    folder = make_folder(tmp_path / "other", "bert", **change)
    encoder = load(folder, tmp_path, centre=False)
    assert isinstance(encoder._engine, padded.Padded)
    np.testing.assert_allclose(encoder.encode(TEXTS), by_transformers(folder, TEXTS, "mean"), atol=2e-5)


def test_weights_saved_with_a_head_are_the_same_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    """A checkpoint whose tensors bear the prefix `bert.`, as those with a head do, gives the same vectors."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(folders["bert"], tmp_path / "headed")
    tensors = load_file(folder / "model.safetensors")
    save_file({f"bert.{name}": tensor for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    np.testing.assert_array_equal(
        load(folder, tmp_path, centre=False).encode(TEXTS), load(folders["bert"], tmp_path, centre=False).encode(TEXTS)
    )


@pytest.mark.parametrize("kind", ["qwen3", "mistral"])
def test_pads_on_the_right_equal_pads_on_the_left(folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    """Models read by their last token are documented with pads on the left: ours, on the right, gives those vectors."""
    import transformers

    model = transformers.AutoModel.from_pretrained(folders[kind]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[kind], padding_side="left")
    some = [text for text in TEXTS if len(text) < 100]
    with torch.inference_mode():
        states = model(**tokenizer(some, padding=True, return_tensors="pt", return_token_type_ids=False)).last_hidden_state
    left = states[:, -1].numpy()
    left /= np.linalg.norm(left, axis=1, keepdims=True)
    np.testing.assert_allclose(load(folders[kind], tmp_path, centre=False).encode(some), left, atol=2e-5)


@pytest.mark.parametrize("kind", ["qwen3", "bert-cls"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_a_gpu_would_do_gives_the_same_vectors(folders: dict[str, Path], kind: str, dtype: torch.dtype) -> None:
    """A GPU's slices, formats and copies, acted out on the CPU: every tensor is pinned before it is copied, rows are the same.

    What a GPU alone can show, that the copies are not waited for, is not shown.
    """
    pinned: list[torch.Tensor] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor)
        return tensor

    how = recipe.read(folders[kind], kind)
    gpu = padded.place("cuda:0")
    assert gpu.pin is torch.Tensor.pin_memory
    acted = padded.load(folders[kind], kind, how, "cpu", dtype)
    acted._at = dataclasses.replace(gpu, device=torch.device("cpu"), pin=pin)
    exact = padded.load(folders[kind], kind, how, "cpu", torch.float32)
    tokenizer = transformer._tokenizer(folders[kind], kind, how)
    ours, expected = (TransformerEncoder(engine, tokenizer, "", 40) for engine in (acted, exact))
    assert (np.einsum("nd,nd->n", ours.encode(TEXTS), expected.encode(TEXTS)) > 0.999).all()
    batch = ours.pre(TEXTS)
    assert [tensor.shape for call in batch.calls for each in call for tensor in each] == [each.shape for each in pinned[-2:]]
    assert sum(len(call) for call in batch.calls) < sum(len(call) for call in expected.pre(TEXTS).calls)


class Acted:
    """A recorder on a CPU: what is replayed reads and writes where it was recorded, and the outputs of all others are lost."""

    def __init__(self) -> None:
        self.outputs: list[torch.Tensor] = []
        self.replayed: list[tuple[int, ...]] = []

    def record(self, run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        made = run().clone()
        self.outputs.append(made)

        def replay() -> torch.Tensor:
            for output in self.outputs:
                output.fill_(np.nan)
            self.replayed.append(tuple(made.shape))
            return made.copy_(run())

        return replay


def acted_out(folder: Path, kind: str) -> tuple[TransformerEncoder, Acted]:
    """Return an encoder whose small slices are recorded, and what records them."""
    recorder, how = Acted(), recipe.read(folder, kind)
    plain = padded.load(folder, kind, how, "cpu", torch.float32)
    place = dataclasses.replace(padded.place("cpu"), recorder=recorder)
    engine = padded.Padded(plain._model, place, how.pooling)
    return TransformerEncoder(engine, transformer._tokenizer(folder, kind, how), "", 40), recorder


@pytest.mark.parametrize("kind", ["bert", "bert-cls", "qwen3"])
def test_what_is_replayed_gives_the_same_vectors(folders: dict[str, Path], kind: str) -> None:
    """Batches of many sizes, one after the other: each has the vectors it has without graphs; no shape is recorded twice."""
    ours, recorder = acted_out(folders[kind], kind)
    expected = load(folders[kind], folders[kind].parent, dtype="float32", max_tokens=40, centre=False)
    long_then_short = ["the cat sat on the mat"], ["tea"]  # of one shape: what the first left is not read
    for some in (TEXTS, TEXTS[:1], TEXTS[1:4], TEXTS * 3, *long_then_short, TEXTS[::-1]):
        np.testing.assert_allclose(ours.encode(some), expected.encode(some), atol=1e-5)
    shapes = ours._engine._slice._recorded  # type: ignore[attr-defined]
    assert len(recorder.outputs) == len(shapes) < len(recorder.replayed)
    assert all(rows & (rows - 1) == 0 and width % graphs.WIDTH == 0 for rows, width in shapes)


def test_large_slices_are_not_recorded(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the most tokens a slice runs as ever, in its own shape."""
    assert graphs.shape_of(1, 1) == (1, 16)
    assert graphs.shape_of(3, 17) == (4, 32)
    assert graphs.shape_of(256, 16) == (256, 16)
    assert graphs.shape_of(257, 16) is graphs.shape_of(33, 128) is None
    monkeypatch.setattr(graphs, "MOST", 16)
    ours, recorder = acted_out(folders["bert"], "bert")
    expected = load(folders["bert"], folders["bert"].parent, dtype="float32", max_tokens=40, centre=False)
    np.testing.assert_allclose(ours.encode(TEXTS * 3), expected.encode(TEXTS * 3), atol=1e-5)
    assert {output.shape[0] for output in recorder.outputs} <= {1}


def test_a_model_that_cannot_be_recorded_is_refused(folders: dict[str, Path]) -> None:
    """The first slice is recorded when the model is loaded, and what the device says is told."""

    class Refusing:
        def record(self, run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
            raise RuntimeError("operation not permitted when stream is capturing")

    ours, _ = acted_out(folders["bert"], "bert")
    ours._engine._slice._recorder = Refusing()  # type: ignore[attr-defined]
    with pytest.raises(EncoderError, match="'mine' cannot be recorded as a CUDA graph, go without: operation not permitted"):
        padded.try_out(ours._engine, "mine")  # type: ignore[arg-type]


def test_graphs_are_of_gpus(folders: dict[str, Path], tmp_path: Path) -> None:
    """A GPU has a recorder where graphs are asked for; on a CPU asking does nothing."""
    made: list[torch.device] = []
    assert padded.place("cuda:1", lambda device: made.append(device) or Acted()).recorder is not None  # type: ignore[func-returns-value]
    assert made == [torch.device("cuda:1")]
    assert padded.place("cuda:1").recorder is padded.place("cpu", lambda device: Acted()).recorder is None
    encoder = load(folders["qwen3"], tmp_path, graphs=True)
    assert encoder._engine._at.recorder is None  # type: ignore[attr-defined]


def test_texts_are_put_in_lower_case_where_the_folder_says_so(folders: dict[str, Path], tmp_path: Path) -> None:
    """`do_lower_case` of sentence-transformers counts, whatever the tokenizer does, and is part of the id."""
    folder = shutil.copytree(folders["bert"], tmp_path / "lower")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 40, "do_lower_case": true}')
    lower, plain = load(folder, tmp_path, centre=False), load(folders["bert"], tmp_path, centre=False)
    np.testing.assert_array_equal(lower.encode(["COFFEE Beans"]), plain.encode(["coffee beans"]))
    assert abs(plain.encode(["COFFEE Beans"]) - plain.encode(["coffee beans"])).max() > 0.01
    assert "lower" in lower.id


def test_many_texts_take_several_calls_and_keep_their_order(folders: dict[str, Path], tmp_path: Path) -> None:
    """More texts than one call takes come back in order."""
    encoder = load(folders["bert"], tmp_path)
    texts = [" ".join(WORDS[4 + (i * 7 + j) % 19] for j in range(1 + i % 9)) for i in range(3 * compact.TEXTS + 5)]
    some = [0, 77, compact.TEXTS, 3 * compact.TEXTS + 4]
    np.testing.assert_allclose(encoder.encode(texts)[some], encoder.encode([texts[i] for i in some]), atol=1e-5)


def test_what_changes_vectors_changes_the_id(folders: dict[str, Path], tmp_path: Path) -> None:
    """Other weights, another pooling, another prefix or no centring: each is another id."""
    bert = folders["bert"]
    other = make_folder(tmp_path / "a" / bert.name, "bert", seed=1)
    pooled = shutil.copytree(bert, tmp_path / "b" / bert.name)
    pool_by(pooled, pooling_mode_cls_token=True)
    prompted = shutil.copytree(bert, tmp_path / "c" / bert.name)
    (prompted / "config_sentence_transformers.json").write_text('{"prompts": {"query": "tea "}}')
    ids = {load(folder, tmp_path).id for folder in (bert, other, pooled, prompted)} | {load(bert, tmp_path, centre=False).id}
    assert len(ids) == 5


def test_a_prefix_goes_before_every_text(folders: dict[str, Path], tmp_path: Path) -> None:
    """The folder's prompt is put before each text."""
    folder = shutil.copytree(folders["bert"], tmp_path / "prompted")
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "tea "}}')
    plain = load(folders["bert"], tmp_path, centre=False)
    prefixed = load(folder, tmp_path, centre=False)
    np.testing.assert_allclose(prefixed.encode(["news"]), plain.encode(["tea news"]), atol=1e-6)


def test_centring_takes_away_what_all_texts_share(folders: dict[str, Path], tmp_path: Path) -> None:
    """The centred vector is the raw one less the mean and the first direction of the centre's texts, normalised."""
    raw = load(folders["llama"], tmp_path, centre=False)
    centred = load(folders["llama"], tmp_path)
    of_all = raw.encode(centring.TEXTS.read_text("utf-8").splitlines())
    values, directions = np.linalg.eigh(np.cov(of_all.T))
    top = directions[:, values.argmax()]
    expected = raw.encode(TEXTS) - of_all.mean(0)
    expected = expected - np.outer(expected @ top, top)
    np.testing.assert_allclose(centred.encode(TEXTS), expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-4)


def pool_by(folder: Path, **modes: bool) -> None:
    """Write how sentence-transformers would pool."""
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 32, **modes}))


def refusal(folder: Path, cache: Path) -> str:
    """Return why a folder is refused."""
    with pytest.raises(EncoderError) as caught:
        load(folder, cache)
    return str(caught.value)


def test_what_cannot_be_computed_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """A pooling or a module that is not built in is an error, not a different vector."""
    pooled = shutil.copytree(folders["bert"], tmp_path / "max")
    pool_by(pooled, pooling_mode_max_tokens=True)
    assert "pools by max_tokens" in refusal(pooled, tmp_path)
    dense = shutil.copytree(folders["bert"], tmp_path / "dense")
    (dense / "modules.json").write_text('[{"type": "sentence_transformers.models.Dense"}]')
    assert "sentence_transformers.models.Dense" in refusal(dense, tmp_path)
    assert "encoder-decoder (t5)" in refusal(make_folder(tmp_path / "t5", "t5"), tmp_path)


def test_missing_weights_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """No weights, or a part of them: transformers would draw the rest at random."""
    from safetensors.torch import load_file, save_file

    empty = shutil.copytree(folders["bert"], tmp_path / "empty")
    (empty / "model.safetensors").unlink()
    assert "has no *.safetensors" in refusal(empty, tmp_path)
    part = shutil.copytree(folders["llama"], tmp_path / "part")
    tensors = load_file(part / "model.safetensors")
    del tensors["layers.1.mlp.up_proj.weight"]
    save_file(tensors, part / "model.safetensors", {"format": "pt"})
    assert "lacks 1 tensors, as layers.1.mlp.up_proj.weight" in refusal(part, tmp_path)


def test_vectors_that_are_not_finite_stop_the_batch(folders: dict[str, Path], tmp_path: Path) -> None:
    """A model that overflows is an error with the next step, never a NaN in an index."""
    encoder = load(folders["bert"], tmp_path)
    encoder._engine._embeddings[0][4] = float("nan")  # type: ignore[attr-defined]  # the word "the"
    with pytest.raises(FloatingPointError, match="set the dtype to float32"):
        encoder.encode(["the cat"])


class CountedCalls(TorchFunctionMode):
    """Count the calls of torch that Python makes: each one may let go of the GIL and has to wait for it again."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def calls_of_core(encoder: TransformerEncoder) -> int:
    """Return how many calls of torch one forward pass makes from Python."""
    batch = encoder.pre(TEXTS)
    with CountedCalls() as counted:
        encoder.core(batch)
    return counted.calls


def test_the_compact_forward_is_one_call_from_python(folders: dict[str, Path], tmp_path: Path) -> None:
    """Besides the compiled one, which is not counted, Python makes no call of torch; transformers makes over fifty."""
    ours = load(folders["bert"], tmp_path)
    how = recipe.read(folders["bert"], "bert")
    engine = padded.load(folders["bert"], "bert", how, "cpu", torch.float32)
    theirs = TransformerEncoder(engine, Tokenizer.from_file(str(folders["bert"] / "tokenizer.json")), "", 40)
    assert calls_of_core(ours) == 0
    assert calls_of_core(theirs) > 50


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    """A cache folder that cannot be made is an error that says so, not a traceback of the file system."""
    (tmp_path / "file").write_text("")
    with pytest.raises(encoders.EncoderError, match=r"cache folder .* cannot be written"):
        encoders.load(str(make_folder(tmp_path / "bert", "bert")), cache=tmp_path / "file" / "cache")
