"""`neuron-store`, and `python -m neuron_store.cli` for where that script is not on PATH."""

import sys


def main() -> None:
    """Run the command line. Ctrl-C before it is there ends as it does later."""
    if sys.argv[1:2] == ["complete-words"]:  # from a Tab: the rest of the program would take too long to import
        from neuron_store.cli.completing import main as complete

        complete(sys.argv[2:])
        return
    try:
        from neuron_store.cli.main import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
