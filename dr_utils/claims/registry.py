"""All claims of the paper by their id: texts from claims.yaml, and the rule of the same name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from dr_utils.claims import section2, section3, section4
from dr_utils.claims.estimates import Outcome
from dr_utils.claims.view import View


@dataclass(frozen=True)
class Claim:
    """One claim of the paper with the rule that judges it: `test` in code, `rule` in a sentence."""

    id: str
    figure: str
    statement: str
    published: str
    rule: str
    test: Callable[[View], Outcome]


def _claims() -> dict[str, Claim]:
    names, found = vars(section2) | vars(section3) | vars(section4), {}
    for name, texts in yaml.safe_load(Path(__file__).with_name("claims.yaml").read_text(encoding="utf-8")).items():
        rule, test = texts["rule"].format_map(names), names[name.lower()]
        found[name] = Claim(name, texts["figure"], texts["claim"], texts["published"], rule, test)
    return found


CLAIMS = _claims()
