"""The program `eyesel`: imports what it needs only when Ctrl-C is already answered as it should be."""

import sys


def main() -> None:
    try:
        from eyesel.cli import main as program

        program()
    except KeyboardInterrupt:
        sys.exit(130)  # what shells expect of it


if __name__ == "__main__":
    main()
