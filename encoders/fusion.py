"""Images in the space of texts: a projection of image features, and a gate that says how much of an image an item takes.

`fit` learns both from items that have a text and an image; the folder holds them with the id of the text encoder. Knows
features and vectors, no items and no files of images.

- The projection is a ridge regression from features to text vectors, in closed form.
- The gate is a logistic of four numbers: a constant, the cosine of text and projected image, how far the projection is from the
  mean (a ridge says little of an image that is like nothing it was fitted on), and the logarithm of the text's words.
- Both are chosen by what an image is for: to be found by words that the item's text lacks. Each text is dealt into two halves;
  one half, or what is left of it when words are taken out, is the item's, the other asks, and the right answer is the item.
- What is chosen (ridge, gate) is judged on images that the projection has not seen (four folds), what is reported on a fifth of
  the items that nothing has seen. The projection of the folder is fitted on all of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders import EncoderError, Progress, Vectors
from encoders.image import Features

FORMAT = 1
HEAD, TENSORS = "fusion.json", "fusion.safetensors"
LEAST_ITEMS = 60
FOLDS = 4
REPORTED = 0.2  # of the items, kept for the figures
RIDGES = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # times the mean variance of a feature
KEPT = (0.0, 0.15, 0.5, 1.0)  # shares of an item's half that are left, in turn; 0 keeps one word
TEMPERATURE = 0.05  # of the gate's loss, in cosines
STEPS = 300
SUPPORT = 0.01  # of the gate's weights, squared, in its loss: few items decide little
_PIECE = re.compile(r"[぀-ヿ㐀-鿿豈-﫿]{1,2}|\w+")

Encode = Callable[[Sequence[str]], Vectors]


class FusionError(EncoderError):
    """A fusion that cannot be trained or used: says the next step."""


@dataclass(frozen=True)
class Fusion:
    """A projection and a gate. encoder, images: ids of what the two sides' vectors are of.

    mean: (width,), of the features; weight: (width, dim) and bias: (dim,), from features to text vectors; gate: (4,).
    report: figures of the training.
    """

    encoder: str
    images: str
    mean: NDArray[np.float32]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    gate: NDArray[np.float32]
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """Eight hexadecimal digits that change with what the fusion does."""
        digest = blake2b(f"{self.encoder} {self.images}".encode(), digest_size=4)
        for tensor in (self.mean, self.weight, self.bias, self.gate):
            digest.update(np.asarray(tensor, "<f4", order="C").tobytes())
        return digest.hexdigest()

    def project(self, features: Features) -> tuple[Vectors, NDArray[np.float32]]:
        """Return the images' vectors, (n, dim) unit rows in the space of texts, and how far each is from the mean, (n,)."""
        away = np.asarray((_unit(features) - self.mean) @ self.weight, np.float32)
        return _unit(away + self.bias), np.linalg.norm(away, axis=1)

    def shares(
        self, texts: Vectors, words: NDArray[np.float32], images: Vectors, away: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return how much of its image each item takes, (n,), 0-1. words: (n,), of `words_of` the texts."""
        level = np.clip(_signs(texts, words, images, away) @ self.gate, -30.0, 30.0)
        return np.asarray(1.0 / (1.0 + np.exp(-level)), np.float32)

    def fuse(self, texts: Vectors, words: NDArray[np.float32], features: Features, alone: NDArray[np.bool_]) -> Vectors:
        """Return n items' vectors, (n, dim) unit rows: text and image by the gate; the image's where `alone`, (n,), says so."""
        images, away = self.project(features)
        share = np.where(alone, np.float32(1), self.shares(texts, words, images, away))[:, None]
        return _unit(texts + share * (images - texts))


def words_of(texts: Sequence[str]) -> NDArray[np.float32]:
    """Return how many words each text has, (n,); of scripts without blanks two characters are one."""
    return np.array([len(_PIECE.findall(text)) for text in texts], np.float32)


def fit(
    texts: Sequence[str],
    features: Features,
    encode: Encode,
    *,
    encoder: str,
    images: str,
    seed: int = 1,
    progress: Progress | None = None,
) -> Fusion:
    """Learn a fusion from n items' texts and (n, width) features. Raises FusionError for fewer than LEAST_ITEMS."""
    if len(texts) < LEAST_ITEMS:
        raise FusionError(f"{len(texts)} items have a text and a readable image, {LEAST_ITEMS} are needed: give more of them")
    tell = progress or (lambda line: None)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(texts))
    shown, known = np.split(order, [int(REPORTED * len(order))])
    tell(f"encoding the texts of {len(texts)} items, whole and in halves")
    pairs = list(_dealt(texts, rng))
    whole, asked = encode(texts), encode([ask for _, ask in pairs])
    halves = [_less(own, share, rng) for (own, _), share in zip(pairs, np.resize(KEPT, len(pairs)), strict=True)]
    lesser, words = encode(halves), words_of(halves)

    tell("choosing the ridge")
    found = {ridge: _held_out(features[known], whole[known], ridge) for ridge in RIDGES}
    ridge = max(RIDGES, key=lambda each: float(_reciprocal(found[each][0], asked[known]).mean()))
    tell(f"ridge {ridge:g}; fitting the gate")
    gate = _gate(lesser[known], words[known], *found[ridge], asked[known])

    judged = _made(encoder, images, features[known], whole[known], ridge, gate)
    report = _report(judged, features[shown], lesser[shown], words[shown], asked[shown])
    made = _made(encoder, images, features, whole, ridge, gate)
    return Fusion(**{**vars(made), "report": {"items": len(texts), "ridge": ridge, "seed": seed, **report}})


