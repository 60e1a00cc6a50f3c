"""python3 -m gsd ARGUMENTS...: this Python with these arguments, under the loader that came with gsd where there is one."""
import os
import sys

from ._library import LIBRARIES, own_loader


def main():
    command = [sys.executable] + sys.argv[1:]
    if own_loader():
        command = [own_loader(), "--library-path", LIBRARIES] + command
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
