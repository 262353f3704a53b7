"""`python -m kctl` is kctl."""

from kctl.cli import main

if __name__ == "__main__":
    main()
