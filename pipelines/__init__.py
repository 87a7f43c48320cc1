"""From a recipe to a plan of steps, and the runners that carry a plan out."""
