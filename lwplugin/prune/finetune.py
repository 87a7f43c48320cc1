"""The fine-tuning options, under their former address."""

from lwplugin.training.finetune import FinetuneOptions, finetune, imitation, parent_loss

__all__ = ["FinetuneOptions", "finetune", "imitation", "parent_loss"]
