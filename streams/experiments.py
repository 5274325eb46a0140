"""An experiment as an operator writes it: a TOML file of `[[variants]]`, each with its share and what is different in it.

Does not make lists or split users. What a variant may change are the settings of lists, the model that ranks, and the weights
of the zero-shot one; profiles are shared by all, so what goes into them is nobody's own. docs/experiments.md shows a file.

    ExperimentError(ValueError)   an experiment cannot be used: one line for each thing to change, with the variant's name
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from ranking import split
from ranking.ranker import ZeroShot
from streams import rulebook
from streams.settings import Settings

ZERO_SHOT = ZeroShot().name
FEWEST = 2  # variants
# The settings that may differ: those of which one list is made. What is counted or folded is of all users.
OWN = (
    "list_size",
    "candidates",
    "max_per_category",
    "diversity",
    "diversity_by",
    "max_per_brand",
    "rules",
    "explore",
    "explore_days",
    "explore_touches",
)
WEIGHTS = tuple(field.name for field in fields(ZeroShot) if field.init)
SPELT = {
    "name": "1 to 64 letters, digits, dots, underscores or hyphens",
    "model": f"a version of `headrace model list`, or {ZERO_SHOT}",
}
STRICT = ConfigDict(extra="forbid")
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class ExperimentError(ValueError):
    """An experiment that cannot be used."""


@dataclass(frozen=True, slots=True)
class Variant:
    """What some users get. share: above 0, of any sum; settings: the installation's with the variant's own.

    model: a version, or "zero-shot"; None is the one in use. weights: of the zero-shot model, where it is that one.
    """

    name: str
    share: float
    settings: Settings
    model: str | None = None
    weights: ZeroShot | None = None


@dataclass(frozen=True, slots=True)
class Experiment:
    """Variants, each user having one of them."""

    name: str
    variants: tuple[Variant, ...]

    def variant_of(self, user_id: str) -> Variant:
        """Return the variant of a user."""
        chosen = split.choose(self.name, user_id, [(each.name, each.share) for each in self.variants])
        return next(each for each in self.variants if each.name == chosen)

    def label(self, variant: Variant) -> str:
        """Return what lists carry of a variant."""
        return f"{self.name}/{variant.name}"

    def __str__(self) -> str:
        total = math.fsum(each.share for each in self.variants)
        return ", ".join(f"{each.name} {each.share / total:.1%}" for each in self.variants)

    @property
    def models(self) -> frozenset[str]:
        """The versions that variants name."""
        return frozenset(each.model for each in self.variants if each.model not in (None, ZERO_SHOT) and each.model)


class _Experiment(BaseModel):
    """A file as it is written."""

    model_config = STRICT
    name: Name
    variants: list[dict[str, Any]]


def _optional(name: str) -> Any:
    """Return a setting's type and bounds, to be left out."""
    field = Settings.model_fields[name]
    own: Any = field.annotation
    for bound in field.metadata:
        own = Annotated[own, bound]
    return own, None


_fields: dict[str, Any] = {
    "name": (Name, ...),
    "share": (Annotated[float, Field(gt=0, allow_inf_nan=False)], ...),
    "model": (Annotated[str, Field(pattern=rf"^([0-9a-f]{{4,64}}|{ZERO_SHOT})$")], None),
    "weights": (create_model("_Weights", __config__=STRICT, **dict.fromkeys(WEIGHTS, cast(Any, (float, None)))), None),
    **{name: _optional(name) for name in OWN},
}
_Variant: type[BaseModel] = create_model("_Variant", __config__=STRICT, **_fields)


def of(settings: Settings) -> Experiment | None:
    """Return the experiment that the settings name. Raises ExperimentError."""
    return None if settings.experiment_file is None else read(settings.experiment_file, settings)


