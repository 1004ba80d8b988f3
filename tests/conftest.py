"""Before every suite: interrupts and hang-ups reach the programs that the tests start.

A suite in the background of a shell script, or under nohup, begins with SIGINT or SIGHUP ignored, and a program inherits
that: atom keeps a SIGHUP that is ignored so, and Python then raises no KeyboardInterrupt.
"""
import signal

for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)
