"""What settings describe: the encoder, and the Personalizer over an index and signals."""

from __future__ import annotations

import encoders
from encoders import Encoder, sentiment
from encoders.narrow import NarrowEncoder
from encoders.sentiment import SentimentHead
from ranking.index import ItemIndex
from ranking.lists import ListMaker
from ranking.profile import HalfLives
from ranking.signals import Signals, SignalSettings
from streams.makers import new_index, under
from streams.personalizer import Personalizer, Weights
from streams.pictures import with_images
from streams.settings import Settings

COMPACT = {"none": 1, "half": 2, "third": 3, "quarter": 4}  # what a vector's width is divided by


def load_encoder(settings: Settings) -> Encoder:
    """Return the encoder that the settings name, narrowed and with images as they ask. Raises EncoderError."""
    texts: Encoder = encoders.load(
        settings.encoder,
        device=settings.device,
        dtype=settings.dtype,
        max_tokens=settings.max_tokens,
        threads=settings.threads,
        graphs=settings.cuda_graphs,
        cache=settings.cache_dir,
    )
    if settings.compact != "none":
        texts = NarrowEncoder(texts, texts.dim // COMPACT[settings.compact])
    return texts if settings.images is None else with_images(texts, settings)


def build(encoder: Encoder, settings: Settings, index: ItemIndex | None = None, signals: Signals | None = None) -> Personalizer:
    """Return the Personalizer that the settings describe, over this index and these signals."""
    half_lives = HalfLives(
        long_s=settings.long_half_life_days * 86_400.0,
        short_s=settings.short_half_life_hours * 3_600.0,
        avoid_s=settings.avoid_half_life_days * 86_400.0,
        asked_s=settings.asked_half_life_hours * 3_600.0,
    )
    trend = SignalSettings(settings.trend_half_life_hours * 3_600.0, settings.popular_half_life_days * 86_400.0)
    index = index if index is not None else new_index(encoder, settings)
    maker = under(ListMaker(index, signals if signals is not None else Signals(trend), half_lives=half_lives), settings)
    return Personalizer(
        encoder,
        maker,
        weights_of(settings),
        settings.text_length,
        head_of(settings, encoder),
        settings.price_attribute,
        settings.currency_attribute,
    )


def head_of(settings: Settings, encoder: Encoder) -> SentimentHead | None:
    """Return the head that judges opinions, None where the cue words do. Raises HeadError."""
    if settings.sentiment is None:
        return None
    head = sentiment.load(settings.sentiment)
    head.check(encoder.id, encoder.dim)
    return head


def weights_of(settings: Settings) -> Weights:
    """Return what events weigh by the settings."""
    return Weights(settings.event_weights, settings.rating_scale, frozenset(settings.seen_types))