def read(path: Path, settings: Settings) -> Experiment:
    """Return the experiment of a file, over an installation's settings. Raises ExperimentError that tells all that is wrong."""
    try:
        written = _Experiment.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ExperimentError(f"{path} cannot be read ({error.strerror}): name a file with an experiment") from None
    except ValidationError as error:
        raise ExperimentError("\n".join(f"{path}: {line}" for line in _lines(error, _Experiment))) from None
    except ValueError as error:
        raise ExperimentError(f"{path} is no TOML: {error}") from None
    variants: list[Variant] = []
    wrong: list[str] = []
    for number, table in enumerate(written.variants, 1):
        where = f"{path}: variant {number} ({table.get('name', 'without a name')})"
        try:
            variants.append(_variant(table, path.parent, settings))
        except ValidationError as error:
            wrong += [f"{where}: {line}" for line in _lines(error, _Variant)]
        except ValueError as error:  # of its rules, or ours
            wrong += [f"{where}: {line}" for line in str(error).splitlines()]
    if wrong or (together := _together(variants)):
        raise ExperimentError("\n".join(wrong or [f"{path}: {together}"]))
    return Experiment(written.name, tuple(variants))


def _variant(table: Mapping[str, Any], folder: Path, settings: Settings) -> Variant:
    is_without = table.get("rules") == ""
    written = _Variant.model_validate({key: value for key, value in table.items() if not (key == "rules" and is_without)})
    given: dict[str, Any] = {name: getattr(written, name) for name in written.model_fields_set}
    own = {name: given[name] for name in OWN if name in given}
    if "rules" in own:
        own["rules"] = folder / own["rules"]
    if is_without:
        own["rules"] = None
    model, weights = given.get("model"), given.get("weights")
    if weights is not None and model != ZERO_SHOT:
        raise ExperimentError(f'`weights` are those of the zero-shot model: give model = "{ZERO_SHOT}" with them')
    changed = settings.model_copy(update=own)
    if changed.rules is not None:
        rulebook.read(changed.rules, changed.list_size)
    zero_shot = ZeroShot(**(weights.model_dump(exclude_unset=True) if weights is not None else {}))
    if not (zero_shot.temperature > 0 and all(math.isfinite(getattr(zero_shot, name)) for name in WEIGHTS)):
        raise ExperimentError("`weights` are finite numbers, `temperature` above 0")
    return Variant(given["name"], given["share"], changed, model, zero_shot if model == ZERO_SHOT else None)


def _together(variants: list[Variant]) -> str:
    """Return what is wrong with variants that are right one by one, "" where nothing is."""
    if len(variants) < FEWEST:
        return f"it has {len(variants)} variants: give two or more, each beginning with a line [[variants]]"
    names = [each.name for each in variants]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        return f"two variants are called {', '.join(doubled)}: give each a name of its own, since lists tell it"
    total = math.fsum(each.share for each in variants)
    if not any(math.isclose(total, whole, rel_tol=1e-6) for whole in (1.0, 100.0)):
        return f"the shares sum to {total:g}: have them sum to 1, or to 100"
    return ""


def _lines(error: ValidationError, kind: type[BaseModel]) -> list[str]:
    """Return what pydantic says of a table, with what to do."""
    lines = []
    for problem in error.errors():
        where, reason = ".".join(map(str, problem["loc"])), problem["msg"]
        if problem["type"] == "extra_forbidden":
            known = list(WEIGHTS if len(problem["loc"]) > 1 else kind.model_fields)
            near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.0)[0]
            lines.append(f"`{where}` is nothing that can be given here: did you mean `{near}`? There are {', '.join(known)}")
        elif problem["type"] == "missing":
            lines.append(f"it has no `{where}`: give it one")
        elif problem["type"] == "string_pattern_mismatch":
            lines.append(f"`{where}` is {problem['input']!r}: give {SPELT[where]}")
        else:
            lines.append(f"`{where}` is {problem['input']!r}: {reason[0].lower()}{reason[1:]}")
    return lines
