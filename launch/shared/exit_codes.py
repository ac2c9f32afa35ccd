"""How a command's end is told to scripts; launch/guides/errors.md says what to do about each.

0 is done. training/failures/lost_peer.py has one more, LOST: that process cannot come back here.
"""

ERROR = 1  # what the sentence on stderr says; with a traceback it is a mistake in the code
SOME_FAILED = 3  # all that could be made is made; the output tells what could not
INTERRUPTED = 130  # what a shell reports for a process that ended on Ctrl-C
READER_GONE = 141  # and on SIGPIPE
TERMINATED = 143  # and on SIGTERM
