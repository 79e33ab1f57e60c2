"""``python -m edgeconv``: the ``edgeconv`` script, for where it is not on the path or several environments have one."""

from edgeconv.cli import main

if __name__ == "__main__":
    main()
