"""The small-network zoo: adversarial, Matryoshka, narrow and differently shaped networks for 32 x 32 images.

The paper compares networks that no package registry carries; these are their small counterparts, trained by the
suite itself on Tiny-ImageNet: ``python -m dr_utils.zoo train all --data DIR``.
"""

from dr_utils.zoo.recipes import RECIPES, Recipe, find_recipe

__all__ = ["RECIPES", "Recipe", "find_recipe"]
