"""Whether a text speaks well or ill of what it is about, from its vector: a logistic head over an encoder that stays as it is.

Knows no events, ratings or files of reviews. A head is one safetensors file, with what it is of as JSON in the file's own head;
vectors of another encoder mean nothing to it. Light to import: scikit-learn loads when a head is trained.

    HeadError(EncoderError)   a file that is no head, one of another encoder, or texts that none can be trained on
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders import EncoderError, Vectors

FORMAT = 1
LEAST = 20  # texts of each kind that a head is trained on, at least
DEADBAND = 0.1  # an opinion nearer to 0 than this says neither
# Of which the inverse of the regularisation is chosen: the lowest within a standard error of the best, as in Breiman (1984).
# On other languages than that of the texts the low ones are the better: AUC .88 at 1, .80 at 100, where English loses .01.
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
FOLDS = 4

Numbers = NDArray[np.float32]


class HeadError(EncoderError):
    """A head that cannot be had or used: says the next step."""


@dataclass(frozen=True)
class SentimentHead:
    """weights: (dim,) float32; encoder: the id of the encoder whose vectors it reads; report: how it was made."""

    encoder: str
    weights: Numbers
    bias: float
    report: dict[str, Any] = field(default_factory=dict)

    def probability(self, vectors: Vectors) -> Numbers:
        """Return how probable it is that each text speaks well, (n,) in (0, 1). vectors: (n, dim), the encoder's own."""
        logit = vectors @ self.weights + np.float32(self.bias)
        chance: Numbers = 1.0 / (1.0 + np.exp(-np.clip(logit, -30.0, 30.0)))
        return chance

    def opinions(self, vectors: Vectors) -> Numbers:
        """Return the sign and strength of what each text says, (n,) in [-1, 1]: 2p - 1, and 0 within DEADBAND of the middle."""
        opinion = 2.0 * self.probability(vectors) - 1.0
        told: Numbers = np.where(np.abs(opinion) < DEADBAND, np.float32(0.0), opinion)
        return told

    def check(self, encoder_id: str, dim: int) -> None:
        """Raise HeadError when it was trained on another encoder's vectors."""
        if (self.encoder, len(self.weights)) != (encoder_id, dim):
            raise HeadError(
                f"the sentiment head was trained on vectors of {self.encoder} ({len(self.weights)} dims), not of {encoder_id} "
                f"({dim} dims): train one with `headrace sentiment train`, or set HEADRACE_SENTIMENT empty"
            )


def fit(vectors: Vectors, is_good: NDArray[np.bool_], encoder_id: str, report: dict[str, Any] | None = None) -> SentimentHead:
    """Return the head that tells good texts from bad ones best, both kinds counting alike however many there are of each.

    vectors: (n, dim) unit rows; is_good: (n,). Folds choose the regularisation, and stretch the chances to
    what they are worth (Platt, 1999). Raises HeadError.
    """
    good = int(is_good.sum())
    if min(good, len(is_good) - good) < LEAST:
        raise HeadError(
            f"{good} good texts and {len(is_good) - good} bad ones: give at least {LEAST} of each, better some thousand"
        )
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict, cross_val_score

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    models = [LogisticRegression(C=strength, class_weight="balanced", max_iter=1_000) for strength in STRENGTHS]
    each = [cross_val_score(model, vectors, is_good, cv=folds, scoring="roc_auc") for model in models]
    best = int(np.argmax([scores.mean() for scores in each]))
    enough = each[best].mean() - each[best].std() / np.sqrt(FOLDS)
    model = next(model for model, scores in zip(models, each, strict=True) if scores.mean() >= enough)
    # A held back model's chances all lie near a half: a second fit, over what the folds said, stretches them.
    told = cross_val_predict(model, vectors, is_good, cv=folds, method="decision_function")
    spread = float(told.std())
    stretch = LogisticRegression(class_weight="balanced").fit(told[:, None] / spread, is_good)
    model.fit(vectors, is_good)
    slope = float(stretch.coef_[0, 0]) / spread
    bias = slope * float(model.intercept_[0]) + float(stretch.intercept_[0])
    made = {"good": good, "bad": len(is_good) - good, "strength": model.C, **(report or {})}
    return SentimentHead(encoder_id, (slope * model.coef_[0]).astype(np.float32), bias, made)


def save(head: SentimentHead, path: Path) -> None:
    """Write a head into one file. Raises HeadError."""
    from safetensors.numpy import save as pack

    said = {"format": FORMAT, "encoder": head.encoder, "bias": head.bias, "report": head.report}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pack({"weights": head.weights}, {"sentiment": json.dumps(said, sort_keys=True)}))
    except OSError as error:
        raise HeadError(f"{path} cannot be written ({error.strerror}): give another --out") from None


def load(path: Path) -> SentimentHead:
    """Read a head. Raises HeadError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            said = json.loads((file.metadata() or {})["sentiment"])
            weights = file.get_tensor("weights")
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise HeadError(
            f"{path} is no sentiment head ({type(error).__name__}: {error}): give the --out of `headrace sentiment train`"
        ) from None
    if said["format"] > FORMAT:
        raise HeadError(f"{path} has format {said['format']}, this version reads up to {FORMAT}: upgrade headrace")
    return SentimentHead(said["encoder"], weights, said["bias"], said["report"])
