"""The built-in tasks, one file each; their names are listed in ``lwplugin.data.spec.TASKS``."""
