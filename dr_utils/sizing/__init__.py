"""How many of these dimensions do I need? Of features, embeddings or any vectors, for a task of your own."""

from dr_utils.sizing.answer import Sizing, critical_mass

__all__ = ["Sizing", "critical_mass"]
