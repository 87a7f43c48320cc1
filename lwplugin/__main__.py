"""``python -m lwplugin``: the command line, where its script is not on the path."""

from lwplugin.cli import main

if __name__ == "__main__":
    main()
