"""`python -m lpx`."""

from lpx.cli.main import main

if __name__ == "__main__":
    main()
