"""`python -m blobex`: the command line."""

from blobex.cli.main import main

if __name__ == "__main__":
    main()
