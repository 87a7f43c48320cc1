"""The program on a board or node that measures for others: `python -m lwplugin.agent`.

Imports the standard library, numpy and, in workers, the runtimes; see README.md.
"""
