"""`python -m lwplugin.agent`, and the start of the packed single file."""

from lwplugin.agent.program import main

if __name__ == "__main__":
    main()
