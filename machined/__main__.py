"""``machined``: the daemon. On a node s6 starts it (:mod:`machined.launch`); ``python -m machined`` does the same by hand."""

from machined.daemon import main

if __name__ == "__main__":
    main()
