"""The small networks: adversarial, Matryoshka, narrow and differently shaped ones, for 32 x 32 images.

The paper compares networks for which no package registry has weights. These are their small counterparts, trained on
Tiny-ImageNet: ``python -m dr_utils.zoo train all --data DIR``. This package trains and measures them; their
architectures, weights and cards are part of `dr_utils.models`.
"""

from dr_utils.zoo.recipes import RECIPES, Recipe, find_recipe

__all__ = ["RECIPES", "Recipe", "find_recipe"]
