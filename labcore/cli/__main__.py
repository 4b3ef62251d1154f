"""The command line, as `python -m labcore.cli`."""

from labcore.cli.app import app

if __name__ == "__main__":
    app()
