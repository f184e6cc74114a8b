"""Lets `python -m pratai` be the same as `pratai`. Nothing else lives here."""

from pratai.cli.main import main

if __name__ == "__main__":
    main()