def _made(encoder: str, images: str, features: Features, vectors: Vectors, ridge: float, gate: NDArray[np.float32]) -> Fusion:
    return Fusion(encoder, images, *_ridge(_unit(features), vectors, ridge), gate)


def _ridge(
    rows: NDArray[np.float32], vectors: Vectors, ridge: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return mean, weight and bias of the regression of (n, dim) vectors on (n, width) rows."""
    mean, bias = rows.mean(0), vectors.mean(0)
    x = (rows - mean).astype(np.float64)
    square = x.T @ x
    square.flat[:: len(square) + 1] += ridge * len(rows) * float(x.var(0).mean())
    weight = np.linalg.solve(square, x.T @ (vectors - bias))
    return mean, weight.astype(np.float32), bias


def _held_out(features: Features, vectors: Vectors, ridge: float) -> tuple[Vectors, NDArray[np.float32]]:
    """Return what `Fusion.project` does of each image, by a projection that was fitted without it."""
    found, away = np.zeros_like(vectors), np.zeros(len(vectors), np.float32)
    for fold in range(FOLDS):
        out = np.arange(len(vectors)) % FOLDS == fold
        part = _made("", "", features[~out], vectors[~out], ridge, np.zeros(4, np.float32))
        found[out], away[out] = part.project(features[out])
    return found, away


def _gate(
    texts: Vectors, words: NDArray[np.float32], images: Vectors, away: NDArray[np.float32], asked: Vectors
) -> NDArray[np.float32]:
    """Return the gate's weights, (4,), by which askers find their items among all others best (cross-entropy, full batches)."""
    import torch

    signs = torch.from_numpy(_signs(texts, words, images, away))
    centre, spread = signs[:, 1:].mean(0), signs[:, 1:].std(0) + 1e-6
    level = torch.cat([signs[:, :1], (signs[:, 1:] - centre) / spread], 1)
    text, image, ask = (torch.from_numpy(np.ascontiguousarray(each)) for each in (texts, images, asked))
    weights = torch.zeros(4, requires_grad=True)
    optimiser = torch.optim.Adam([weights], 0.05)
    right = torch.arange(len(ask))
    for _ in range(STEPS):
        share = torch.sigmoid(level @ weights)[:, None]
        items = torch.nn.functional.normalize((1 - share) * text + share * image)
        loss = torch.nn.functional.cross_entropy(ask @ items.T / TEMPERATURE, right) + SUPPORT * (weights[1:] ** 2).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    plain = weights.detach()[1:] / spread
    return torch.cat([weights.detach()[:1] - (plain * centre).sum(), plain]).numpy()


def _signs(texts: Vectors, words: NDArray[np.float32], images: Vectors, away: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what the gate looks at, (n, 4)."""
    cosines = np.einsum("nd,nd->n", texts, images)
    return np.stack([np.ones(len(texts)), cosines, away, np.log1p(words)], 1).astype(np.float32)


def _dealt(texts: Sequence[str], rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Yield each text dealt into two halves, the words of each in their order; both are the text where it has one word."""
    for text in texts:
        pieces = _PIECE.findall(text)
        if len(pieces) < 2:
            yield text, text
            continue
        own = np.zeros(len(pieces), np.bool_)
        own[rng.permutation(len(pieces))[: len(pieces) // 2]] = True
        yield tuple(
            " ".join(piece for piece, is_own in zip(pieces, own, strict=True) if is_own == side) for side in (True, False)
        )  # type: ignore[misc]


def _less(text: str, share: float, rng: np.random.Generator) -> str:
    """Return a text with a share of its words left, one at least."""
    pieces = _PIECE.findall(text)
    kept = sorted(rng.permutation(len(pieces))[: max(1, round(share * len(pieces)))])
    return " ".join(pieces[place] for place in kept) or text


def _report(fusion: Fusion, features: Features, texts: Vectors, words: NDArray[np.float32], asked: Vectors) -> dict[str, Any]:
    """Return how often each way of making the items' vectors has the asked item first, and its mean reciprocal rank."""
    nobody = np.zeros(len(texts), np.bool_)
    images, away = fusion.project(features)
    ways = {"text": texts, "image": images, "both": fusion.fuse(texts, words, features, nobody)}
    ranks = {name: _reciprocal(vectors, asked) for name, vectors in ways.items()}
    return {
        "held_out": len(texts),
        "share": round(float(fusion.shares(texts, words, images, away).mean()), 3),
        "top1": {name: round(float((each == 1.0).mean()), 4) for name, each in ranks.items()},
        "mrr": {name: round(float(each.mean()), 4) for name, each in ranks.items()},
    }


def _reciprocal(vectors: Vectors, asked: Vectors) -> NDArray[np.float64]:
    """Return 1 / rank of row n of `vectors` for row n of `asked`, (n,)."""
    found = np.zeros(len(asked))
    for start in range(0, len(asked), 1_000):
        scores = asked[start : start + 1_000] @ vectors.T
        own = scores[np.arange(len(scores)), start + np.arange(len(scores))]
        found[start : start + 1_000] = 1.0 / (1 + (scores > own[:, None]).sum(1))
    return found


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norms > 0.0, norms, 1.0), np.float32)


def save(fusion: Fusion, folder: Path) -> None:
    """Write a fusion into a folder, which is made."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    head = {
        "format": FORMAT,
        "version": fusion.version,
        "encoder": fusion.encoder,
        "images": fusion.images,
        "report": fusion.report,
    }
    tensors = {name: np.ascontiguousarray(getattr(fusion, name), np.float32) for name in ("mean", "weight", "bias", "gate")}
    save_file(tensors, folder / TENSORS)
    (folder / HEAD).write_text(json.dumps(head, indent=1, sort_keys=True), "utf-8")


def load(folder: Path) -> Fusion:
    """Read a fusion. Raises FusionError for one that is not there, damaged or of a newer format."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        head = json.loads((folder / HEAD).read_text("utf-8"))
        if head["format"] > FORMAT:
            raise FusionError(f"{folder} has format {head['format']}, this version reads up to {FORMAT}: upgrade headrace")
        fusion = Fusion(head["encoder"], head["images"], **load_file(folder / TENSORS), report=head["report"])
        version = head["version"]
    except OSError as error:
        raise FusionError(
            f"{folder} is no fusion of images ({error.strerror}): give the --out of `headrace images train`"
        ) from None
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        if isinstance(error, FusionError):
            raise
        raise FusionError(f"{folder} cannot be read ({type(error).__name__}: {error}): train it again") from None
    if fusion.version != version:
        raise FusionError(f"{folder} is not what its version {version} says, a part is damaged: train it again")
    return fusion
