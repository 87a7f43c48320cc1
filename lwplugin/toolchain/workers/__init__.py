"""Scripts that toolchains run in their own Python; they import nothing of lwplugin."""
