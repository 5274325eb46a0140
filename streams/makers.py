"""Lists as settings ask for them: size, limits, rules, exploration, and the attributes that an index keeps for these."""

from __future__ import annotations

from dataclasses import replace

from encoders import Encoder
from ranking.business import BusinessRule
from ranking.explore import Explore
from ranking.index import ItemIndex
from ranking.lists import ListMaker
from ranking.rules import Rules
from streams import experiments, rulebook
from streams.settings import Settings


def new_index(encoder: Encoder, settings: Settings) -> ItemIndex:
    """Return an empty index for this encoder's vectors that keeps the attributes which the settings' rules ask for."""
    return ItemIndex(encoder.dim, encoder.id, kept_attributes(settings))


def kept_attributes(settings: Settings) -> tuple[str, ...]:
    """Return the names of the attributes that questions and rules ask for, those of an experiment's variants too."""
    experiment = experiments.of(settings)
    variants = experiment.variants if experiment is not None else ()
    each = [settings, *[variant.settings for variant in variants]]
    asked = (settings.price_attribute, settings.currency_attribute)
    return tuple(sorted({*asked, *rulebook.attributes_of([rule for own in each for rule in _rules(own)])}))


def _rules(settings: Settings) -> tuple[BusinessRule, ...]:
    return () if settings.rules is None else rulebook.read(settings.rules, settings.list_size)


def under(maker: ListMaker, settings: Settings) -> ListMaker:
    """Return a maker whose lists are as the settings ask for: of the size, limits, rules and exploration."""
    business = _rules(settings)
    maker.index.watch(rule.condition for rule in business)
    limits = Rules(
        size=settings.list_size,
        max_per_category=settings.max_per_category,
        diversity=settings.diversity,
        max_per_brand=settings.max_per_brand,
        by_likeness=settings.diversity_by == "likeness",
    )
    return replace(
        maker,
        rules=limits,
        candidates=settings.candidates,
        business=business,
        explore=Explore(settings.explore, settings.explore_days * 86_400.0, settings.explore_touches),
    )
