"""Run the command line with `python -m aligncut_cli`."""

from aligncut_cli.cli import main

if __name__ == "__main__":
    main()
